"""Tasks, by processes of this machine. One that dies is replaced, and its task begun again: attempts.py counts."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Generator, Sequence
from contextlib import suppress
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from typing import Any

from q3_runtime.bulk.folder import OutFolder
from q3_runtime.bulk.tasks import Plan, Task
from q3_runtime.bulk.worker import Options, options_text
from q3_runtime.errors import ProviderError
from q3_runtime.loading import Found
from q3_runtime.memory import available_memory
from q3_runtime.processors import available_threads
from q3_runtime.session import PROVIDERS

MODEL_SHARE, WORKER_BYTES, MEMORY_SHARE = 1.1, 300_000_000, 0.8
"""A worker takes its model and something more, and all of them a part of the memory."""


def default_workers(found: Found, threads: int) -> int:
    """As many processes as there are cores for, and memory: each holds the model."""
    if found.provider != PROVIDERS["cpu"]:
        return 1
    cores = available_threads() or os.cpu_count() or 1
    memory = available_memory()
    each = found.manifest.quants[found.quant].total_bytes * MODEL_SHARE + WORKER_BYTES
    fitting = cores if memory is None else int(memory * MEMORY_SHARE / each)
    return max(1, min(cores // threads, fitting))


def run_local(
    options: Options, plan: Plan, numbers: Sequence[int], workers: int, say: Callable[[str], None], _address: str | None = None
) -> Generator[dict[str, Any], None, None]:
    """The answer to each task, in the order in which they end; workers end with this iterator, however it ends.

    Raises:
        ProviderError: a process ended before it was ready.
    """
    answers: Answers = SimpleQueue()
    todo, again = map(plan.task, numbers), list[Task]()
    running = {_Process(options, answers) for _ in range(min(workers, len(numbers)))}
    try:
        while running:
            process, answer = answers.get()
            if answer is None:
                running.discard(process)
                end = process.end()
                if process.task is not None:
                    say(f"a worker ended in task {process.task.number} ({end}); it is begun again")
                    again.append(process.task)
                    running.add(_Process(options, answers))
                elif not process.was_ready:
                    raise ProviderError(f"a worker ended while it loaded the model: {end}; run with fewer --workers")
                continue
            if "ready" not in answer:
                process.task = None
                yield answer
            process.was_ready = True
            task = again.pop() if again else next(todo, None)
            process.close() if task is None else process.give(task)
    finally:
        for process in running:
            process.kill()


class _Process:
    """A worker and the task that it has. Ctrl-C in a terminal does not reach it."""

    def __init__(self, options: Options, answers: "Answers") -> None:
        self.task: Task | None = None
        self.was_ready = False
        self._log = OutFolder(Path(options.out)).temporary()
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "q3_runtime.bulk.worker", options_text(options)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,
            )
        self._listener = Thread(target=self._listen, args=[answers], daemon=True)
        self._listener.start()

    def give(self, task: Task) -> None:
        """A worker that cannot take it any more has ended, which its answers will say."""
        self.task = task
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(task).encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            return

    def close(self) -> None:
        """There is no more work."""
        assert self._process.stdin is not None
        self._process.stdin.close()

    def kill(self) -> None:
        """At once; what it was writing stays without a name."""
        self._process.kill()
        self.end()

    def end(self) -> str:
        """How it ended, with the last line that it wrote."""
        self._listener.join()
        with suppress(OSError), self._process:  # what it did not read any more cannot be flushed
            pass
        code = self._process.returncode
        lines = self._log.read_text("utf-8", "replace").split("\n")
        self._log.unlink(missing_ok=True)
        last = next((line.strip() for line in reversed(lines) if line.strip()), "")
        how = f"signal {-code}" if code < 0 else f"code {code}"
        return f"{how}: {last[:200]}" if last else how

    def _listen(self, answers: "Answers") -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.endswith(b"\n"):  # half a line is a worker that was killed
                answers.put((self, json.loads(line)))
        answers.put((self, None))


Answers = SimpleQueue[tuple[_Process, dict[str, Any] | None]]
