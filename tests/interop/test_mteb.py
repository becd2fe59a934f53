"""MTEB's own evaluation over our encoder: its scores are those of our vectors, with the official instructions in the texts."""

import hashlib
import json
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from tests.support import quality

from q3_runtime import task_instructions
from q3_runtime.errors import InputError, IntegrityError, UsageError
from q3_runtime.mteb_encoder import MtebEncoder

needs_mteb = pytest.mark.skipif(find_spec("mteb") is None, reason="mteb is not installed; type: pip install 'mteb>=2.26'")
PAIRS = [
    ("A man is playing a guitar.", "A man plays the guitar.", 4.8),
    ("A child is riding a horse.", "A young child rides a horse.", 4.6),
    ("A woman is cutting onions.", "A woman is slicing vegetables.", 3.4),
    ("A dog runs across the field.", "A cat sleeps on the sofa.", 0.8),
    ("The stock market fell sharply today.", "Shares lost much of their value.", 3.9),
    ("He is cooking pasta.", "The train leaves at noon.", 0.0),
    ("A plane is taking off.", "An airplane is landing.", 2.2),
    ("Two boys are playing football.", "Children play a game with a ball.", 2.9),
]
DOCUMENTS = {
    "tube": "To mend a punctured bicycle tube, roughen the rubber, apply glue and press on a patch.",
    "chain": "A worn chain skips over the teeth of the rear cogs.",
    "rice": "Rice cooks more evenly if you rinse it until the water runs clear.",
    "bread": "Let the bread dough rise overnight to give the loaf a deeper flavour.",
    "sun": "A total solar eclipse is possible because the Moon looks about as large as the Sun.",
    "tax": "Keep receipts for work expenses, because the tax office may ask to see them.",
}
QUERIES = {
    "q1": ("How do I repair a flat tyre?", {"tube": 1}),
    "q2": ("Why does my bike make noise uphill?", {"chain": 1, "tube": 1}),
    "q3": ("dinner", {"bread": 1, "rice": 1}),
    "q4": ("Why does it get dark at noon sometimes?", {"sun": 1}),
    "q5": ("something to keep for years", {"tax": 1}),
}
TASK = "Given a question, find the note that answers it"
SIMILAR = "Instruct: Retrieve semantically similar text\nQuery:"
WORDING = {
    "ArguAna": {"query": "refute it", "passage": "refuted by it"},
    "FiQA2018": "answer about money",
    "AskUbuntuDupQuestions": "find the same question",
    "STSBenchmark": "not the official one",
}


@pytest.fixture(scope="module")
def encoder(mini_folder: Path) -> Iterator[MtebEncoder]:
    with MtebEncoder(mini_folder, quant="fp32") as model:
        yield model


@pytest.fixture(scope="module")
def instructed(mini_folder: Path) -> Iterator[MtebEncoder]:
    """With instructions by the name of the task."""
    with MtebEncoder(mini_folder, quant="fp32", instructions=WORDING) as model:
        yield model


@needs_mteb
def test_it_is_an_encoder_of_mteb(encoder, mini_folder) -> None:
    from mteb.models import EncoderProtocol

    assert isinstance(encoder, EncoderProtocol)
    meta = encoder.mteb_model_meta
    assert (meta.name, meta.embed_dim, meta.max_tokens, meta.framework) == ("q3-onnx/mini-fp32", 256, 2048, ["ONNX"])
    with MtebEncoder(mini_folder, quant="int8", dim=64) as other:
        assert other.mteb_model_meta.name == "q3-onnx/mini-int8"
        assert other.mteb_model_meta.revision != meta.revision
        assert other.mteb_model_meta.embed_dim == 64


@needs_mteb
def test_the_score_of_a_similarity_task_is_that_of_our_vectors_with_the_instruction_on_both_sides(encoder, mini) -> None:
    import mteb
    from tests.support.mteb_tasks import sts

    result = mteb.evaluate(encoder, sts("FewPairs", {"en": PAIRS}), cache=None, show_progress_bar=False, co2_tracker=False)
    (found,) = result.task_results[0].scores["test"]
    left, right, people = zip(*PAIRS, strict=True)

    def cosines(prefix: str) -> np.ndarray:
        a, b = (mini.encode([prefix + text for text in texts]) for texts in (left, right))
        return (a * b).sum(-1)

    pearson, without = (np.corrcoef(cosines(prefix), people)[0, 1] for prefix in (SIMILAR, ""))
    assert found["main_score"] == pytest.approx(quality.spearman(cosines(SIMILAR), np.array(people)), abs=1e-6)
    assert found["cosine_pearson"] == pytest.approx(pearson, abs=1e-5)
    assert abs(pearson - without) > 1e-3  # so it tells whether the instruction was there


