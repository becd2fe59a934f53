"""MTEB's own task classes over texts at hand; the instruction of a retrieval task stands in its metadata, as in MTEB."""

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets import Dataset
from mteb.abstasks import AbsTaskRetrieval, AbsTaskSTS
from mteb.abstasks.task_metadata import TaskMetadata

CODES = {
    "en": "eng-Latn",
    "de": "deu-Latn",
    "es": "spa-Latn",
    "zh": "zho-Hans",
    "python": "python-Code",
    "js": "javascript-Code",
}
"""Our name of a subset → MTEB's code of its language."""
SPLIT = "test"
Pairs = Sequence[tuple[str, str, float]]


@dataclass(frozen=True)
class Collection:
    """Documents and queries by their ids, and the ids of the documents that are right for each query."""

    documents: Mapping[str, str]
    queries: Mapping[str, str]
    relevant: Mapping[str, Mapping[str, int]]


def sts(name: str, subsets: Mapping[str, Pairs]) -> AbsTaskSTS:
    """A similarity task: pairs and people's scores from 0 to 5, by language."""

    class Task(AbsTaskSTS):
        metadata = _metadata(name, "STS", "cosine_spearman", subsets)

        def load_data(self, *_: Any, **__: Any) -> None:
            self.dataset = {subset: {SPLIT: _pairs(rows)} for subset, rows in subsets.items()}
            self.data_loaded = True

    return Task()


def retrieval(name: str, subsets: Mapping[str, Collection], instruction: str) -> AbsTaskRetrieval:
    """A retrieval task, by language; its queries have this instruction."""

    class Task(AbsTaskRetrieval):
        metadata = _metadata(name, "Retrieval", "ndcg_at_10", subsets, {"query": instruction})

        def load_data(self, *_: Any, **__: Any) -> None:
            self.dataset = {subset: {SPLIT: _collection(found)} for subset, found in subsets.items()}
            self.data_loaded = True

    return Task()


def read_pairs(path: Path) -> Pairs:
    """STS-B's rows: two texts and a score."""
    with path.open(encoding="utf-8", newline="") as file:
        return [(left, right, float(score)) for left, right, score in csv.reader(file)]


def read_collection(folder: Path) -> Collection:
    """A folder in BEIR's layout; titles, which say what a paragraph is about, are left out."""
    documents, queries = (
        {row["_id"]: row["text"] for row in map(json.loads, (folder / name).read_text("utf-8").splitlines())}
        for name in ("corpus.jsonl", "queries.jsonl")
    )
    relevant: dict[str, dict[str, int]] = {}
    for line in (folder / "qrels/test.tsv").read_text("utf-8").splitlines()[1:]:
        query, document, score = line.split("\t")
        relevant.setdefault(query, {})[document] = int(score)
    return Collection(documents, queries, relevant)


def _pairs(rows: Pairs) -> Dataset:
    left, right, scores = zip(*rows, strict=True)
    return Dataset.from_dict({"sentence1": left, "sentence2": right, "score": scores})


def _collection(found: Collection) -> dict[str, Any]:
    corpus, queries = (
        Dataset.from_dict({"id": list(texts), "text": list(texts.values())}) for texts in (found.documents, found.queries)
    )
    relevant = {query: dict(documents) for query, documents in found.relevant.items()}
    return {"corpus": corpus, "queries": queries, "relevant_docs": relevant, "top_ranked": None}


def _metadata(
    name: str, kind: str, score: str, subsets: Mapping[str, Any], prompt: dict[str, str] | None = None
) -> TaskMetadata:
    return TaskMetadata(
        name=name,
        description="Texts at hand, not from the hub.",
        dataset={"path": "local/local", "revision": "local"},
        type=kind,
        category="t2t",
        eval_splits=[SPLIT],
        eval_langs={subset: [CODES[subset]] for subset in subsets},
        main_score=score,
        prompt=prompt,
    )
