"""An onnxruntime session whose run an interrupt stops."""

import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import TYPE_CHECKING, Any

import numpy.typing as npt

if TYPE_CHECKING:
    import onnxruntime

SHORT = 64
"""Tokens of a run that ends soon enough by itself: most queries. Handed over, it would wait for a core on a busy machine."""
GIVE_BACK = ("memory.enable_memory_arena_shrinkage", "cpu:0")
"""What onnxruntime's arena is told after a run; it would keep the memory of the largest batch that it ever saw. Without an
arena the heap's blocks leave holes: at 0.6B as int8 the whole process then takes 1.3 to 1.8 times as much memory."""
WAKE_UP = 0.1
"""Seconds after which a wait looks for signals, on Windows, where they do not end it."""


class InterruptibleSession:
    """A session whose run in the main thread stops at a signal whose handler raises, as Ctrl-C's does. Threads may share it.

    Python handles signals in its main thread, and never while onnxruntime computes there. So what the main thread asks for
    is computed by a worker: one thread, which starts when it is needed and ends with this object. Kept between runs, it
    costs some 0.05 ms each, a new thread for every run several times that.
    """

    def __init__(self, session: "onnxruntime.InferenceSession") -> None:
        self._session = session
        self._worker = ThreadPoolExecutor(1, "q3-run")

    def run(self, outputs: Sequence[str], feeds: Mapping[str, npt.NDArray[Any]]) -> Sequence[Any]:
        """The outputs, in the order of their names, of feeds [B, T].

        What a signal's handler raises comes out once the operator that was being computed is done. The next run works.
        """
        from onnxruntime import RunOptions

        options = RunOptions()
        options.add_run_config_entry(*GIVE_BACK)
        is_short = all(feed.size <= SHORT for feed in feeds.values())
        if is_short or not _is_main_thread():
            results: Sequence[Any] = self._session.run(outputs, feeds, options)
            return results
        future: Future[Sequence[Any]] | None = None
        try:
            future = self._worker.submit(self._session.run, outputs, feeds, options)
            while not future.done():
                wait([future], WAKE_UP)  # result() would say by TimeoutError that time is up, as a handler may too
            return future.result()
        except BaseException:
            options.terminate = True
            if future is not None:  # so that its memory is free when the caller goes on
                wait([future])
            raise


def _is_main_thread() -> bool:
    """Whether signals are handled here. No longer while Python ends, and starts no thread."""
    main = threading.main_thread()
    return threading.current_thread() is main and main.is_alive()