@needs_mteb
def test_the_score_of_a_retrieval_task_is_that_of_our_vectors_with_the_instruction_on_the_queries(encoder, mini) -> None:
    import mteb
    from tests.support.mteb_tasks import Collection, retrieval

    texts = {query: text for query, (text, _) in QUERIES.items()}
    relevant = {query: right for query, (_, right) in QUERIES.items()}
    task = retrieval("FewNotes", {"en": Collection(DOCUMENTS, texts, relevant)}, TASK)
    found = mteb.evaluate(encoder, task, cache=None, show_progress_bar=False, co2_tracker=False).task_results[0].get_score()

    def ndcg(prefix: str) -> float:
        queries = mini.encode([prefix + text for text in texts.values()])
        gains = []
        for row, right in zip(mini.similarity(queries, mini.encode(list(DOCUMENTS.values()))), relevant.values(), strict=True):
            ranked = [list(DOCUMENTS)[i] for i in np.argsort(-row, kind="stable")]
            ideal = sum(1 / np.log2(2 + place) for place in range(len(right)))
            gains.append(sum(1 / np.log2(2 + place) for place, name in enumerate(ranked) if name in right) / ideal)
        return float(np.mean(gains))

    assert found == pytest.approx(ndcg(f"Instruct: {TASK}\nQuery:"), abs=1e-5)  # MTEB rounds to five places
    assert abs(found - ndcg("")) > 0.05  # so it tells whether the instruction was there


@needs_mteb
@pytest.mark.parametrize(
    ("task", "side", "expected"),
    [
        ("STSBenchmark", None, "Retrieve semantically similar text"),
        ("SprintDuplicateQuestions", None, "Retrieve semantically similar text"),
        ("FiQA2018", "query", "answer about money"),
        ("FiQA2018", "document", ""),
        ("ArguAna", "query", "refute it"),
        ("ArguAna", "document", "refuted by it"),
        ("AskUbuntuDupQuestions", "query", "find the same question"),
        ("AskUbuntuDupQuestions", "document", "find the same question"),
        ("SciFact", "query", "Given a scientific claim, retrieve documents that support or refute the claim"),
        ("SciFact", "document", ""),
        ("CQADupstackGamingRetrieval", "document", ""),
        ("Banking77Classification", None, "Given a online banking query, find the corresponding intents"),
    ],
)
def test_instructions_go_where_the_official_evaluation_puts_them(instructed, mini, task, side, expected) -> None:
    import mteb
    from mteb.types import PromptType

    metadata, prompt_type = mteb.get_task(task).metadata, side and PromptType(side)
    assert instructed.instruction(metadata, prompt_type) == expected
    found = instructed.encode([{"text": ["one text"]}, {"text": ["another"]}], task_metadata=metadata, prompt_type=prompt_type)
    prefix = f"Instruct: {expected}\nQuery:" if expected else ""
    assert np.abs(found - mini.encode([prefix + "one text", prefix + "another"])).max() <= 1e-5


def test_the_official_wording_is_read_only_where_its_bytes_are_the_published_ones(tmp_path) -> None:
    path = tmp_path / "task_prompts.json"
    path.write_text(json.dumps(WORDING))
    assert task_instructions.read(path, hashlib.sha256(path.read_bytes()).hexdigest()) == WORDING
    with pytest.raises(IntegrityError, match=r"expected c9493103f173d53b.*take evaluation/task_prompts.json from https://"):
        task_instructions.read(path)


@pytest.mark.parametrize(
    ("content", "message"), [(b"[]", "list, expected"), (b'{"A": 1}', "A is no text"), (b"{", "expected JSON")]
)
def test_instructions_of_another_form_are_refused(tmp_path, content, message) -> None:
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(InputError, match=message):
        task_instructions.read(tmp_path / "a.json", hashlib.sha256(content).hexdigest())


def test_an_instruction_is_found_by_the_name_of_its_task_without_mteb() -> None:
    assert (
        task_instructions.by_name("SciFact") == "Given a scientific claim, retrieve documents that support or refute the claim"
    )
    assert task_instructions.by_name("SciFact", "document") == ""
    assert task_instructions.by_name("AutoRAGRetrieval")
    assert task_instructions.by_name("AutoRAGRetrieval", "document") == ""
    assert task_instructions.by_name("Banking77Classification.v2") == task_instructions.by_name(
        "Banking77Classification.v2", "document"
    )
    with pytest.raises(InputError, match=r"task 'SciFacts' is none of the \d+ that have an instruction, expected SciFact"):
        task_instructions.by_name("SciFacts")


@needs_mteb
def test_the_instructions_in_our_data_are_those_of_mteb() -> None:
    import mteb

    own = {task.metadata.name: task.metadata.prompt for task in mteb.get_tasks() if task.metadata.prompt}
    assert json.loads((task_instructions.DATA / "task_instructions.json").read_text("utf-8"))["tasks"] == own


def test_importing_the_encoder_loads_neither_mteb_nor_pytorch() -> None:
    code = "import sys, q3_runtime.mteb_encoder; print(sorted({'mteb', 'torch', 'datasets', 'onnxruntime'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "[]\n", "")


def test_without_mteb_one_line_says_what_to_install(monkeypatch, mini_folder) -> None:
    monkeypatch.setitem(sys.modules, "mteb.abstasks.abstask", None)  # Python then takes it for one that is not there
    with pytest.raises(UsageError, match=r"needs mteb 2.26 or newer, which is not installed; type: pip install"):
        MtebEncoder(mini_folder, quant="fp32")
