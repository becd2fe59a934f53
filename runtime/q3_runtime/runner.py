"""One batch of token ids → a row of numbers for each text, in as many runs as memory asks for."""

import os
import re
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from q3_runtime.batching import pad
from q3_runtime.errors import ProviderError, TooLargeError, UsageError
from q3_runtime.interruptible import InterruptibleSession
from q3_runtime.memory import ModelSizes, available_memory, give_back_freed
from q3_runtime.memory_share import SHARE
from q3_runtime.session import CPU, one_line
from q3_runtime.vectors import Vectors

if TYPE_CHECKING:
    import onnxruntime

Ids = npt.NDArray[np.int64]
NO_MEMORY = re.compile("bad_alloc|bad allocation|failed to allocate|alloc_failed|out of memory|out_of_memory", re.IGNORECASE)
"""What onnxruntime's messages hold when an allocation failed; its exceptions have no type for it."""
EMPTIED_AFTER = 1 << 30
"""Bytes that runs took together, after which the heap is emptied: runs of many sizes leave holes in it, more with every hour.
Emptied after every run it would make small ones a tenth slower."""
ANOTHER = f"try another quant, {CPU} where it ran elsewhere, or export or download the folder again"


class Runner:
    """A session in the process that opened it, until it is closed. Threads may share it.

    Args:
        session: of onnxruntime.
        pad_id: what shorter rows are filled with.
        sizes: the model's, to estimate a run; None where they are unknown, or memory is not the system's, on a GPU.
        output: of the graph, [B, X]: vectors, or a reranker's log-odds.
        available: bytes that a run may take, asked before each; None: unknown.
    """

    def __init__(
        self,
        session: "onnxruntime.InferenceSession",
        pad_id: int,
        sizes: ModelSizes | None,
        output: str = "sentence_embedding",
        available: Callable[[], int | None] = available_memory,
    ) -> None:
        self._session: InterruptibleSession | None = InterruptibleSession(session)
        self._pad_id, self._sizes, self._output, self._available = pad_id, sizes, output, available
        self._process = os.getpid()
        self._taken = 0

    def close(self) -> None:
        """Give the session's memory back, once no thread runs it any more. Closing twice is fine."""
        self._session = None
        give_back_freed()  # glibc may keep all of it

    def session(self) -> InterruptibleSession:
        """The session, where it can be used.

        Raises:
            ProviderError: this process is a fork of the one that opened it.
            UsageError: it was closed.
        """
        if os.getpid() != self._process:
            raise ProviderError(
                f"this model was loaded by process {self._process} and cannot be used in its fork {os.getpid()}, which lacks "
                "onnxruntime's threads; load it in each process, or start them with multiprocessing's 'spawn'"
            )
        if self._session is None:
            raise UsageError("this model was closed, expected an open one; load it again")
        return self._session

    def run(self, ids: Sequence[Ids], names: Sequence[int], padding_side: str = "right", output: str | None = None) -> Vectors:
        """The output [B, X] of B rows; ``names`` is what to call each row in an error.

        ``output`` names another one of the graph's; of one that has an axis of tokens, [B, T, X], rows must be given alone.

        A batch that does not fit in memory, by estimate or by experience, is halved, down to single rows; one of these that
        does not fit beside the runs of other threads waits for them.

        Raises:
            TooLargeError: a single row does not fit.
            ProviderError: onnxruntime cannot run the graph, or it gives something else; see :meth:`session` too.
            UsageError: see :meth:`session`.
        """
        session = self.session()
        needed = self._estimate(ids)
        with self._reserved(needed, waits=len(ids) == 1) as room:
            if room is None or needed <= room:
                try:
                    (found,) = session.run([output or self._output], pad(ids, self._pad_id, padding_side))
                    self._taken += needed
                    if self._taken > EMPTIED_AFTER:
                        self._taken = 0
                        give_back_freed()
                    return _rows(found, len(ids))
                except Exception as error:
                    if not (isinstance(error, MemoryError) or NO_MEMORY.search(str(error))):
                        if type(error).__module__.startswith("onnxruntime."):
                            raise ProviderError(f"onnxruntime cannot run this graph: {one_line(error)}; {ANOTHER}") from error
                        raise
                    room = None  # the estimate, or what the system said, was too hopeful
        if len(ids) == 1:
            raise TooLargeError(names[0], len(ids[0]), needed, room)
        half = len(ids) // 2
        first, second = (self.run(ids[part], names[part], padding_side, output) for part in (slice(half), slice(half, None)))
        return np.concatenate([first, second])

    def _estimate(self, ids: Sequence[Ids]) -> int:
        return 0 if self._sizes is None else self._sizes.run_bytes(len(ids), max(map(len, ids)))

    def _reserved(self, needed: int, *, waits: bool) -> AbstractContextManager[int | None]:
        return nullcontext() if self._sizes is None else SHARE.reserved(needed, self._available, waits=waits)


def _rows(found: object, rows: int) -> Vectors:
    if isinstance(found, np.ndarray) and found.dtype.kind == "f" and found.ndim > 1 and len(found) == rows:
        return found.astype(np.float32, copy=False)
    what = f"{found.dtype} {list(found.shape)}" if isinstance(found, np.ndarray) else type(found).__name__
    raise ProviderError(f"the graph gave {what} for {rows} texts, expected a row of numbers for each; {ANOTHER}")
