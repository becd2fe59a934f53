"""The oldest versions that pyproject.toml takes, and the newest Python: the same vectors and scores."""

import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import numpy as np
import pytest
from tests.conftest import ROOT
from tests.support.environments import Environment, environment

from q3_export.recipes import RECIPES
from q3_runtime import Embedder, Reranker
from q3_runtime.manifest import Manifest

TEXTS = ["What is petroleum?", "Crude oil.", "Erdöl ist ein Rohstoff.", "石油是什么", "", "a\0b", "x" * 300]
ROOM, ROOM_FLOAT16 = 1e-4, 0.01
"""Of a value. Kernels differ between versions of onnxruntime in the order in which they add, which float16 shows."""


@pytest.fixture(scope="module")
def ours(mini_folder: Path, reranker_folder: Path) -> tuple[dict, dict]:
    vectors = {quant: Embedder(mini_folder, quant=quant).encode(TEXTS) for quant in Manifest.read(mini_folder).quants}
    pairs = [(TEXTS[0], text) for text in TEXTS]
    scores = {quant: Reranker(reranker_folder, quant=quant).score(pairs) for quant in Manifest.read(reranker_folder).quants}
    return vectors, scores


def check(peer: Environment, ours: tuple[dict, dict], mini_folder: Path, reranker_folder: Path) -> dict:
    found = peer.run("own_runtime.py", ROOT / "runtime", mini_folder, reranker_folder, given=TEXTS)
    for theirs, expected in zip((found["vectors"], found["scores"]), ours, strict=True):
        assert theirs.keys() == expected.keys()
        for quant, values in expected.items():
            room = ROOM_FLOAT16 if RECIPES[quant].activations == "float16" else ROOM
            np.testing.assert_allclose(theirs[quant], values, rtol=0, atol=room, err_msg=quant)
    return found


def test_the_oldest_versions_that_are_allowed_give_the_same(ours, mini_folder, reranker_folder):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    required = project["project"]["dependencies"] + project["project"]["optional-dependencies"]["cpu"]
    floors = dict(line.split(">=") for line in required)
    found = check(environment("interop-floors"), ours, mini_folder, reranker_folder)
    assert found["versions"].keys() == floors.keys()
    for name, version in found["versions"].items():
        assert re.match(rf"{re.escape(floors[name])}(\.|$)", version), f"{name} {version} was run, {floors[name]} is allowed"


@pytest.mark.parametrize("python", ["python3.12", "python3.13", "python3.14"])
def test_a_newer_python_gives_the_same(python, ours, mini_folder, reranker_folder):
    path = shutil.which(python)
    if path is None or subprocess.run([path, "--version"], capture_output=True, check=False).returncode:
        pytest.skip(f"{python} is not installed")
    found = check(environment("interop-onnxruntime", path), ours, mini_folder, reranker_folder)
    assert f"python{found['python']}".startswith(f"{python}.")
