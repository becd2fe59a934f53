"""Memory is shared by the runs of a process: one that does not fit beside those under way waits until it does."""

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from q3_runtime.memory import give_back_freed


class MemoryShare:
    """What the runs under way will take, whether they have taken it by now or not."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._runs = self._promised = 0
        self._room_before = 0
        """What there was before the runs under way began."""

    @contextmanager
    def reserved(self, needed: int, room: Callable[[], int | None], *, waits: bool = True) -> Iterator[int | None]:
        """Within the block ``needed`` bytes are promised to nobody else. Gives the bytes that there are for it; None: unknown.

        They are fewer than ``needed`` where nothing else runs and the heap was emptied, and, unless it ``waits``, where others
        run beside which it does not fit. Who waits may be overtaken by what does fit: a query need not wait for a long text
        that waits for another one.
        """
        with self._changed:
            found = room()
            while waits and self._runs and not self._fits(needed, found):
                self._changed.wait()
                found = room()
            if not self._runs and found is not None and needed > found:
                give_back_freed()
                found = room()
            self._room_before = min(self._room_before, (found or 0) + self._promised) if self._runs else found or 0
            if self._runs and not self._fits(needed, found):
                found = 0
            promised = needed if found is None or needed <= found else 0
            self._runs, self._promised = self._runs + 1, self._promised + promised
        try:
            yield found
        finally:
            with self._changed:
                self._runs, self._promised = self._runs - 1, self._promised - promised
                self._changed.notify_all()

    def _fits(self, needed: int, found: int | None) -> bool:
        """Runs under way have taken a part of what was there before them, nobody knows how much."""
        return found is None or (needed <= found and needed + self._promised <= max(found, self._room_before))


SHARE = MemoryShare()
"""Of all models that this process has on the CPU."""
if hasattr(os, "register_at_fork"):  # whose threads the fork does not have
    os.register_at_fork(after_in_child=SHARE.__init__)  # type: ignore[misc]
