"""What the graph does with a text alone, padded, in a batch, and with a hole in its mask: run, not read."""

import re
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import tokenizers

from q3_runtime.doctor.findings import Finding, note, ok, problem
from q3_runtime.doctor.graph import POOLED, SCORES, Graph, Ids, RunError, Values, pooled, unit
from q3_runtime.doctor.patient import END, Patient
from q3_runtime.errors import IntegrityError
from q3_runtime.quants import MIN_BATCH_COSINE
from q3_runtime.tokenization import is_of_tokenizers

TEXTS = (
    "How do whales sleep?",
    "Half of a whale's brain sleeps at a time, while the other half keeps it breathing and watches for danger.",
    "The Black Death killed perhaps a third of the population of Europe within a few years, and the price of labour rose in "
    "the villages that were left; 人口の三分の一が失われた。",
)
MAX_ODDS_DELTA = 0.01
"""Of log-odds, which spread over some units: rounding moves them by less."""
PADDING = 12
"""Tokens of padding that are put around a text."""


class Subject(NamedTuple):
    """A graph, what to ask it for, and texts to ask with."""

    patient: Patient
    graph: Graph
    output: str
    rows: list[Ids]
    pad_id: int

    def give(self, rows: list[Ids], side: str = "right", padding: int = 0) -> Values:
        """Unit vectors [B, D], or log-odds [B, 1]."""
        found, mask = self.graph.run(rows, self.output, side=side, padding=padding, pad_id=self.pad_id)
        return self.finish(found, mask)

    def finish(self, found: Values, mask: Ids) -> Values:
        """The output → unit vectors, pooled as the folder says, or log-odds.

        Raises:
            RunError: it has other numbers of texts or tokens than went in.
        """
        wanted = mask.shape if found.ndim == 3 else mask.shape[:1]
        if found.shape[: len(wanted)] != wanted:
            raise RunError(f"of input {list(mask.shape)} {self.output} is {list(found.shape)}, expected {list(wanted)} and D")
        if self.output == SCORES:
            return found
        return unit(found) if self.output == POOLED else pooled(found, mask, self.patient.pooling or "lasttoken")

    def compare(self, found: Values, expected: Values) -> tuple[bool, str]:
        """Whether they are the same, but for rounding, and how near they are, in words."""
        if self.output == SCORES:
            delta = float(np.abs(found - expected).max())
            return delta <= MAX_ODDS_DELTA, f"largest difference of the log-odds {delta:.6f}"
        cosine = float((found * expected).sum(-1).min())
        return cosine >= MIN_BATCH_COSINE, f"cosine {cosine:.6f}"


def subject(patient: Patient, graph: Graph) -> Subject | None:
    """What can be measured; None where inputs or outputs are not those of such a model, or there is no tokenizer.

    Raises:
        IntegrityError: a tokenizer that does not encode every text.
    """
    output = SCORES if patient.kind == "reranker" else POOLED if POOLED in graph.outputs else graph.states
    asked = {"input_ids", "attention_mask"}
    if output not in graph.outputs or not asked <= graph.inputs.keys() or graph.unknown or patient.tokenizer is None:
        return None
    if len(graph.outputs[str(output)].shape) != (2 if output in (SCORES, POOLED) else 3):
        return None
    if output not in (SCORES, POOLED) and not re.match("last|mean|cls", patient.pooling or "last"):
        return None
    rows = [_ids(patient.tokenizer, text) for text in TEXTS]
    return Subject(patient, graph, str(output), rows, patient.tokenizer.token_to_id(END) or 0) if all(map(len, rows)) else None


def _ids(tokenizer: tokenizers.Tokenizer, text: str) -> Ids:
    try:
        return np.asarray(tokenizer.encode(text).ids, dtype=np.int64)
    except BaseException as error:
        if not is_of_tokenizers(error):
            raise
        raise IntegrityError(f"cannot encode {text[:20]!r}… ({error}), expected ids for every text") from error


