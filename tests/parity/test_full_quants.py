"""The quants at the full shape of 0.6B: healthy, and with the outliers of the published weights."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tests.conftest import ROOT, SHARED
from tests.parity.test_quants import INT8_TARGET, SMALL, TEXTS
from tests.support import onnxruntime_quantizers
from tests.support.checkpoints import write_full_checkpoint
from tests.support.invariance import worst_cosine
from tests.support.outliers import make_outliers

from q3_export import export_model
from q3_runtime import Embedder
from q3_runtime.manifest import Manifest

pytestmark = pytest.mark.full("quant")
GAMMA = 4
MAX_BYTES = {"int8": 650_000_000, "q8": 720_000_000, "q4": 460_000_000}


@pytest.fixture(scope="module")
def healthy(real_tokenizer: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights at the full shape."""
    return write_full_checkpoint("0.6B", tmp_path_factory.mktemp("full"), SHARED)


@pytest.fixture(scope="module")
def smooth(healthy: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its export."""
    return export_model(healthy, quant=SMALL, out=tmp_path_factory.mktemp("smooth") / "onnx", progress=True)


@pytest.fixture(scope="module")
def rough(healthy: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The export of the same with outliers, with fp32 for onnxruntime's quantizer."""
    home = tmp_path_factory.mktemp("rough")
    outliers = make_outliers(healthy, home / "outliers", gamma=GAMMA)
    folder = export_model(outliers, quant=("fp32", *SMALL), out=home / "onnx", progress=True)
    shutil.rmtree(outliers)
    return folder


@pytest.mark.parametrize("which", ["smooth", "rough"])
def test_every_quant_is_at_its_floor_and_int8_above_it(which: str, request: pytest.FixtureRequest) -> None:
    quants = Manifest.read(request.getfixturevalue(which)).quants
    for name in SMALL:
        figures = quants[name].fidelity
        print(which, name, figures["mean"], figures["min"], len(quants[name].kept_wider), quants[name].total_bytes)
        assert figures["min"] >= figures["floor"]["min"]
        assert figures["mean"] >= figures["floor"].get("mean", 0)
    assert all(quants["int8"].fidelity[key] >= goal for key, goal in INT8_TARGET.items())


def test_they_are_as_small_as_promised(smooth: Path) -> None:
    sizes = {name: entry.total_bytes for name, entry in Manifest.read(smooth).quants.items()}
    assert all(sizes[name] <= limit for name, limit in MAX_BYTES.items()), sizes


@pytest.mark.parametrize("name", SMALL)
def test_a_text_does_not_depend_on_its_batch(smooth: Path, name: str) -> None:
    with Embedder(smooth, quant=name) as model:
        assert worst_cosine(model, TEXTS[:40], 20) >= 0.9999


def test_quantize_dynamic_fails_where_ours_hold(rough: Path, tmp_path: Path) -> None:
    naive = onnxruntime_quantizers.requantize(rough, tmp_path / "naive", onnxruntime_quantizers.dynamic)
    figures = onnxruntime_quantizers.figures(naive)
    print(figures)
    assert figures.mean <= 0.87
    assert figures.min <= 0.80


def test_a_cpu_without_vnni_gives_the_right_vectors(mini_folder: Path, tmp_path: Path) -> None:
    """Debian's qemu-user as a Haswell: AVX2, and 8-bit sums that saturate."""
    emulator = shutil.which("qemu-x86_64")
    assert emulator, "type: apt-get install qemu-user"
    texts, out = TEXTS[:8], tmp_path / "vectors.npy"
    command = [emulator, "-cpu", "Haswell", sys.executable, "-m", "q3_runtime.cli", "embed", str(mini_folder)]
    command += ["--quant", "int8", "--out", str(out), *texts]
    done = subprocess.run(
        command, env=os.environ | {"PYTHONPATH": str(ROOT / "runtime")}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    with Embedder(mini_folder, quant="int8") as model:
        here = model.encode(texts)
    assert (np.load(out) * here).sum(-1).min() >= 0.9999
