"""Weights are read, changed and written some rows at a time."""

import sys
from pathlib import Path

import pytest
from tests.support.checkpoints import Shape, write_checkpoint
from tests.support.memory import run_and_watch

from q3_export import binding, export_model
from q3_export.recipes import RECIPES
from q3_runtime import Embedder

WIDE = Shape(hidden=1024, intermediate=1024, layers=1, heads=8, kv_heads=4, head_dim=64, vocab=300_000)
"""A table of 307 M weights, 1.2 GB in float32."""


def test_the_pieces_are_the_whole(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = export_model(checkpoint, quant=list(RECIPES), out=tmp_path / "whole", no_verify=True)
    monkeypatch.setattr(binding, "PIECE", 500)  # a few rows of 64
    pieces = export_model(checkpoint, quant=list(RECIPES), out=tmp_path / "pieces", no_verify=True)
    for recipe in RECIPES.values():
        for name in (recipe.quant.onnx_file, recipe.quant.onnx_file + "_data"):
            assert (pieces / name).read_bytes() == (whole / name).read_bytes(), name


def test_a_table_whose_rows_do_not_fill_a_block_is_read_as_it_was_written(checkpoint: Path, tmp_path: Path) -> None:
    """64 dimensions, blocks of 128."""
    folder = export_model(checkpoint, quant="fp32,q8", out=tmp_path / "out", no_verify=True)
    texts = ["one text", "and another"]
    with Embedder(folder, quant="fp32") as exact, Embedder(folder, quant="q8", self_check=False) as rounded:
        assert (exact.encode(texts) * rounded.encode(texts)).sum(-1).min() >= 0.99


@pytest.mark.skipif(sys.platform != "linux", reason="/proc tells what memory is used")
def test_the_token_embeddings_are_never_in_memory_as_a_whole(tmp_path: Path) -> None:
    checkpoint = write_checkpoint(tmp_path / "Wide", WIDE)
    texts = tmp_path / "texts.txt"
    texts.write_text("one text\nand another\n")
    command = [sys.executable, "-m", "q3_export.cli", "--model", str(checkpoint), "--out", str(tmp_path / "out")]
    command += ["--quant", "fp32,int8", "--no-verify", "--probes", str(texts), "--calibration", str(texts)]
    peak = run_and_watch(command)
    assert peak.returncode == 0, peak.output
    print(f"\nwide: {peak.seconds:.0f} s, {peak.parent / 1e6:.0f} MB")
    assert peak.parent <= 900e6