def measure(patient: Patient, graph: Graph) -> Iterator[Finding]:
    """Every measurement, in turn, until the graph does not run."""
    try:
        found = subject(patient, graph)
    except IntegrityError as error:
        yield problem("tokenizer", str(error), "copy tokenizer.json of the original model")
        return
    if found is None:
        yield note("measured", "nothing: without a tokenizer, or with such inputs, outputs or pooling, the graph was not run")
        return
    try:
        yield from _measurements(found)
    except RunError as error:
        yield problem("running", f"the graph does not run: {error}", "export it again, with free batch and sequence lengths")


def _measurements(subject: Subject) -> Iterator[Finding]:
    alone = np.concatenate([subject.give([row]) for row in subject.rows])
    if not np.isfinite(alone).all() or not np.abs(alone).max(-1).all():
        yield problem("values", "NaN, infinity or zeros for plain English sentences", "use another quant, q8 or fp32 say")
        return
    yield from _pooling_in_the_graph(subject)
    for side in ("left", "right"):
        yield _padding(subject, alone, side)
    yield _batch(subject)
    yield _hole(subject)


def _pooling_in_the_graph(subject: Subject) -> Iterator[Finding]:
    """The pooled output against the last token's vector, where the graph gives both."""
    graph, states = subject.graph, subject.graph.states
    if subject.output != POOLED or states is None or not subject.patient.is_qwen3:
        return
    row = [subject.rows[0]]
    tokens, mask = graph.run(row, states, pad_id=subject.pad_id)
    same, how = subject.compare(subject.give(row), pooled(tokens, mask, "lasttoken"))
    if same:
        yield ok("pooling in the graph", f"{POOLED} is the last token of {states} ({how})")
    else:
        text = f"{POOLED} is not the last token of {states} ({how})"
        yield problem("pooling in the graph", text, "export it with last-token pooling")


def _padding(subject: Subject, alone: Values, side: str) -> Finding:
    """Each text alone in its batch, with padding beside it."""
    found = [subject.give([row], side, PADDING) for row in subject.rows]
    same, how = subject.compare(np.concatenate(found), alone)
    if same:
        return ok(f"padding on the {side}", f"gives what the text alone gives ({how})")
    text, remedy = f"gives something else than the text alone ({how})", f"do not pad on the {side}"
    wanted = subject.patient.is_qwen3 or side == subject.patient.padding_side
    return problem(f"padding on the {side}", text, remedy) if wanted else note(f"padding on the {side}", text, remedy)


def _batch(subject: Subject) -> Finding:
    """A text among others of its length, so that nothing is padded."""
    length = min(map(len, subject.rows))
    rows = [np.append(row[: length - 1], row[-1]) for row in subject.rows]
    together = subject.give(rows)
    same, how = subject.compare(together, np.concatenate([subject.give([row]) for row in rows]))
    if same:
        return ok("neighbours", f"a text among others gives what it gives alone ({how})")
    text = f"what a text gives depends on its neighbours in the batch ({how}), as where one scale serves a whole tensor"
    return problem("neighbours", text, "run one text at a time, or use a quant with a scale per token: q3-export --quant int8")


def _hole(subject: Subject) -> Finding:
    """A token in the middle that the mask leaves out: read, or left out."""
    row = subject.rows[1]
    middle = len(row) // 2
    mask = np.ones((1, len(row)), np.int64)
    mask[0, middle] = 0
    found = subject.finish(subject.graph.run_masked(row[None], mask, subject.output), mask)
    without, whole = subject.give([np.delete(row, middle)]), subject.give([row])
    if subject.compare(found, without)[0]:
        return ok("holes in the mask", "a token that is masked in the middle of a text counts as not there")
    reads = (
        "is read all the same"
        if subject.compare(found, whole)[0]
        else f"moves the outcome ({subject.compare(found, without)[1]})"
    )
    return note(
        "holes in the mask", f"a token that is masked in the middle of a text {reads}", "mask padding only, as tokenizers do"
    )
