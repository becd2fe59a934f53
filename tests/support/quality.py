"""What vectors are worth: STS-B and XQuAD from the shared data, scored as MTEB and BEIR score them."""

import csv
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

LANGUAGES = {"sts": ("en", "de", "zh"), "xquad": ("en", "de", "es", "zh")}
Vectors = NDArray[np.float32]
Encode = Callable[[list[str]], Vectors]


@dataclass(frozen=True)
class Retrieval:
    """Questions, the paragraphs that answer them, and which: ``answers[i]`` is the row of question i's paragraph."""

    questions: list[str]
    paragraphs: list[str]
    answers: NDArray[np.int64]


def remembering(encode: Encode) -> Encode:
    """The same, and each list of texts is encoded once."""
    known: dict[tuple[str, ...], Vectors] = {}

    def vectors(texts: list[str]) -> Vectors:
        if tuple(texts) not in known:
            known[tuple(texts)] = encode(texts)
        return known[tuple(texts)]

    return vectors


def sts_pairs(shared: Path, language: str) -> tuple[list[str], list[str], NDArray[np.float64]]:
    """The 1,500 pairs of STS-B's development set, and people's scores, 0 to 5."""
    with (shared / f"text/stsb/stsb-{language}-dev.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file))
    return [row[0] for row in rows], [row[1] for row in rows], np.array([float(row[2]) for row in rows])


def xquad(shared: Path, language: str) -> Retrieval:
    """1,190 questions over 240 paragraphs of Wikipedia."""
    folder = shared / f"text/beir/xquad-{language}"
    paragraphs, questions = (
        {row["_id"]: row["text"] for row in map(json.loads, (folder / name).read_text("utf-8").splitlines())}
        for name in ("corpus.jsonl", "queries.jsonl")
    )
    rows = {identity: row for row, identity in enumerate(paragraphs)}
    lines = [line.split("\t") for line in (folder / "qrels/test.tsv").read_text("utf-8").splitlines()[1:]]
    answers = {query: rows[document] for query, document, score in lines if int(score) > 0}
    return Retrieval(list(questions.values()), list(paragraphs.values()), np.array([answers[query] for query in questions]))


def spearman(a: NDArray[np.floating], b: NDArray[np.floating]) -> float:
    """Rank correlation; tied values share their mean rank."""
    return float(np.corrcoef(_ranks(a), _ranks(b))[0, 1])


def sts_spearman(encode: Encode, shared: Path, language: str = "en", dim: int | None = None) -> float:
    """Rank correlation between the cosines of the pairs, at the first ``dim`` values, and people's scores."""
    left, right, scores = sts_pairs(shared, language)
    a, b = _shortened(encode(left), dim), _shortened(encode(right), dim)
    return spearman((a * b).sum(-1), scores)


def recall_at_10(questions: Vectors, paragraphs: Vectors, answers: NDArray[np.int64], dim: int | None = None) -> float:
    """Share of the questions whose paragraph is among the ten nearest."""
    similarity = _shortened(questions, dim) @ _shortened(paragraphs, dim).T
    nearest = np.argsort(-similarity, axis=1, kind="stable")[:, :10]
    return float((nearest == answers[:, None]).any(1).mean())


def _shortened(vectors: Vectors, dim: int | None) -> Vectors:
    cut = np.asarray(vectors, np.float32)[:, :dim]
    return cut / np.linalg.norm(cut, axis=1, keepdims=True)


def _ranks(values: NDArray[np.floating]) -> NDArray[np.float64]:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[inverse]
