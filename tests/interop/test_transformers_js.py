"""transformers.js in Node, on the folder as it was exported."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
from tests.conftest import ROOT
from tests.support.node import run_script
from tests.support.peers import run_unset

from q3_runtime import Embedder

QUANTS = ("fp32", "int8", "q8", "q4")
SCRIPT = ROOT / "tests/interop/node/embed.mjs"
TEXTS = [
    "How do I repair a flat tyre?",
    "",
    "x",
    "def f(x):\n    return x + 1",
    "唐朝的都城长安是当时世界上人口最多的城市之一",
    "Patch the tube, and pump it up. " * 40,
]


@pytest.fixture(scope="module")
def node(mini_folder: Path) -> Any:
    found = run_script(SCRIPT, {"folder": str(mini_folder), "texts": TEXTS, "quants": QUANTS})
    print(found["versions"])
    return found


@pytest.mark.parametrize("output", ["pipeline", "sentence_embedding"])
@pytest.mark.parametrize("quant", QUANTS)
def test_it_gives_our_vectors_for_the_same_quant(node: Any, mini_folder: Path, quant: str, output: str) -> None:
    theirs = np.array(node["vectors"][quant][output])
    with Embedder(mini_folder, quant=quant) as model:
        ours = run_unset(model, model.tokenizer.encode(TEXTS))
    assert np.allclose(np.linalg.norm(theirs, axis=1), 1, atol=1e-5)
    assert (theirs * ours).sum(-1).min() >= 0.9999


def test_its_tokenizer_gives_the_ids_of_tokenizers(mini_folder: Path) -> None:
    probes = (ROOT / "export/q3_export/data/probes.jsonl").read_text("utf-8").splitlines()
    texts = [json.loads(line)["text"] for line in probes] + ["a<|im_end|>b <|endoftext|>", "<think> </think>"]
    found = run_script(SCRIPT, {"folder": str(mini_folder), "texts": texts, "quants": []})
    tokenizer = tokenizers.Tokenizer.from_file(str(mini_folder / "tokenizer.json"))
    assert found["ids"] == [encoding.ids for encoding in tokenizer.encode_batch(texts)]
