"""fastembed, of which the current release wants an older huggingface_hub than ours, on the folder as it was exported."""

import json
import shutil
from pathlib import Path

import pytest
from tests.support.environments import Environment, environment
from tests.support.peers import MIN_COSINE, QUANTS, TEXTS, lowest_cosine

from q3_runtime.quants import QUANTS as TABLE


@pytest.fixture(scope="module")
def fastembed() -> Environment:
    return environment("interop-fastembed")


@pytest.mark.parametrize("pooling", ["in the graph", "last token"])
@pytest.mark.parametrize("quant", QUANTS)
def test_it_gives_our_vectors_for_the_same_quant(fastembed: Environment, mini_folder: Path, quant: str, pooling: str) -> None:
    theirs = fastembed.run("fastembed_vectors.py", mini_folder, TABLE[quant].onnx_file, pooling, given=TEXTS)
    assert lowest_cosine(mini_folder, quant, theirs) >= MIN_COSINE


def test_its_last_token_is_ours_with_padding_on_the_right_too(
    fastembed: Environment, mini_folder: Path, tmp_path: Path
) -> None:
    copy = shutil.copytree(mini_folder, tmp_path / "copy")
    config = json.loads((copy / "tokenizer_config.json").read_text("utf-8"))
    assert config["padding_side"] == "left"
    (copy / "tokenizer_config.json").write_text(json.dumps(config | {"padding_side": "right"}), "utf-8")
    theirs = fastembed.run("fastembed_vectors.py", copy, TABLE["int8"].onnx_file, "last token", given=TEXTS)
    assert lowest_cosine(mini_folder, "int8", theirs) >= MIN_COSINE
