"""--layout tei: one quant as onnx/model.onnx."""

import json
from pathlib import Path

import pytest
from tests.support.tei_rules import problems

from q3_export import export_model
from q3_runtime import Embedder
from q3_runtime.doctor import diagnose
from q3_runtime.errors import ModelError, UsageError
from q3_runtime.manifest import Manifest

TEXTS = ["How do whales sleep?", "x", "Half of a whale's brain sleeps at a time, and the other half keeps it breathing."]


@pytest.fixture(scope="module")
def tei(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_model(checkpoint, quant="q4", layout="tei", out=tmp_path_factory.mktemp("tei") / "tiny-onnx")


def graphs(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.onnx*"))


def test_its_only_graph_is_the_one_that_tei_looks_for(tei: Path) -> None:
    assert graphs(tei) == ["onnx/model.onnx", "onnx/model.onnx_data"]
    assert list(Manifest.read(tei).quants) == ["q4"]
    hints = json.loads((tei / "config.json").read_text())["transformers.js_config"]
    assert hints == {"dtype": "fp32", "use_external_data_format": {"model.onnx": 1}}
    assert "| q4 | onnx/model.onnx |" in (tei / "README.md").read_text("utf-8")


@pytest.mark.parametrize("quant", ["fp32", "int8", "q4"])
def test_tei_has_nothing_against_it_and_our_runtime_loads_it(checkpoint: Path, tmp_path: Path, quant: str) -> None:
    """8-bit blocks, which its onnxruntime does not have, are floats here."""
    found = export_model(checkpoint, quant=quant, layout="tei", out=tmp_path / "out")
    assert problems(found) == []
    assert {verdict.tool: verdict.obstacles for verdict in diagnose(found).loaders}["TEI"] == []
    fidelity = Manifest.read(found).quants[quant].fidelity
    assert all(fidelity[figure] >= limit for figure, limit in fidelity["floor"].items())
    with Embedder(found) as model:
        assert model.quant == quant
        assert model.encode(TEXTS).shape == (3, 64)


def test_several_quants_and_those_that_tei_cannot_run_are_refused(checkpoint: Path, tmp_path: Path) -> None:
    for quant in ("int8,fp32", "q8", "fp16"):
        with pytest.raises(UsageError, match="with layout tei, expected one of int8, q4, fp32"):
            export_model(checkpoint, quant=quant, layout="tei", out=tmp_path / "out")
    with pytest.raises(UsageError, match="layout 'vllm' is unknown, expected one of onnx, tei"):
        export_model(checkpoint, quant="q8", layout="vllm", out=tmp_path / "out")


@pytest.mark.parametrize(("quant", "layout"), [("fp32", "onnx"), ("int8", "onnx"), ("fp32", "tei")])
def test_no_second_quant_goes_into_its_folder(tei: Path, checkpoint: Path, quant: str, layout: str) -> None:
    before = {path: path.stat().st_mtime_ns for path in tei.rglob("*")}
    with pytest.raises(ModelError, match="has q4, and with --layout tei a folder holds one quant; give another --out"):
        export_model(checkpoint, quant=quant, layout=layout, out=tei)
    assert {path: path.stat().st_mtime_ns for path in tei.rglob("*")} == before


def test_it_does_not_go_into_a_folder_of_other_quants(folder: Path, checkpoint: Path) -> None:
    with pytest.raises(ModelError, match="has fp32, and with --layout tei a folder holds one quant"):
        export_model(checkpoint, quant="int8", layout="tei", out=folder)


def test_with_force_it_takes_the_place_of_the_other(checkpoint: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    export_model(checkpoint, quant="q4,fp32", out=out, no_verify=True)
    export_model(checkpoint, quant="int8", layout="tei", out=out, no_verify=True, force=True)
    assert graphs(out) == ["onnx/model.onnx", "onnx/model.onnx_data"]
    assert list(Manifest.read(out).quants) == ["int8"]
    export_model(checkpoint, quant="q8", out=out, no_verify=True, force=True)
    assert graphs(out) == ["onnx/model_quantized.onnx", "onnx/model_quantized.onnx_data"]
