"""Every command and every line of Python in the README, as a newcomer would run them."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from tests.conftest import ROOT
from tests.support.server import serving

from q3_runtime import Embedder

BLOCKS = re.findall(r"```(sh|python)\n(.*?)```", (ROOT / "README.md").read_text("utf-8"), re.DOTALL)
ELSEWHERE = ("scripts/demo", "pip install", "q3-export --model 0.6B", "q3-export --model reranker-0.6B")
"""test_demo.py and test_fresh_environment.py run these; the last two need a network, see tests/export/test_hub.py."""
NETWORK = "--push"
"""See tests/export/test_publishing.py."""


@pytest.fixture(scope="module")
def newcomer(reranker_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a checkpoint, mini under the name of another, some notes, and an exported reranker."""
    home = tmp_path_factory.mktemp("newcomer")
    shutil.copytree(ROOT / "models/mini", home / "Qwen3-Embedding-0.6B")
    shutil.copy(ROOT / "examples/notes.txt", home / "notes.txt")
    shutil.copytree(reranker_folder, home / "qwen3-reranker-0.6b-onnx")
    return home


@pytest.fixture
def serving_stack() -> Iterator[ExitStack]:
    """Stops the servers that the README starts."""
    with ExitStack() as stack:
        yield stack


def test_every_block_of_the_readme_runs_in_order(newcomer: Path, serving_stack: ExitStack) -> None:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    ran, servers = 0, []
    for language, block in BLOCKS:
        if language == "python":
            steps = [[sys.executable, "-c", block]]
        else:
            steps = [
                ["sh", "-c", line]
                for line in block.splitlines()
                if line and not line.startswith(ELSEWHERE) and NETWORK not in line
            ]
        for step in steps:
            if step[-1].startswith("q3 serve "):
                arguments = shlex.split(step[-1])[2:]
                servers.append(serving_stack.enter_context(serving(*arguments, log=newcomer / "server.log", cwd=newcomer)))
                ran += 1
                continue
            if servers:  # 8080 may be taken here
                step[-1] = step[-1].replace(":8080/", f":{servers[-1].port}/")
            result = subprocess.run(
                step, cwd=newcomer, env=os.environ | {"PATH": path}, capture_output=True, text=True, check=False
            )
            assert result.returncode == 0, f"{step[-1]}\n{result.stderr}"
            ran += 1
    assert ran == 19
    assert (newcomer / "vectors.npy").exists()
    assert (newcomer / "qwen3-embedding-0.6b-onnx/q3.json").exists()


def test_the_answers_of_the_readme_are_those_that_a_search_finds(mini_folder: Path) -> None:
    answers = re.findall(r"^\| ([^|]+\?) \| ([^|]+) \|$", (ROOT / "README.md").read_text("utf-8"), re.MULTILINE)
    assert len(answers) == 3
    notes = (ROOT / "examples/notes.txt").read_text("utf-8").splitlines()
    with Embedder(mini_folder, quant="int8") as model:
        scores = model.similarity(model.encode_query([query for query, _ in answers]), model.encode_document(notes))
    assert [notes[row] for row in scores.argmax(axis=1)] == [answer for _, answer in answers]


def test_the_files_that_the_documents_name_are_there() -> None:
    for document in ("README.md", "CONTRIBUTING.md"):
        text = (ROOT / document).read_text("utf-8")
        for link in re.findall(r"\]\((?!http)([^)#]+)\)", text):
            assert (ROOT / link).exists(), link
    for row in re.findall(r"^\| (`[^|]+`) \|", (ROOT / "CONTRIBUTING.md").read_text("utf-8"), re.MULTILINE):
        names = re.findall(r"`([^`]+)`", row)
        parent = (ROOT / names[0]).parent
        for name in names:
            assert (ROOT / name).exists() or (parent / name).exists(), name


def test_the_exporters_flags_are_those_in_the_readme() -> None:
    from q3_export.cli import _export_parser

    flags = {option for action in _export_parser()._actions for option in action.option_strings if option.startswith("--")}
    text = (ROOT / "README.md").read_text("utf-8")
    assert all(f"{flag}" in text for flag in flags - {"--help", "--version", "--quant"})
