"""The examples for LangChain and LlamaIndex: they print what ``q3 search`` prints, and asynchronously they give our vectors."""

import asyncio
import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from tests.conftest import ROOT

from q3_runtime import Embedder, Reranker

NOTES = ROOT / "examples/notes.txt"
QUESTIONS = {
    "How do I repair a flat tyre?": "To mend a punctured bicycle tube",
    "Can I deduct gifts from my taxes?": "A donation to a registered charity",
    "What killed so many people in medieval Europe?": "The Black Death killed",
}
FRAMEWORKS = [
    pytest.param(
        example,
        marks=pytest.mark.skipif(
            importlib.util.find_spec(package) is None,
            reason=f"{distribution} is not installed; type: pip install {distribution}",
        ),
        id=package,
    )
    for example, package, distribution in (
        ("langchain_search.py", "langchain_core", "langchain-core"),
        ("llamaindex_search.py", "llama_index", "llama-index-core"),
    )
]
pytestmark = pytest.mark.parametrize("example", FRAMEWORKS)


def output_of(*command: object) -> list[str]:
    """Lines that a command prints."""
    done = subprocess.run([sys.executable, *map(str, command)], capture_output=True, text=True, check=False, encoding="utf-8")
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def imported(example: str) -> ModuleType:
    """The example as a module."""
    spec = importlib.util.spec_from_file_location(example.removesuffix(".py"), ROOT / "examples" / example)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_example_prints_the_lines_that_q3_search_prints(example: str, mini_folder: Path) -> None:
    for question, best in QUESTIONS.items():
        found = output_of(ROOT / "examples" / example, mini_folder, NOTES, question)
        assert found[0].split(maxsplit=2)[2].startswith(best)
        assert found == output_of("-m", "q3_runtime.cli", "search", mini_folder, NOTES, "--query", question)


def test_with_a_reranker_its_order_and_scores_are_printed(example: str, mini_folder: Path, reranker_folder: Path) -> None:
    question = next(iter(QUESTIONS))
    found = [
        line.split(maxsplit=2) for line in output_of(ROOT / "examples" / example, mini_folder, NOTES, question, reranker_folder)
    ]
    candidates = output_of("-m", "q3_runtime.cli", "search", mini_folder, NOTES, "--query", question, "--top", 10)
    texts = [line.split(maxsplit=2)[2] for line in candidates]
    with Reranker(reranker_folder) as model:
        expected = [(f"{score:.3f}", texts[index]) for index, score in model.rank(question, texts, top_n=5)]
    assert [(score, text) for score, _, text in found] == expected


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::pydantic.warnings.PydanticDeprecatedSince20")
def test_the_asynchronous_calls_give_the_same_vectors(example: str, mini_folder: Path, mini: Embedder) -> None:
    module, texts = imported(example), ["Patch the tube.", "Boil the rice."]

    async def vectors() -> tuple[object, object, object]:
        if example.startswith("langchain"):
            model = module.Q3Embeddings(str(mini_folder), quant="fp32")
            return await model.aembed_query(texts[0]), texts[0], await model.aembed_documents(texts)
        model = module.Q3Embedding(str(mini_folder), quant="fp32")
        query, one = await model.aget_query_embedding(texts[0]), await model.aget_text_embedding(texts[0])
        return query, one, await model.aget_text_embedding_batch(texts)

    query, one, documents = asyncio.run(vectors())
    assert np.abs(np.array(query) - mini.encode_query(texts[0])).max() <= 1e-5
    assert np.abs(np.array(documents) - mini.encode_document(texts)).max() <= 1e-5
    if not isinstance(one, str):
        assert np.abs(np.array(one) - mini.encode_document(texts[0])).max() <= 1e-5
