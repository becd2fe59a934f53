"""Faults of a checkpoint, met on the command line: one line, exit code 3, and nothing left behind."""

import json
import os
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
TENSOR = "layers.1.mlp.up_proj.weight"


def edit(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text("utf-8")) | changes), "utf-8")


def cut_off(folder: Path) -> None:
    os.truncate(folder / SINGLE, 500_000)


def absurd_header(folder: Path) -> None:
    with (folder / SINGLE).open("r+b") as file:
        file.write(struct.pack("<Q", 2**63))


def missing_shard(folder: Path) -> None:
    (folder / SINGLE).rename(folder / "model-00001-of-00002.safetensors")
    shards = {TENSOR: "model-00001-of-00002.safetensors", "norm.weight": "model-00002-of-00002.safetensors"}
    (folder / INDEX).write_text(json.dumps({"weight_map": shards}))


def leaving_the_folder(folder: Path) -> None:
    shutil.move(folder / SINGLE, folder.parent / "x.safetensors")
    (folder / INDEX).write_text(json.dumps({"weight_map": {TENSOR: "../x.safetensors"}}))


def another_model(folder: Path) -> None:
    edit(folder / "config.json", architectures=["Qwen2ForCausalLM"], model_type="qwen2")


def with_code(folder: Path) -> None:
    (folder / "modeling_qwen3.py").write_text(f"open({str(folder.parent / 'executed')!r}, 'w')\n")


def not_finite(folder: Path) -> None:
    tensors = {name: tensor.clone() for name, tensor in load_file(folder / SINGLE).items()}
    tensors[TENSOR][7, :5] = float("nan")
    save_file(tensors, folder / SINGLE, metadata={"format": "pt"})


def no_post_processor(folder: Path) -> None:
    edit(folder / "tokenizer.json", post_processor=None)


@pytest.mark.parametrize(
    ("damage", "fault", "named", "as_json"),
    [
        (cut_off, "E_SHARD_TRUNCATED", [SINGLE, "500000 bytes", "incomplete download?"], False),
        (absurd_header, "E_ST_HEADER", [SINGLE, str(2**63), "100000000"], True),
        (missing_shard, "E_SHARD_MISSING", ["1 of 2", "model-00002-of-00002.safetensors"], False),
        (leaving_the_folder, "E_PATH", [INDEX, "'../x.safetensors'"], False),
        (another_model, "E_ARCH", ["'qwen2'", "Qwen2ForCausalLM", "Qwen3ForCausalLM"], False),
        (with_code, "E_UNSAFE", ["modeling_qwen3.py"], False),
        (not_finite, "E_NONFINITE", ["5 weights", TENSOR], True),
        (no_post_processor, "E_TOKENIZER", ["tokenizer.json", "encoding '' gives []", "<|endoftext|> (4000)"], False),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_a_damaged_checkpoint_ends_with_one_line_and_code_3_and_leaves_nothing(
    checkpoint: Path, tmp_path: Path, damage: Callable[[Path], None], fault: str, named: list[str], as_json: bool
):
    folder = shutil.copytree(checkpoint, tmp_path / "Tiny")
    damage(folder)
    place = tmp_path / "place"
    place.mkdir()
    command = [sys.executable, "-m", "q3_export.cli", "--model", folder, "--out", place / "Y", *(["--json"] if as_json else [])]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path, timeout=60)

    assert ended.returncode == 3, ended.stderr
    assert ended.stdout == ""
    assert ended.stderr.count("\n") == 1
    assert ended.stderr.endswith("\n")
    if as_json:
        (error,) = json.loads(ended.stderr).values()
        assert (error["fault"], error["exit_code"]) == (fault, 3)
        message = error["message"]
    else:
        start = f"q3-export: error[{fault}]: "
        assert ended.stderr.startswith(start)
        message = ended.stderr.removeprefix(start)
    assert "Traceback" not in message
    assert [word for word in named if word not in message] == []
    assert list(place.iterdir()) == []
    assert not (tmp_path / "executed").exists()


def test_a_checkpoint_that_is_not_there_is_refused_before_transformers_model_is_imported(tmp_path: Path) -> None:
    code = (
        "import sys; from q3_export.cli import main; print(main(sys.argv[1:]), *(n for n in sys.modules if 'modeling_' in n))"
    )
    command = [sys.executable, "-c", code, "--model", str(tmp_path / "none"), "--out", str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["3"]
    assert str(tmp_path / "none") in done.stderr
