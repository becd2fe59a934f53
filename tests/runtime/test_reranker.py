"""The API of Reranker, and q3 rerank: scales, ranking, instructions, and what it says of wrong use."""

import io
import json
import os
import pickle
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from tests.conftest import ROOT

from q3_runtime import Embedder, Reranker, Template
from q3_runtime.cli import main
from q3_runtime.errors import (
    InputError,
    ModelError,
    NonFiniteError,
    ProviderError,
    TextError,
    TextTypeError,
    TooLongError,
    UsageError,
)
from q3_runtime.golden import Golden
from q3_runtime.scores import Scores, probabilities
from q3_runtime.templates import OFFICIAL

QUERY = "Which planet is known as the Red Planet?"
DOCUMENTS = ["Mars is often called the Red Planet.", "", "Bread is baked in an oven.", "Mars is often called the Red Planet."]


@pytest.fixture(scope="module")
def model(reranker_folder: Path) -> Reranker:
    return Reranker(reranker_folder, quant="fp32")


@pytest.fixture
def copy(reranker_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(reranker_folder, tmp_path / "copy"))


# Scores


def test_scores_are_probabilities_and_say_so(model: Reranker) -> None:
    scores = model.score([(QUERY, document) for document in DOCUMENTS])
    assert (scores.shape, scores.dtype, scores.scale) == ((4,), np.float32, "probability")
    assert ((scores > 0) & (scores < 1)).all()
    assert scores[:2].scale == "probability"


def test_raw_scores_are_the_log_odds_of_the_same_and_say_so(model: Reranker) -> None:
    pairs = [(QUERY, document) for document in DOCUMENTS]
    raw = model.score(pairs, raw=True)
    assert raw.scale == "log_odds"
    assert np.abs(probabilities(raw) - model.score(pairs)).max() <= 1e-6


def test_log_odds_of_any_size_are_probabilities_without_a_warning() -> None:
    assert probabilities([-1e9, 0, 1e9]).tolist() == [0, 0.5, 1]
    assert np.allclose(probabilities([1.0]), 0.7310586)


def test_a_ranking_is_best_first_and_keeps_the_order_of_equals(model: Reranker) -> None:
    ranking = model.rank(QUERY, DOCUMENTS)
    assert ranking.scale == "probability"
    assert sorted(row for row, _ in ranking) == [0, 1, 2, 3]
    scores = [score for _, score in ranking]
    assert scores == sorted(scores, reverse=True)
    rows = [row for row, _ in ranking]
    assert rows.index(3) == rows.index(0) + 1  # the same document twice
    expected = model.score([(QUERY, document) for document in DOCUMENTS])
    assert dict(ranking) == pytest.approx(dict(enumerate(expected.tolist())), abs=1e-6)


def test_top_n_gives_the_best_and_no_more_than_there_are(model: Reranker) -> None:
    best = model.rank(QUERY, DOCUMENTS)
    assert model.rank(QUERY, DOCUMENTS, top_n=2) == best[:2]
    assert model.rank(QUERY, DOCUMENTS, top_n=9) == best
    assert model.rank(QUERY, DOCUMENTS, top_n=np.int64(2)) == best[:2]
    assert model.rank(QUERY, DOCUMENTS, raw=True).scale == "log_odds"


def test_probabilities_that_are_all_one_are_ranked_by_their_log_odds(sure_reranker_folder: Path, capsys) -> None:
    documents = [f"Mars is planet {number} of {number % 7}." for number in range(12)] + [*DOCUMENTS, *DOCUMENTS]
    with Reranker(sure_reranker_folder, quant="fp32") as sure:
        odds = sure.score([(QUERY, document) for document in documents], raw=True)
        ranking = sure.rank(QUERY, documents)
        assert len({score for _, score in ranking}) < len(set(odds.tolist())) - 2
        rows = np.argsort(-odds, kind="stable").tolist()
        assert [row for row, _ in ranking] == [row for row, _ in sure.rank(QUERY, documents, raw=True)] == rows
        assert sure.rank(QUERY, documents, top_n=3) == ranking[:3]
        assert sure.rank(QUERY, documents, raw=True)[0] == (rows[0], pytest.approx(float(odds.max()), abs=1e-2))
    assert ranking.scale == "probability"
    arguments = ("rerank", sure_reranker_folder, "--quant", "fp32", "--query", QUERY, "--top", 3, "--json", *documents)
    code, out, _ = run(capsys, *arguments)
    assert (code, [result["line"] for result in json.loads(out)["results"]]) == (0, [row + 1 for row in rows[:3]])


