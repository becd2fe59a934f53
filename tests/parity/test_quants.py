"""Every quant at its floor on a model that learned something, healthy and with the outliers of the published weights."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from tests.conftest import ROOT
from tests.support import onnxruntime_quantizers
from tests.support.invariance import worst_cosine
from tests.support.outliers import GAMMA_OF_MINI, is_evidence, make_outliers

from q3_export import export_model
from q3_runtime import Embedder
from q3_runtime.manifest import Manifest
from q3_runtime.quants import MAX_BATCH_DELTA

QUANTS = ("int8", "q8", "q4", "q4f16")
SMALL = ("int8", "q8", "q4")
INT8_TARGET = {"mean": 0.995, "min": 0.99}
BATCHES = 500
TEXTS = [
    text
    for number, line in enumerate((ROOT / "export/q3_export/data/probes.jsonl").read_text("utf-8").splitlines())
    for text in (json.loads(line)["text"][: 3 + 2 * (number % 10)],)
    if len(text.encode()) <= 32
]
"""Of all languages and kinds, 3 to 21 characters of each, and no long ones, which all others would be padded to."""


@pytest.fixture(scope="module")
def outliers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """mini with outliers, with which quantize_dynamic breaks as it does on the published weights."""
    target = tmp_path_factory.mktemp("outliers") / "Mini-Outliers"
    return make_outliers(ROOT / "models/mini", target, gamma=GAMMA_OF_MINI)


@pytest.fixture(scope="module")
def rough(outliers: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The export of it."""
    return export_model(outliers, quant=("fp32", *QUANTS), out=tmp_path_factory.mktemp("rough") / "rough-onnx")


@pytest.fixture(scope="module")
def naive(rough: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same through onnxruntime's quantize_dynamic: one scale per tensor."""
    return onnxruntime_quantizers.requantize(rough, tmp_path_factory.mktemp("naive") / "naive", onnxruntime_quantizers.dynamic)


@pytest.mark.parametrize("which", ["mini_folder", "rough"])
def test_every_quant_is_at_its_floor(which: str, request: pytest.FixtureRequest) -> None:
    for name, entry in Manifest.read(request.getfixturevalue(which)).quants.items():
        assert entry.fidelity["min"] >= entry.fidelity["floor"]["min"], name
        assert entry.fidelity["mean"] >= entry.fidelity["floor"].get("mean", 0), name
        assert "floor_lowered" not in entry.fidelity


@pytest.mark.parametrize("which", ["mini_folder", "rough"])
def test_int8_is_well_above_it(which: str, request: pytest.FixtureRequest) -> None:
    figures = Manifest.read(request.getfixturevalue(which)).quants["int8"].fidelity
    assert figures["mean"] >= INT8_TARGET["mean"]
    assert figures["min"] >= INT8_TARGET["min"]


def test_quantize_dynamic_fails_where_ours_hold(rough: Path, naive: Path, tmp_path: Path) -> None:
    """And blocks of 8 bits, rounded to nearest by onnxruntime, do not: else the checkpoint would be no evidence."""
    blocks = onnxruntime_quantizers.requantize(rough, tmp_path / "blocks", onnxruntime_quantizers.blocks(8))
    assert is_evidence(onnxruntime_quantizers.figures(naive), onnxruntime_quantizers.figures(blocks))


@pytest.mark.parametrize("name", SMALL)
def test_a_text_does_not_depend_on_its_batch(mini_folder: Path, name: str) -> None:
    with Embedder(mini_folder, quant=name) as model:
        assert worst_cosine(model, TEXTS, BATCHES) >= 0.9999


@pytest.mark.parametrize("name", SMALL)
def test_no_text_depends_on_longer_ones_beside_it(rough: Path, name: str) -> None:
    """Tiled and plain attention differ in bits, of which 8-bit activations make 1e-3: each text has the same one always."""
    rows = [np.random.default_rng(length).integers(0, 3900, length) for length in (40, 300, 512, 513, 600)]
    with Embedder(rough, quant=name) as model:
        alone = np.concatenate([model.run([row]) for row in rows])
        assert np.abs(model.run(rows) - alone).max() <= MAX_BATCH_DELTA


def test_with_quantize_dynamic_it_does(naive: Path) -> None:
    with Embedder(naive, quant="fp32", self_check=False, check_hashes=False) as model:
        assert worst_cosine(model, TEXTS, 20) < 0.9999


def test_a_folder_of_foreign_hands_is_caught(rough: Path, naive: Path, tmp_path: Path) -> None:
    """A naive graph put in the place of ours does not pass the folder's own proof."""
    from q3_runtime.errors import IntegrityError

    forged = shutil.copytree(rough, tmp_path / "forged")
    shutil.copy(naive / onnxruntime_quantizers.GRAPH, forged / onnxruntime_quantizers.GRAPH)
    with pytest.raises(IntegrityError):
        Embedder(forged, quant="fp32")
