"""Integers made back into floats are still PyTorch's vectors, at full length and cut; ranges come from calibration alone."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from tests.support.checkpoints import MINI, write_checkpoint

from q3_export import export_model
from q3_export.checkpoint import open_checkpoint
from q3_export.output_ranges import MARGIN, output_ranges
from q3_export.probes import read_probes
from q3_export.reference import embed
from q3_runtime import Embedder
from q3_runtime.golden import Golden
from q3_runtime.manifest import Manifest

MIN_COSINE = 0.999


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random checkpoint of 256 dimensions, exported."""
    home = tmp_path_factory.mktemp("wide")
    return export_model(write_checkpoint(home / "Wide-Embedding", MINI), quant="fp32", out=home / "wide-onnx", no_verify=True)


@pytest.fixture(params=["folder", "wide"])
def model(request: pytest.FixtureRequest) -> Embedder:
    return Embedder(request.getfixturevalue(request.param), self_check=False, check_hashes=False)


@pytest.mark.filterwarnings("ignore:1 of 128 texts had more than:UserWarning")
@pytest.mark.parametrize("precision", ["float16", "int8", "uint8"])
def test_dequantized_vectors_of_all_probes_are_pytorchs(model: Embedder, precision: str) -> None:
    golden = Golden.read(model.folder)
    texts = [model.prompts.get(probe.kind, "") + probe.text for probe in golden.probes]
    for dim in {32, 64, 256, model.dims}:
        if dim > model.dims:
            continue
        found = model.dequantize(model.encode(texts, precision=precision, dim=dim))
        cosines = model.similarity(found, golden.vectors[:, :dim]).diagonal()
        print(f"\nD {model.dims}, {precision}, dim {dim}: lowest cosine {cosines.min():.6f}, mean {cosines.mean():.6f}")
        assert cosines.min() >= MIN_COSINE


def test_no_probe_lies_outside_the_ranges(model: Embedder) -> None:
    low, high = model.ranges
    vectors = Golden.read(model.folder).vectors
    assert (vectors > low).all()
    assert (vectors < high).all()


def test_ranges_are_the_calibration_texts_with_a_margin(folder: Path, checkpoint: Path) -> None:
    opened = open_checkpoint(checkpoint)
    vectors = embed(opened, [probe.ids for probe in read_probes(None, opened, judging=False)])
    low, high = vectors.min(axis=0), vectors.max(axis=0)
    found = Embedder(folder, self_check=False).ranges
    np.testing.assert_allclose(found[0], low - MARGIN * (high - low), atol=2e-6)
    np.testing.assert_allclose(found[1], high + MARGIN * (high - low), atol=2e-6)
    assert Manifest.read(folder).output_ranges == output_ranges(vectors)


def test_a_dimension_that_never_changes_has_a_range_too() -> None:
    ranges = output_ranges(np.full((64, 2), 0.5, dtype=np.float32))
    assert ranges == {"min": [0.49995, 0.49995], "max": [0.50005, 0.50005]}


def test_an_added_quant_keeps_the_ranges_of_the_folder(folder: Path, checkpoint: Path, tmp_path: Path) -> None:
    """Others have stored vectors by then; theirs and new ones must be of one kind."""
    out = Path(shutil.copytree(folder, tmp_path / "out"))
    content = json.loads((out / "q3.json").read_text("utf-8"))
    content["output_ranges"] = {"min": [-2.0] * 64, "max": [2.0] * 64}
    (out / "q3.json").write_text(json.dumps(content), encoding="utf-8")
    export_model(checkpoint, quant="fp16", out=out, no_verify=True)
    manifest = Manifest.read(out)
    assert set(manifest.quants) == {"fp32", "fp16"}
    assert manifest.output_ranges == content["output_ranges"]


def test_a_quant_added_to_a_folder_without_ranges_brings_them(folder: Path, checkpoint: Path, tmp_path: Path) -> None:
    out = Path(shutil.copytree(folder, tmp_path / "out"))
    content = json.loads((out / "q3.json").read_text("utf-8"))
    expected = content.pop("output_ranges")
    (out / "q3.json").write_text(json.dumps(content), encoding="utf-8")
    export_model(checkpoint, quant="fp16", out=out, no_verify=True)
    added, fresh = Manifest.read(out).output_ranges, expected
    np.testing.assert_allclose([added[key] for key in ("min", "max")], [fresh[key] for key in ("min", "max")], atol=2e-6)
