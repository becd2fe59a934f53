"""Golden probes through a loaded model, alone and in batches: what both kinds of fidelity are made of."""

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from q3_runtime.batching import batches, default_budget
from q3_runtime.errors import FidelityError
from q3_runtime.golden import Golden, Probe
from q3_runtime.tokenization import Encoded
from q3_runtime.vectors import Vectors

SHORT_TOKENS = 256
"""Batch invariance is measured on probes up to this length,"""
SHORT_PROBES = 64
"""and on so many of them, evenly spaced: alone and in a batch they take longer than all probes for the other figures."""
MIXED_BATCH = 8
Ids = npt.NDArray[np.int64]


class Model(Protocol):
    """An embedder or a reranker."""

    quant: str
    provider: str

    def encode_probes(self, probes: Sequence[Probe]) -> list[Encoded]:
        """Token ids of golden probes."""
        ...

    def run(self, ids: Sequence[Ids], *, padding_side: str = "right") -> Vectors:
        """One batch → [B, X]."""
        ...


def golden_ids(model: Model, golden: Golden) -> list[Ids]:
    """Token ids of the probes, by the model's own tokenizer.

    Raises:
        FidelityError: they are not those of the exporter.
    """
    encoded = model.encode_probes(golden.probes)
    for i, (probe, item) in enumerate(zip(golden.probes, encoded, strict=True)):
        if item.ids.tolist() != probe.ids:
            raise FidelityError(
                f"probe {i} ({probe.group}) gives other token ids than at export; type: pip install -U tokenizers"
            )
    return [item.ids for item in encoded]


def run_all(model: Model, ids: Sequence[Ids], *, progress: bool = False) -> Vectors:
    """What the model gives for all texts, [N, X], in the batches of everyday use."""
    found: list[Vectors] = [np.empty(0, np.float32)] * len(ids)
    with tqdm(total=len(ids), desc=f"verify {model.quant}", unit="text", disable=not progress) as bar:
        for rows in batches(list(map(len, ids)), default_budget(model.provider)):
            for row, values in zip(rows, model.run([ids[row] for row in rows]), strict=True):
                found[row] = values
            bar.update(len(rows))
    return np.stack(found)


def alone_and_mixed(model: Model, ids: Sequence[Ids]) -> tuple[Vectors, Vectors]:
    """What it gives [n, X] for short texts one by one, and for the same in shuffled batches, padded left and right in turn."""
    ids = [row for row in ids if len(row) <= SHORT_TOKENS] or [min(ids, key=len)]
    ids = [ids[row] for row in np.linspace(0, len(ids) - 1, min(SHORT_PROBES, len(ids))).astype(int)]
    order = np.random.default_rng(0).permutation(len(ids))
    alone = np.concatenate([model.run([row]) for row in ids])
    mixed = np.empty_like(alone)
    for number, start in enumerate(range(0, len(order), MIXED_BATCH)):
        rows = order[start : start + MIXED_BATCH]
        mixed[rows] = model.run([ids[row] for row in rows], padding_side="left" if number % 2 else "right")
    return finite(alone), finite(mixed)


def finite(vectors: Vectors) -> Vectors:
    """Rows that are not finite become zero, so that their cosine is 0."""
    return np.where(np.isfinite(vectors).all(axis=1, keepdims=True), vectors, np.float32(0))


def spearman(a: npt.NDArray[np.float32], b: npt.NDArray[np.float32]) -> float:
    """Rank correlation of two series [n]; ties count by their order, which is fine for similarities in float32."""
    if len(a) < 2:
        return 1.0  # one value alone has its rank
    ranks = [np.argsort(np.argsort(values, kind="stable"), kind="stable").astype(np.float64) for values in (a, b)]
    return float(np.corrcoef(ranks[0], ranks[1])[0, 1])


def rounded(value: Any) -> float:
    """As the manifest keeps it."""
    return round(float(value), 8)