def test_nothing_in_nothing_out(model: Reranker) -> None:
    assert model.score([]).shape == (0,)
    assert model.rank(QUERY, []) == []


def test_an_instruction_changes_the_score_as_a_template_with_it_does(reranker_folder: Path, model: Reranker) -> None:
    pair, task = (QUERY, DOCUMENTS[0]), "Given a question, find a cake recipe"
    told = float(model.score([pair], instruction=task, raw=True)[0])
    assert abs(told - float(model.score([pair], raw=True)[0])) > 1e-3
    own = Template(OFFICIAL.prefix, OFFICIAL.body, OFFICIAL.suffix, task)
    with Reranker(reranker_folder, quant="fp32", template=own) as other:
        assert abs(float(other.score([pair], raw=True)[0]) - told) <= 1e-5
    assert abs(model.rank(QUERY, DOCUMENTS[:1], instruction=task, raw=True)[0][1] - told) <= 1e-5


def test_braces_in_a_text_are_text(model: Reranker) -> None:
    (encoded,) = model.tokenizer.encode([OFFICIAL.fill("{document}", "{query} {instruction}")])
    body = encoded.ids[len(model.tokenizer.prefix) : len(encoded.ids) - len(model.tokenizer.suffix)]
    (alone,) = model.tokenizer._body.encode(
        [f"<Instruct>: {OFFICIAL.instruction}\n<Query>: {{document}}\n<Document>: {{query}} {{instruction}}"]
    )
    assert body.tolist() == alone.ids.tolist()


def test_the_golden_scores_come_out_of_the_folder(reranker_folder: Path, model: Reranker) -> None:
    golden = Golden.read(reranker_folder, "reranker")
    probes = golden.probes[:3]
    ids = [item.ids for item in model.encode_probes(probes)]
    assert [row.tolist() for row in ids] == [list(probe.ids) for probe in probes]
    assert np.abs(model.run(ids) - golden.vectors[:3]).max() <= 1e-3


# Long texts


def test_a_long_document_is_cut_at_its_end_with_one_warning_and_the_answer_stays_asked(model: Reranker) -> None:
    words = "apple " * 5000
    with pytest.warns(UserWarning, match=r"2 of 3 pairs had more than \d+ tokens and were cut, the first is pair 1") as said:
        scores = model.score([(QUERY, "short"), (QUERY, words), (QUERY, words + "never read")])
    assert len(said) == 1
    assert scores[1] == pytest.approx(scores[2], abs=1e-6)
    (encoded,) = model.tokenizer.encode([OFFICIAL.fill(QUERY, words)])
    assert len(encoded.ids) == model.manifest.max_tokens
    suffix = model.tokenizer.suffix
    assert encoded.ids[-len(suffix) :].tolist() == suffix.tolist()


def test_a_long_document_is_refused_where_it_is_not_to_be_cut(model: Reranker) -> None:
    with pytest.raises(TooLongError, match="text 1") as caught:
        model.score([(QUERY, "short"), (QUERY, "apple " * 5000)], truncate=False)
    assert caught.value.index == 1


def test_a_template_that_leaves_no_room_is_refused(reranker_folder: Path) -> None:
    long = Template("word " * 9000, OFFICIAL.body, OFFICIAL.suffix, "x")
    with pytest.raises(UsageError, match=r"the template takes \d+ tokens, expected fewer than \d+"):
        Reranker(reranker_folder, quant="fp32", template=long)


def test_a_pair_that_cannot_be_cut_without_its_query_is_refused(reranker_folder: Path) -> None:
    """The document comes first in this template: what is cut at its end is the query, and all queries would score alike."""
    template = Template(OFFICIAL.prefix, "<Document>: {document}\n<Query>: {query}", OFFICIAL.suffix, "x")
    with Reranker(reranker_folder, quant="fp32", template=template) as model:
        assert model.score([(QUERY, "short")]).shape == (1,)
        with pytest.raises(
            InputError, match=r"pair 1 has at least \d+ tokens, .* a body that goes on behind its document is not cut"
        ):
            model.score([(QUERY, "short"), (QUERY, "apple " * 5000)])


# Wrong use


