"""Published figures of the real weights: does PyTorch give them here, and how near do the quants come?

Nobody who develops this needs the weights; whoever exports a model of the table has them, and the export ends by comparing.
The figures and their sources are in data/published.json.
"""

import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from q3_export import reference
from q3_export.checkpoint import Checkpoint
from q3_export.specs import SPECS
from q3_runtime.errors import FidelityError, Q3Error
from q3_runtime.pair_tokenization import PairTokenizer
from q3_runtime.prompts import OFFICIAL_PROMPTS
from q3_runtime.templates import Template
from q3_runtime.tokenization import Tokenizer

MAX_SIMILARITY_DELTA = 0.005
MIN_VECTOR_COSINE = 0.999
MAX_LOG_ODDS_DELTA = 0.05

Vectors = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Published:
    """What is published of an embedding model: similarities of queries and documents, and vectors of texts without a prompt."""

    queries: list[str]
    documents: list[str]
    similarities: list[list[float]]
    similarities_source: str
    vectors: list[dict[str, Any]] = field(default_factory=list)

    @property
    def texts(self) -> list[str]:
        """Everything to embed, prompts included: queries, documents, texts with a vector."""
        queries = [OFFICIAL_PROMPTS["query"] + query for query in self.queries]
        return [*queries, *self.documents, *(entry["text"] for entry in self.vectors)]

    def ids(self, checkpoint: Checkpoint) -> list[list[int]]:
        """Token ids of what is to be run."""
        tokenizer = Tokenizer(checkpoint.folder / "tokenizer.json", checkpoint.max_tokens)
        return [item.ids.tolist() for item in tokenizer.encode(self.texts)]

    def differences(self, found: Vectors) -> tuple[float, float]:
        """Largest |Δ similarity| and smallest cosine to a published vector (1 if there is none), from unit vectors [N, D]."""
        queries, documents, others = np.split(found, np.cumsum([len(self.queries), len(self.documents)]))
        delta = float(np.abs(queries @ documents.T - np.asarray(self.similarities)).max())
        published = np.asarray([entry["vector"] for entry in self.vectors], dtype=np.float64).reshape(len(others), -1)
        cosines = [float(a @ b / np.linalg.norm(b)) for a, b in zip(others, published, strict=True)]
        return delta, min(cosines, default=1.0)

    def line(self, name: str, found: Vectors) -> str:
        """One line for the user."""
        delta, cosine = self.differences(found)
        vectors = f", cosine to the published vector {cosine:.6f}" if self.vectors else ""
        return f"published figures, {name}: largest difference of a similarity {delta:.5f}{vectors}"

    def missed(self, found: Vectors) -> str | None:
        """What was expected, if it is not met."""
        delta, cosine = self.differences(found)
        if delta <= MAX_SIMILARITY_DELTA and cosine >= MIN_VECTOR_COSINE:
            return None
        return f"at most {MAX_SIMILARITY_DELTA} and at least {MIN_VECTOR_COSINE} ({self.similarities_source})"

    def by_quant(self, folder: Path, options: list[str]) -> Vectors:
        """What a quant of the folder gives, in a process without PyTorch."""
        with tempfile.TemporaryDirectory() as scratch:
            out = Path(scratch) / "vectors.npy"
            _q3("embed", str(folder), *options, "--out", str(out), *self.texts)
            vectors: Vectors = np.load(out)
        return vectors


@dataclass(frozen=True)
class PublishedScores:
    """What is published of a reranker: the log-odds of a query's documents."""

    query: str
    documents: list[str]
    log_odds: list[float]
    log_odds_source: str

    def ids(self, checkpoint: Checkpoint) -> list[list[int]]:
        """Token ids of what is to be run."""
        template = Template.from_prompts(checkpoint.prompts)
        tokenizer = PairTokenizer(checkpoint.folder / "tokenizer.json", checkpoint.max_tokens, template)
        bodies = [template.fill(self.query, document) for document in self.documents]
        return [item.ids.tolist() for item in tokenizer.encode(bodies)]

    def _delta(self, found: Vectors) -> float:
        return float(np.abs(found[:, 0] - np.asarray(self.log_odds)).max())

    def line(self, name: str, found: Vectors) -> str:
        """One line for the user; ``found`` are log-odds [N, 1]."""
        return f"published figures, {name}: largest difference of the log-odds {self._delta(found):.4f}"

    def missed(self, found: Vectors) -> str | None:
        """What was expected, if it is not met."""
        within = self._delta(found) <= MAX_LOG_ODDS_DELTA
        return None if within else f"at most {MAX_LOG_ODDS_DELTA} ({self.log_odds_source})"

    def by_quant(self, folder: Path, options: list[str]) -> Vectors:
        """What a quant of the folder gives, in a process without PyTorch."""
        said = _q3("rerank", str(folder), *options, "--query", self.query, "--raw", "--json", *self.documents)
        found = {entry["line"]: entry["score"] for entry in json.loads(said)["results"]}
        return np.asarray([[found[number + 1]] for number in range(len(self.documents))], dtype=np.float32)


FORMS: dict[str, type[Published] | type[PublishedScores]] = {"embedding": Published, "reranker": PublishedScores}


def figures_of(checkpoint: Checkpoint) -> Published | PublishedScores | None:
    """What is published of this model at this revision, or None; folders have no revision and so no figures."""
    pinned = {spec.repo: spec.revision for spec in SPECS.values() if spec.repo and spec.revision}
    if checkpoint.revision is None or pinned.get(checkpoint.id) != checkpoint.revision:
        return None
    entry = load().get(checkpoint.id)
    return FORMS[checkpoint.kind](**entry) if entry else None


def load() -> dict[str, Any]:
    """data/published.json: hub id → figures."""
    content: dict[str, Any] = json.loads(files("q3_export").joinpath("data", "published.json").read_text("utf-8"))
    return content


def check_reference(
    figures: Published | PublishedScores, checkpoint: Checkpoint, *, device: str = "cpu", progress: bool = False
) -> str:
    """PyTorch in float32 against the published figures; returns the line to print.

    Raises:
        FidelityError: a similarity differs by more than 0.005, a vector's cosine is below 0.999, or log-odds differ by
            more than 0.05.
    """
    found = reference.RUN[checkpoint.kind](checkpoint, figures.ids(checkpoint), device=device, progress=progress)
    line, expected = figures.line("PyTorch float32", found), figures.missed(found)
    if expected:
        raise FidelityError(
            f"{checkpoint.id}: {line}; expected {expected}; these are not the published weights: download them again"
        )
    return line


def quant_line(figures: Published | PublishedScores, folder: Path, quant: str, provider: str) -> str:
    """How near a finished quant comes: printed, not judged.

    Raises:
        Q3Error: the folder cannot be loaded.
    """
    return figures.line(quant, figures.by_quant(folder, ["--quant", quant, "--provider", provider]))


def _q3(*arguments: str) -> str:
    """Standard output of a ``q3`` of its own process."""
    command = [sys.executable, "-P", "-m", "q3_runtime.cli", *arguments]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    if run.returncode:
        raise Q3Error(f"q3 {arguments[0]} of the published texts failed: {run.stderr.strip()}")
    return run.stdout
