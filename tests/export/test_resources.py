"""Disk and memory are asked for before any work, by sizes that come true."""

from pathlib import Path

import pytest

from q3_export import export_model, resources
from q3_export.checkpoint import open_checkpoint
from q3_export.probes import read_probes
from q3_export.recipes import RECIPES
from q3_runtime.errors import ProviderError
from q3_runtime.manifest import Manifest


@pytest.mark.parametrize("name", list(RECIPES))
def test_a_quant_is_as_large_as_it_is_said_to_be(checkpoint: Path, tmp_path: Path, name: str) -> None:
    opened = open_checkpoint(checkpoint)
    expected = RECIPES[name].size(opened.table_weights, opened.weights - opened.table_weights)
    folder = export_model(checkpoint, quant=name, out=tmp_path / "out", no_verify=True)
    (data,) = [entry.bytes for file, entry in Manifest.read(folder).quants[name].files.items() if file.endswith("_data")]
    assert expected == pytest.approx(data, rel=0.03)


def test_a_quant_that_does_not_fit_in_memory_is_refused_with_the_number_unless_nothing_is_verified(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resources, "available_memory", lambda: 100_000_000)
    out = tmp_path / "out"
    with pytest.raises(ProviderError, match=r"verification of fp32 needs about 0\.3 GB of memory, 0\.1 GB are") as caught:
        export_model(checkpoint, quant="int8,fp32", out=out)
    assert caught.value.exit_code == 7
    assert "--no-verify" in str(caught.value)
    assert not list(tmp_path.iterdir())
    folder = export_model(checkpoint, quant="int8,fp32", out=out, no_verify=True)
    assert [entry.fidelity for entry in Manifest.read(folder).quants.values()] == [None, None]
    assert "not measured" in (folder / "README.md").read_text()


def test_how_long_pytorch_will_take_is_said_before_it_runs(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """By the tokens of the texts that are given."""
    texts = tmp_path / "texts.txt"
    texts.write_text("one text\nand another one\n")
    tokens = sum(len(probe.ids) for probe in read_probes(texts, open_checkpoint(checkpoint)))
    out = tmp_path / "out"
    export_model(checkpoint, quant="q8", out=out, probes=texts, calibration=texts, no_verify=True, progress=True)
    said = capsys.readouterr().err
    line = f"PyTorch in float32 over 2 probes and 2 calibration texts, {2 * tokens} tokens: about 0 min"
    assert said.index(line) < said.index("PyTorch reference:")