@pytest.mark.parametrize(
    ("pairs", "error", "words"),
    [
        ([("a", "b"), "cd"], UsageError, r"pair 1 is 'cd', expected \(query, document\)"),
        ([("a",)], UsageError, "pair 0 is"),
        ([("a", "b", "c")], UsageError, "pair 0 is"),
        ([3], UsageError, "pair 0 is '3'"),
        ([{"query": "a", "document": "b"}], UsageError, "pair 0 is"),
        ([{"a", "b"}], UsageError, "pair 0 is"),
        ([("a", None)], TextTypeError, "text 0"),
        ([("a", b"b")], TextTypeError, "text 0"),
        ([("a", "b"), ("\ud800", "b")], TextError, "text 1"),
    ],
)
def test_what_is_no_pair_is_named(model: Reranker, pairs: list, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        model.score(pairs)


def test_a_lone_surrogate_is_replaced_on_request(model: Reranker) -> None:
    scores = model.score([("a\ud800", "b"), ("a\ufffd", "b")], errors="replace")
    assert scores[0] == pytest.approx(scores[1], abs=1e-6)


@pytest.mark.parametrize("documents", ["abc", b"abc", {"a": "text"}, {"text"}])
def test_what_is_no_list_of_documents_is_named(model: Reranker, documents: object) -> None:
    with pytest.raises(UsageError, match=f"documents is a {type(documents).__name__}, expected a list of texts"):
        model.rank(QUERY, documents)


def test_a_table_in_the_place_of_documents_is_refused(model: Reranker) -> None:
    class Frame(list):
        """As pandas' DataFrame: a length of rows, and going through it gives the names of its columns."""

        columns = property(list)

    with pytest.raises(InputError, match=r"Frame is a table, expected texts; pass one column of it, e\.g\. df\['text'\]"):
        model.rank(QUERY, Frame(["text", "number"]))


def test_a_query_that_leaves_no_room_for_documents_is_refused_and_not_scored(model: Reranker) -> None:
    with pytest.raises(InputError, match=r"pair 1: query and instruction take all .* none is left for the doc"):
        model.score([("short", "a document"), ("many words " * 40_000, "a document")])


@pytest.mark.parametrize("options", [{"top_n": 0}, {"top_n": 1.5}, {"top_n": True}, {"batch_tokens": 0}, {"errors": "ignore"}])
def test_wrong_options_are_named(model: Reranker, options: dict) -> None:
    with pytest.raises(UsageError, match=f"{next(iter(options))} is "):
        model.rank(QUERY, DOCUMENTS, **options)


def test_a_template_without_a_suffix_is_refused(reranker_folder: Path) -> None:
    with pytest.raises(UsageError, match="the template's suffix '' has no tokens"):
        Reranker(reranker_folder, quant="fp32", template=Template("", OFFICIAL.body, "", "x"))


def test_a_template_without_a_place_for_the_document_is_refused() -> None:
    with pytest.raises(UsageError, match=r"expected \{document\} in it"):
        Template("", "{query}", "", "")


def test_a_closed_reranker_says_so(reranker_folder: Path) -> None:
    model = Reranker(reranker_folder, quant="fp32")
    model.close()
    model.close()
    with pytest.raises(UsageError, match="closed"):
        model.score([("a", "b")])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_fork_is_refused(model: Reranker) -> None:
    reader, writer = os.pipe()
    if not (child := os.fork()):
        try:
            model.score([("a", "b")])
        except ProviderError as error:
            os.write(writer, str(error).encode())
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    assert b"fork" in os.read(reader, 500)


def test_each_class_names_the_other(reranker_folder: Path, folder: Path) -> None:
    with pytest.raises(ModelError, match="a reranker, expected an embedding model; Reranker and q3 rerank take this one"):
        Embedder(reranker_folder)
    with pytest.raises(ModelError, match="an embedding model, expected a reranker; Embedder, q3 embed and q3 search take"):
        Reranker(folder)


def test_golden_scores_that_do_not_come_out_are_found_on_loading(copy: Path) -> None:
    from safetensors.numpy import load_file, save_file

    tensors = load_file(copy / "golden.safetensors")
    save_file({name: tensor + np.float32(3) for name, tensor in tensors.items()}, copy / "golden.safetensors")
    with pytest.raises(ProviderError, match=r"self-check: a score is .* from PyTorch's, expected at most"):
        Reranker(copy, quant="fp32", check_hashes=False)
    with Reranker(copy, quant="fp32", check_hashes=False, self_check=False) as model:
        assert model.score([("a", "b")]).shape == (1,)


def test_a_score_that_is_no_number_names_its_pair(model: Reranker) -> None:
    class Broken:
        """The folder's own runner, whose answer for one row is lost on the way."""

        def __init__(self, runner: object) -> None:
            self.runner = runner
            self.session = runner.session  # type: ignore[attr-defined]

        def run(self, ids: list, names: list) -> np.ndarray:
            found = self.runner.run(ids, names)  # type: ignore[attr-defined]
            found[names.index(1)] = np.nan
            return found

    runner = model._runner
    try:
        model._runner = Broken(runner)  # type: ignore[assignment]
        with pytest.raises(NonFiniteError, match="score") as caught:
            model.score([("a", "b"), ("a", "c")])
        assert caught.value.rows == [1]
    finally:
        model._runner = runner


def test_scores_keep_their_scale_when_copied() -> None:
    scores = Scores([0.25, 0.5], "probability")
    assert (scores.copy().scale, scores[[1]].scale) == ("probability", "probability")
    again = pickle.loads(pickle.dumps(scores))
    assert (again.tolist(), again.scale) == ([0.25, 0.5], "probability")
    mask = pickle.loads(pickle.dumps(scores > 0.3))
    assert (mask.dtype, scores[mask].tolist()) == (np.bool_, [0.5])


def test_the_python_of_the_document_runs_and_its_template_is_the_official_one(reranker_folder: Path, capsys) -> None:
    document = (ROOT / "docs/reranker.md").read_text("utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", document, re.DOTALL)
    exec(code.replace('"DIR"', repr(str(reranker_folder))), {})
    assert capsys.readouterr().out == "probability probability log_odds\n"
    shown = re.search(r"```\n(<\|im_start\|>system.*?)```", document, re.DOTALL)[1]
    assert shown == OFFICIAL.prefix + OFFICIAL.body + OFFICIAL.suffix


# q3 rerank


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    code = main([str(argument) for argument in arguments])
    return code, *capsys.readouterr()


def test_q3_rerank_prints_the_best_first(capsys, reranker_folder: Path, model: Reranker) -> None:
    code, out, err = run(capsys, "rerank", reranker_folder, "--quant", "fp32", "--query", QUERY, *DOCUMENTS[:3])
    assert (code, err) == (0, "")
    expected = [f"{score:7.3f}  {row + 1:>5}  {DOCUMENTS[row]}" for row, score in model.rank(QUERY, DOCUMENTS[:3])]
    assert out.splitlines() == expected


@pytest.mark.parametrize("dash", [[], ["-"]])
def test_q3_rerank_reads_lines_and_prints_json(capsys, monkeypatch, reranker_folder: Path, model: Reranker, dash: list) -> None:
    lines = [DOCUMENTS[2], DOCUMENTS[0]]
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("\n".join(lines).encode()), encoding="utf-8"))
    arguments = ("rerank", reranker_folder, "--quant", "fp32", "--query", QUERY, "--top", 1, "--raw", "--json", *dash)
    code, out, err = run(capsys, *arguments)
    assert (code, err) == (0, "")
    ((row, score),) = model.rank(QUERY, lines, top_n=1, raw=True)
    found = json.loads(out)
    assert found["scale"] == "log_odds"
    assert found["results"] == [{"score": pytest.approx(score, abs=1e-5), "line": row + 1, "text": lines[row]}]


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("--query", "a", "--top", "0", "b"), 2, "--top is 0, expected at least 1"),
        (("--query", "a", "--quant", "q9", "b"), 2, "q9"),
    ],
)
def test_q3_rerank_says_what_is_wrong(capsys, reranker_folder: Path, arguments: tuple, code: int, words: str) -> None:
    found, out, err = run(capsys, "rerank", reranker_folder, *arguments)
    assert (found, out) == (code, "")
    assert words in err


def test_q3_rerank_wants_documents(capsys, monkeypatch, reranker_folder: Path) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b""), encoding="utf-8"))
    code, out, err = run(capsys, "rerank", reranker_folder, "--query", "a")
    assert (code, out) == (3, "")
    assert "no documents, expected one a line" in err


@pytest.mark.parametrize("verb", ["embed", "search"])
def test_the_verbs_for_vectors_name_q3_rerank(capsys, reranker_folder: Path, tmp_path: Path, verb: str) -> None:
    (tmp_path / "p.txt").write_text("a\n", "utf-8")
    code, out, err = run(capsys, verb, reranker_folder, *(["a"] if verb == "embed" else [tmp_path / "p.txt", "--query", "a"]))
    assert (code, out) == (3, "")
    assert "q3 rerank" in err
