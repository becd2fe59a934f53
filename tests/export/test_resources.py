"""Disk and memory are asked for before any work, by sizes that come true."""

import sys
from pathlib import Path

import pytest
import torch

from q3_export import export_model, resources
from q3_export.checkpoint import open_checkpoint
from q3_export.cli import main
from q3_export.probes import read_probes
from q3_export.recipes import RECIPES, laid_out
from q3_export.verification import measure_in_child
from q3_runtime.errors import ProviderError
from q3_runtime.manifest import Manifest


@pytest.mark.parametrize("name", list(RECIPES))
def test_a_quant_is_as_large_as_it_is_said_to_be(checkpoint: Path, tmp_path: Path, name: str) -> None:
    opened = open_checkpoint(checkpoint)
    expected = RECIPES[name].size(opened.table_weights, opened.weights - opened.table_weights)
    folder = export_model(checkpoint, quant=name, out=tmp_path / "out", no_verify=True)
    (data,) = [entry.bytes for file, entry in Manifest.read(folder).quants[name].files.items() if file.endswith("_data")]
    assert expected == pytest.approx(data, rel=0.03)


@pytest.mark.parametrize("layout", ["onnx", "tei"])
def test_there_is_room_for_a_quant_of_4_bits_whose_linears_have_become_wider(layout: str) -> None:
    """Qwen3-Embedding-4B's shape; docs/sizes.json has 2,923 MB for its q4, 67 of whose linears are wider."""
    (recipe,) = laid_out([RECIPES["q4"]], layout)
    table, others = 388_262_400, 3_633_316_352
    wider = recipe.wider.bytes_per_weight(4) - recipe.linears.bytes_per_weight(4)
    assert recipe.room(table, others) - recipe.size(table, others) == pytest.approx(0.14 * others * wider, abs=2)
    if layout == "onnx":
        assert recipe.room(table, others) > 2_923_334_635


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


def test_the_most_memory_is_that_of_fp16_which_a_cpu_multiplies_in_float32(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """docs/sizes.md: at 0.6B 1,192 MB on the disk, 2,295 MB to run."""
    table, others = 151_669 * 1024, 440_467_456
    assert RECIPES["fp16"].size(table, others) == pytest.approx(1_192e6, rel=0.01)
    assert 2_000e6 < RECIPES["fp16"].memory(table, others) < 2_295e6
    assert all(RECIPES[name].memory(table, others) == RECIPES[name].room(table, others) for name in RECIPES if name != "fp16")
    assert [name for name in RECIPES if RECIPES[name].room(table, others) > RECIPES[name].size(table, others)] == [
        "q4",
        "q4f16",
    ]
    monkeypatch.setattr(resources, "available_memory", lambda: 100_000_000)
    long = tmp_path / "long.txt"
    long.write_text("word " * 6000 + "\nshort\n")
    with pytest.raises(ProviderError, match="verification of q4f16 needs"):  # which holds all scores of attention
        export_model(checkpoint, quant="fp32,q4f16", out=tmp_path / "out", probes=long)


def test_a_verification_that_is_killed_says_that_memory_is_short(folder: Path, tmp_path: Path, monkeypatch) -> None:
    killed = tmp_path / "python"
    killed.write_text("#!/bin/sh\nkill -9 $$\n")
    killed.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(killed))
    with pytest.raises(ProviderError, match="verification of fp32 was killed, most likely because memory ran out") as caught:
        measure_in_child(folder, "fp32")
    assert caught.value.exit_code == 7


@pytest.mark.skipif(torch.cuda.is_available(), reason="PyTorch has CUDA here")
def test_cuda_that_pytorch_does_not_have_is_refused_before_work(checkpoint: Path, folder: Path, tmp_path: Path, capsys) -> None:
    out = tmp_path / "out"
    for arguments in (["--out", str(out), "--quant", "fp16"], ["verify", str(folder)]):
        assert main([*arguments, "--model", str(checkpoint), "--device", "cuda"]) == 7
        said = capsys.readouterr().err
        assert "finds no CUDA here; leave out --device" in said
        assert said.count("\n") == 1
    assert not out.exists()


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
