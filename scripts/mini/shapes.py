"""Batches of few shapes: oneDNN prepares its bfloat16 kernels anew for every shape that it has not seen."""

import random
from collections.abc import Iterator

import torch

STEP = 16


def same_shape(lengths: list[int], tokens: int, rng: random.Random | None = None) -> Iterator[tuple[list[int], int]]:
    """Indices of at most ``tokens // T`` texts and T, a multiple of 16 that holds them; in random order if ``rng`` is given."""
    buckets: dict[int, list[int]] = {}
    for index, length in enumerate(lengths):
        buckets.setdefault(-(-length // STEP) * STEP, []).append(index)
    batches = []
    for length, rows in sorted(buckets.items()):
        if rng is not None:
            rng.shuffle(rows)
        size = max(1, tokens // length)
        batches += [(rows[start : start + size], length) for start in range(0, len(rows), size)]
    if rng is not None:
        rng.shuffle(batches)
    yield from batches


def pad(ids: list[list[int]], length: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids padded with zeros on the right, [B, T] int64, and their lengths, [B]."""
    padded = torch.zeros(len(ids), length, dtype=torch.long)
    for row, found in enumerate(ids):
        padded[row, : len(found)] = torch.tensor(found)
    return padded, torch.tensor(list(map(len, ids)))
