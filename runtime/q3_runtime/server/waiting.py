"""Rows that wait for the model: who is next, and who is near enough in length to share its batch."""

from bisect import bisect_left, insort
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from heapq import heapify, heappop, heappush
from itertools import count
from typing import Any

import numpy as np
import numpy.typing as npt

Ids = npt.NDArray[np.int64]
NEAR = 0.75
"""The shortest row of a batch has at least this share of the tokens of the longest: the rest would be computed for nothing."""
SHORT = 32
"""Rows of up to so many tokens are near each other in any case: a run of a few tokens costs about what a run of one does."""


@dataclass(eq=False)
class Row:
    """Token ids of one text, int64 [T], and whose they are."""

    ids: Ids
    index: int
    """Which of its request's rows."""
    owner: Any
    alone: Callable[[Ids], Any] | None = None
    """What to run for it by itself; None: it shares a batch."""
    due: tuple[float, int] = (0, 0)
    waits: bool = field(default=False, init=False)


class Waiting:
    """Rows in the order in which they are due, which is fair to requests and not to rows.

    A row is due at the virtual time at which its request came, plus the tokens of the request up to its own end; virtual time
    is what the row was due at that ran last (self-clocked fair queueing, Golestani 1994). So a single query goes ahead of most
    of a request of thousands of texts that came earlier, of two such requests neither waits for the other, and queries that
    keep coming do not keep a large request out.
    """

    def __init__(self) -> None:
        self._clock = 0.0
        self._serial = count()
        self._due: list[tuple[float, int]] = []
        self._rows: dict[tuple[float, int], Row] = {}
        self._by_length: list[tuple[int, tuple[float, int], Row]] = []

    def __len__(self) -> int:
        return len(self._rows)

    def add(self, rows: Sequence[Row]) -> None:
        """All rows of one request."""
        due = self._clock
        for row in rows:
            due += len(row.ids)
            row.due, row.waits = (due, next(self._serial)), True
            heappush(self._due, row.due)
            self._rows[row.due] = row
            if row.alone is None:
                insort(self._by_length, (len(row.ids), row.due, row))

    def remove(self, row: Row) -> None:
        """It is no longer wanted. Removing one that does not wait does nothing."""
        if row.waits:
            row.waits = False
            del self._rows[row.due]
            if row.alone is None:
                del self._by_length[self._place(row)]
            if len(self._due) > 2 * len(self._rows):  # else of clients that keep leaving more and more would stay
                self._due = list(self._rows)
                heapify(self._due)

    def take(self, batch_tokens: int) -> list[Row]:
        """The next batch: the row that is due, and its neighbours in length, at most ``batch_tokens`` with the padding."""
        while self._due:
            row = self._rows.get(heappop(self._due))
            if row is not None:
                self._clock = row.due[0]
                batch = self._with_neighbours(row, batch_tokens) if row.alone is None else [row]
                for taken in batch:
                    self.remove(taken)
                return batch
        return []

    def _with_neighbours(self, row: Row, batch_tokens: int) -> list[Row]:
        low = self._place(row)
        high = low + 1
        shortest = longest = len(row.ids)

        def fits(length: int) -> bool:
            most, least = max(longest, length), min(shortest, length)
            return (high - low + 1) * most <= batch_tokens and (least >= NEAR * most or most <= SHORT)

        while True:
            below = self._by_length[low - 1][0] if low else 0
            above = self._by_length[high][0] if high < len(self._by_length) else 0
            if above and fits(above) and (not below or above - longest <= shortest - below):
                high, longest = high + 1, above
            elif below and fits(below):
                low, shortest = low - 1, below
            elif above and fits(above):
                high, longest = high + 1, above
            else:
                return [row for _, _, row in self._by_length[low:high]]

    def _place(self, row: Row) -> int:
        return bisect_left(self._by_length, (len(row.ids), row.due), key=lambda entry: entry[:2])
