"""The work that texts are before the model sees them: in a thread, and no more of it than is bearable."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from q3_runtime.server.refusals import RefusedError, overloaded

INLINE_CHARACTERS = 4096
"""Up to so many are read at once, in less time than it takes to hand them to a thread."""
MOST_CHARACTERS = 8_000_000
"""Read for one request; what is put in front of each text counts each time."""
REQUESTS_AT_ONCE = 4
"""Of so many; what is more gets 429."""
MANY_CHARACTERS = 65_536
"""What has more is read in a thread of its own, some .2 s a million, so that nothing shorter waits for it."""

Found = TypeVar("Found")


class Reader:
    """Threads that tokenize, for one model."""

    def __init__(self) -> None:
        self._few, self._many = (ThreadPoolExecutor(1, f"q3-serve-reader-{name}") for name in ("few", "many"))
        self._characters = 0

    def close(self) -> None:
        """Begin nothing more."""
        for thread in (self._few, self._many):
            thread.shutdown(wait=False, cancel_futures=True)

    async def run(self, characters: int, work: Callable[[], Found]) -> Found:
        """What ``work`` gives; in a thread where there are many characters to read.

        Raises:
            RefusedError: too many for one request, or for all that are being read.
        """
        if characters <= INLINE_CHARACTERS:
            return work()
        if characters > MOST_CHARACTERS:
            counted = f"{characters} characters, what is put in front of each text counted"
            raise RefusedError("too_many_tokens", f"{counted}, expected at most {MOST_CHARACTERS}; send them in parts")
        if self._characters + characters > REQUESTS_AT_ONCE * MOST_CHARACTERS:
            raise overloaded()
        self._characters += characters
        try:
            thread = self._many if characters > MANY_CHARACTERS else self._few
            return await asyncio.get_running_loop().run_in_executor(thread, work)
        finally:
            self._characters -= characters
