"""How fast a model runs here: seconds of one query, tokens per second of batches and of a mix of texts, memory."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import numpy as np

from q3_runtime.embedder import Embedder
from q3_runtime.golden import Golden
from q3_runtime.memory import resident

QUERY_TOKENS, QUERIES = 16, 30
SHAPES = ((1, 128), (8, 128), (4, 512))
"""Rows and tokens of the batches that are run."""
ROUNDS = 3
MIX_TOKENS = 4000


@dataclass
class Figures:
    """What was measured. Seconds are of wall time; memory is in bytes, the peak of anonymous and shared pages (Linux)."""

    load_seconds: float
    query_p50: float = 0.0
    query_p95: float = 0.0
    tokens_per_second: dict[str, float] = field(default_factory=dict)
    """``8x128`` → tokens per second; ``mix``: of the texts, padding not counted."""
    mix_texts: int = 0
    mix_tokens: int = 0
    memory: int | None = None


def measure(load: Callable[[], Embedder], texts: Sequence[str] | None, tick: Callable[[], object] = int) -> Figures:
    """Load a model and run it; medians of three rounds.

    Args:
        load: opens the model.
        texts: the mix; None takes the model's own golden texts.
        tick: called after each thing that was measured.
    """
    with _peak() as peak:
        started = time.perf_counter()
        with load() as model:
            figures = Figures(time.perf_counter() - started)
            tick()
            _measure(model, texts, figures, tick)
        figures.memory = peak()
    return figures


def _measure(model: Embedder, texts: Sequence[str] | None, figures: Figures, tick: Callable[[], object]) -> None:
    ids = np.arange(1000, dtype=np.int64)
    final = model.tokenizer.final_ids[-1]

    def rows(count: int, tokens: int) -> list[Any]:
        return [np.append(np.resize(np.roll(ids, row), tokens - 1), final) for row in range(count)]

    seconds = _seconds(lambda: model.run(rows(1, QUERY_TOKENS)), QUERIES)
    figures.query_p50, figures.query_p95 = float(np.percentile(seconds, 50)), float(np.percentile(seconds, 95))
    tick()
    for count, tokens in SHAPES:
        batch = rows(count, tokens)
        figures.tokens_per_second[f"{count}x{tokens}"] = count * tokens / median(_seconds(lambda: model.run(batch), ROUNDS))  # noqa: B023  # run in this turn
        tick()
    mix = list(texts) if texts is not None else golden_texts(model)
    figures.mix_texts = len(mix)
    figures.mix_tokens = sum(len(item.ids) for item in model.tokenizer.encode(mix))
    figures.tokens_per_second["mix"] = figures.mix_tokens / median(_seconds(lambda: model.encode(mix), ROUNDS))
    tick()


def golden_texts(model: Embedder) -> list[str]:
    """Of the texts that travel with the folder, of many kinds and lengths, those that fit in MIX_TOKENS, prompts in front."""
    chosen, tokens = [], 0
    for probe in Golden.read(model.folder).probes:
        if tokens + len(probe.ids) <= MIX_TOKENS:
            chosen.append(model.prompts.get(probe.kind, "") + probe.text)
            tokens += len(probe.ids)
    return chosen


def _seconds(work: Callable[[], object], rounds: int) -> list[float]:
    """Of each round, after one that warms up."""
    found = []
    for _ in range(rounds + 1):
        started = time.perf_counter()
        work()
        found.append(time.perf_counter() - started)
    return found[1:]


@contextmanager
def _peak() -> Iterator[Callable[[], int | None]]:
    """Watches this process while the block runs; gives what was seen so far, None where the system does not say."""
    most, over = 0, threading.Event()

    def watch() -> None:
        nonlocal most
        while not over.wait(0.01):
            most = max(most, resident())

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield lambda: most or None
    finally:
        over.set()
        watcher.join()
