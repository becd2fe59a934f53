"""A quant is measured, widened where it must be, and refused where it cannot be saved."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from tests.support.checkpoints import MINI, write_checkpoint
from tests.support.few_texts import write_few_texts

from q3_export import export_model
from q3_export.recipes import RECIPES
from q3_runtime.manifest import Manifest

POISON = """
import sys
from q3_export.binding import Changes
from q3_export.cli import main
right = Changes.apply
def poisoned(self, name, tensor, first_row=0):
    tensor = right(self, name, tensor, first_row)
    return tensor.flip(0) if name == "layers.2.self_attn.v_proj.weight" else tensor
Changes.apply = poisoned
sys.exit(main(sys.argv[1:]))
"""
"""Runs q3-export with the rows of one weight in the wrong order, in whatever format it is stored."""


@pytest.fixture(scope="module")
def healthy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As sensitive to 4 bits as published weights are."""
    return write_checkpoint(tmp_path_factory.mktemp("healthy") / "Mini-Random", MINI, embedding_std=1.5)


@pytest.fixture(scope="module")
def sensitive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small embedding scale beside what the layers write: every rounding is amplified."""
    return write_checkpoint(tmp_path_factory.mktemp("sensitive") / "Mini-Sensitive", MINI, embedding_std=0.2)


@pytest.fixture(scope="module")
def few(healthy: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Options that name few short texts."""
    return write_few_texts(healthy, tmp_path_factory.mktemp("few"))


def test_a_poisoned_weight_ends_in_exit_code_4_names_the_worst_probes_and_leaves_nothing(
    healthy: Path, few: list[str], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    done = subprocess.run(
        [sys.executable, "-c", POISON, "--model", str(healthy), "--quant", "q8", "--out", str(out), "--json", *few],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 4, done.stderr
    message = json.loads(done.stderr)["error"]["message"]
    assert "worst: probe" in message
    assert "cosine" in message
    assert not list(tmp_path.iterdir())


def test_linears_are_widened_until_the_floor_holds_and_the_folder_says_which(sensitive: Path, tmp_path: Path) -> None:
    entry = Manifest.read(export_model(sensitive, quant="q4", out=tmp_path / "out")).quants["q4"]
    rounds = entry.recipe["rounds"]
    assert rounds[0]["kept_wider"] == 0
    assert rounds[0]["mean"] < 0.97 or rounds[0]["min"] < 0.95
    assert len(rounds) > 1
    assert rounds[-1]["kept_wider"] == len(entry.kept_wider) > 0
    assert (entry.fidelity["mean"], entry.fidelity["min"]) == (rounds[-1]["mean"], rounds[-1]["min"])
    assert entry.fidelity["mean"] >= 0.97
    assert entry.fidelity["min"] >= 0.95
    assert all(name.startswith("layers.") and name.endswith("_proj") for name in entry.kept_wider)


def test_four_quants_in_one_call_are_of_the_sizes_their_bits_promise(healthy: Path, tmp_path: Path) -> None:
    folder = export_model(healthy, quant="int8,q8,q4,q4f16", out=tmp_path / "out")
    manifest = Manifest.read(folder)
    linears = 6 * (256 * 256 * 2 + 256 * 128 * 2 + 3 * 256 * 768)
    table = 4005 * 256
    weights = {"int8": linears, "q8": linears * 9 / 8, "q4": linears * 5 / 8, "q4f16": linears * 4.5 / 8}
    for name, entry in manifest.quants.items():
        wider = 0 if not entry.kept_wider else linears
        graph = (folder / entry.onnx_file).stat().st_size
        assert entry.total_bytes - graph <= weights[name] + table * 8.25 / 8 + 80_000 + wider, name
        assert entry.recipe["linears"] == RECIPES[name].linears.describe()
        floor = RECIPES[name].quant.floor()
        assert entry.fidelity["mean"] >= floor.get("mean", 0)
        assert entry.fidelity["min"] >= floor["min"]
        assert entry.fidelity["batch_invariance"] >= 0.9999


def test_without_verification_nothing_is_widened_or_claimed(healthy: Path, tmp_path: Path) -> None:
    entry = Manifest.read(export_model(healthy, quant="int8", out=tmp_path / "out", no_verify=True)).quants["int8"]
    assert entry.fidelity is None
    assert entry.kept_wider == []
    assert "rounds" not in entry.recipe
