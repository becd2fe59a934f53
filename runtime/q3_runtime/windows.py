"""What one call is given, a window at a time: tokenized, sorted into batches, run and checked, with one bar and one warning."""

import warnings
from collections.abc import Callable, Collection, Iterator
from itertools import islice
from typing import TypeVar

from tqdm import tqdm

from q3_runtime.batching import Budget, batches, default_budget
from q3_runtime.errors import InputError, UsageError
from q3_runtime.runner import Runner
from q3_runtime.tokenization import Encoded
from q3_runtime.vectors import Vectors, check_finite
from q3_runtime.whole_numbers import whole

Item = TypeVar("Item")
WINDOW = 4096
"""Texts or pairs tokenized and sorted at a time: memory stays flat however many there are."""
NOUNS = {"vector": "text", "score": "pair"}
"""What comes out → what it is made of."""


def checked_budget(provider: str, batch_tokens: int | None, errors: str) -> Budget:
    """Of a call, whose options are checked; ``batch_tokens`` None: the provider's.

    Raises:
        UsageError: an option that is of no use.
    """
    budget = default_budget(provider)
    most = budget.batch_tokens if batch_tokens is None else whole(batch_tokens, 1)
    if most is None:
        raise UsageError(
            f"batch_tokens is {batch_tokens!r}, expected a whole number of at least 1, {budget.batch_tokens} say, or None"
        )
    if errors not in ("strict", "replace"):
        raise UsageError(f"errors is {errors!r}, expected 'strict' or 'replace'")
    return budget._replace(batch_tokens=most)


def run_windows(
    runner: Runner,
    items: Collection[Item],
    encode: Callable[[list[Item], int], list[Encoded]],
    *,
    what: str,
    budget: Budget,
    max_tokens: int,
    progress: bool,
) -> Iterator[tuple[list[int], Vectors]]:
    """Rows of a batch and what the model gives for them, float32 [B, X], until all N rows were given.

    Args:
        runner: runs a batch.
        items: N texts or pairs; read in their order, because not everything that has one can be sliced by row.
        encode: some of them, and the row of the first → token ids of each.
        what: ``vector`` or ``score``.
        budget: of one run.
        max_tokens: the limit at which ``encode`` cuts.
        progress: a progress bar on standard error.

    Raises:
        InputError: there are fewer of them than ``len`` says.
        NonFiniteError, TooLargeError, ProviderError: see q3_runtime.errors; what ``encode`` raises.
    """
    noun, cut = NOUNS[what], []
    count, rest = len(items), iter(items)
    with tqdm(total=count, unit=noun, disable=not progress) as bar:
        for start in range(0, count, WINDOW):
            expected = min(WINDOW, count - start)
            encoded = encode(list(islice(rest, expected)), start)
            if len(encoded) < expected:
                raise InputError(
                    f"len() says that there are {count} {noun}s, going through them gave {start + len(encoded)}, "
                    "expected as many; pass a list"
                )
            cut += [start + i for i, item in enumerate(encoded) if item.truncated]
            for rows in batches([len(item.ids) for item in encoded], budget):
                names = [start + row for row in rows]
                found = runner.run([encoded[row].ids for row in rows], names)
                check_finite(found, names, what=what)
                yield names, found
                bar.update(len(rows))
            del encoded  # else it is held while the next window is tokenized
    if cut:
        warnings.warn(
            f"{len(cut)} of {count} {noun}s had more than {max_tokens} tokens and were cut, "
            f"the first is {noun} {cut[0]}; pass truncate=False to refuse them",
            stacklevel=3,
        )
