"""The trained model of this repository: what its vectors are worth, and that every way to them gives the same."""

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open
from tests.conftest import ROOT
from tests.support import quality

from q3_export.specs import SPECS
from q3_runtime import Embedder

MINI = ROOT / "models/mini"
PROMPT = "Instruct: Given a web search query, retrieve relevant passages that answer the query\nQuery:"
LINES = [
    "a cup of coffee",
    "ein Fahrrad",
    "x",
    "",
    "Where does the river end?",
    "def f(x):\n    return x + 1",
    "東京は日本の首都です。",
]


def test_it_is_small_and_laid_out_like_the_published_models() -> None:
    files = {path.relative_to(MINI).as_posix(): path.stat().st_size for path in MINI.rglob("*") if path.is_file()}
    assert sum(files.values()) <= 24_000_000
    assert {
        "1_Pooling/config.json", "README.md", "config.json", "config_sentence_transformers.json", "model.safetensors",
        "modules.json", "tokenizer.json", "tokenizer_config.json",
    } <= set(files)  # fmt: skip
    config = json.loads((MINI / "config.json").read_text())
    assert config["model_type"] == "qwen3"
    assert (config["num_hidden_layers"], config["hidden_size"]) == (SPECS["mini"].layers, SPECS["mini"].dims)
    assert config["max_position_embeddings"] == SPECS["mini"].max_tokens
    assert json.loads((MINI / "config_sentence_transformers.json").read_text())["prompts"] == {"query": PROMPT, "document": ""}
    with safe_open(MINI / "model.safetensors", framework="pt") as file:
        assert {str(file.get_slice(name).get_dtype()) for name in file.keys()} == {"BF16"}  # noqa: SIM118  # no mapping


@pytest.fixture(scope="module")
def encode_document(mini: Embedder) -> quality.Encode:
    return quality.remembering(mini.encode_document)


@pytest.fixture(scope="module")
def encode_query(mini: Embedder) -> quality.Encode:
    return quality.remembering(mini.encode_query)


def test_sts_in_english(encode_document: quality.Encode, shared_text: Path) -> None:
    figures = {dim: quality.sts_spearman(encode_document, shared_text, "en", dim) for dim in (256, 64)}
    assert figures[256] >= 0.70
    assert figures[64] >= 0.65


def test_a_question_finds_its_paragraph(
    encode_query: quality.Encode, encode_document: quality.Encode, shared_text: Path
) -> None:
    data = quality.xquad(shared_text, "en")
    questions, paragraphs = encode_query(data.questions), encode_document(data.paragraphs)
    assert quality.recall_at_10(questions, paragraphs, data.answers) >= 0.75


def test_the_figures_on_its_card_are_the_figures_it_has(
    encode_query: quality.Encode, encode_document: quality.Encode, shared_text: Path
) -> None:
    """The table of models/mini/README.md, English rows, to the three digits it prints."""
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in (MINI / "README.md").read_text("utf-8").splitlines()
        if line.startswith("| ")
    ]
    printed = {row[0]: row[1:] for row in rows}
    found = [f"{quality.sts_spearman(encode_document, shared_text, 'en', dim):.3f}" for dim in (256, 128, 64, 32)]
    assert printed["STS-B dev, en"] == found
    data = quality.xquad(shared_text, "en")
    questions, paragraphs = encode_query(data.questions), encode_document(data.paragraphs)
    found = [f"{quality.recall_at_10(questions, paragraphs, data.answers, dim):.3f}" for dim in (256, 128, 64, 32)]
    assert printed["XQuAD recall@10, en"] == found


@pytest.mark.parametrize(("quant", "tolerance"), [("int8", 0.005), ("q8", 0.005), ("q4", 0.02)])
def test_in_fewer_bits_they_are_worth_hardly_less(
    mini_folder: Path,
    encode_query: quality.Encode,
    encode_document: quality.Encode,
    shared_text: Path,
    quant: str,
    tolerance: float,
) -> None:
    data = quality.xquad(shared_text, "en")

    def worth(query: quality.Encode, document: quality.Encode) -> tuple[float, float]:
        recall = quality.recall_at_10(query(data.questions), document(data.paragraphs), data.answers)
        return quality.sts_spearman(document, shared_text), recall

    with Embedder(mini_folder, quant=quant) as model:
        found, exact = worth(model.encode_query, model.encode_document), worth(encode_query, encode_document)
    assert all(ours >= full - tolerance for ours, full in zip(found, exact, strict=True)), (found, exact)


def test_transformers_gives_the_same_vectors(mini: Embedder) -> None:
    import torch
    from transformers import AutoModel, AutoTokenizer

    tokenizer, model = AutoTokenizer.from_pretrained(MINI), AutoModel.from_pretrained(MINI, dtype=torch.float32).eval()
    for text in LINES:
        ids = tokenizer(text, return_tensors="pt").input_ids
        with torch.inference_mode():
            state = model(input_ids=ids).last_hidden_state[0, -1]
        expected = (state / state.norm()).numpy()
        assert float(np.dot(expected, mini.encode_document([text])[0])) >= 0.99999
