"""Memory is shared by the runs of a process: one that does not fit beside those under way waits until it does."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from q3_runtime.memory import give_back_freed


class MemoryShare:
    """What the runs under way will take, whether they have taken it by now or not."""

    def __init__(self) -> None:
        self._turn = threading.Lock()  # held by who waits, so that nobody overtakes
        self._changed = threading.Condition()
        self._runs = self._promised = 0
        self._room_before = 0
        """What there was when the first of the runs under way began."""

    @contextmanager
    def reserved(self, needed: int, room: Callable[[], int | None]) -> Iterator[int | None]:
        """``with`` it, ``needed`` bytes are promised to nobody else. Gives the bytes that there are; None: unknown.

        They may be fewer than ``needed``, but only where nothing else runs, and after the heap was emptied.
        """
        with self._turn, self._changed:
            found = room()
            while found is not None and self._runs and not self._fits(needed, found):
                self._changed.wait()
                found = room()
            if found is not None and needed > found:
                give_back_freed()
                found = room()
            if not self._runs:
                self._room_before = found or 0
            self._runs, self._promised = self._runs + 1, self._promised + needed
        try:
            yield found
        finally:
            with self._changed:
                self._runs, self._promised = self._runs - 1, self._promised - needed
                self._changed.notify_all()

    def _fits(self, needed: int, found: int) -> bool:
        """Runs under way have taken a part of what was there before them, nobody knows how much."""
        return needed <= found and needed + self._promised <= max(found, self._room_before)
