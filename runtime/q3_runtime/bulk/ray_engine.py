"""Tasks, by a pool of actors of Ray Data, on this machine or on a cluster. Through Ray go the numbers of tasks, never vectors.

Ray starts an actor again that died, and its tasks with it; what was committed is skipped, and attempts.py counts.
"""

import json
import logging
import os
import re
import signal
import socket
import threading
from collections.abc import Callable, Generator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from q3_runtime.builds import with_extras
from q3_runtime.bulk.folder import OutFolder
from q3_runtime.bulk.tasks import Plan
from q3_runtime.bulk.worker import Options, Worker, told
from q3_runtime.errors import IntegrityError, ProviderError, Q3Error, StoppedError, UsageError

OBJECT_STORE = 100_000_000
"""Bytes on this machine; it holds descriptions of tasks."""
BLOCKS_PER_ACTOR = 16
PLACE, PATIENCE = re.compile(r"(?:ray://)?\[?([^/]+?)\]?:(\d+)"), 10.0
"""Host and port of a cluster, and the seconds it may take to answer."""


class Actor:
    """A worker as Ray Data takes it."""

    def __init__(self, options: dict[str, Any]) -> None:
        self._problem: dict[str, Any] | None = None
        """The first error, which ends the run; Ray hands out tasks for a while after it."""
        try:
            self._plan = Plan(OutFolder(Path(options["out"])))
            self._worker = Worker(Options(**options))
        except (Q3Error, OSError) as error:  # Ray would wrap what is raised here
            self._problem = {"error": told(error, options["out"])}
        except ValueError as error:
            there = IntegrityError(
                f"{options['out']}: {error}, as {socket.gethostname()} sees it; all machines must see one folder"
            )
            self._problem = {"error": told(there, options["out"])}

    def __call__(self, row: dict[str, Any]) -> dict[str, str]:
        """The answer to a task, as JSON."""
        answer = self._problem or self._worker.answer(self._plan.task(int(row["task"])))
        if "error" in answer:
            self._problem = answer
        return {"answer": json.dumps(answer)}


def _start(ray: Any, address: str | None, own: dict[str, Any]) -> None:
    try:
        if found := PLACE.fullmatch(address or ""):  # Ray itself tries for minutes
            socket.create_connection((found[1], int(found[2])), timeout=PATIENCE).close()
        ray.init(address=address or "local", log_to_driver=False, logging_level=logging.ERROR, **own)
    except Exception as error:  # Ray raises what it likes, down to Exception itself
        what = f"cannot be reached at {address}" if address else "did not start"
        raise ProviderError(f"Ray {what}: {' '.join(str(error).split())[:200]}; try again, or --engine local") from error


def run_ray(
    options: Options, _plan: Plan, numbers: Sequence[int], workers: int, say: Callable[[str], None], address: str | None = None
) -> Generator[dict[str, Any], None, None]:
    """The answer to each task, in the order in which they end.

    Args:
        options: of each worker; ``threads`` is what an actor takes of Ray's CPUs.
        numbers: of the tasks to do; an actor reads the plan itself.
        workers: actors at most.
        say: told where it runs.
        address: of a cluster; None starts Ray on this machine.

    Raises:
        UsageError: Ray is not installed, or in use in this process.
        ProviderError: Ray did not start.
        StoppedError: Ray itself failed.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        import ray
        import ray.data
        import ray.exceptions
    except ImportError as error:
        raise UsageError(f"{error.name} is not installed; type: {with_extras('bulk', 'ray')}") from error
    if ray.is_initialized():
        raise UsageError("Ray is in use in this process already; run q3 bulk in a process of its own")
    own = {"num_cpus": workers * options.threads + 1, "object_store_memory": OBJECT_STORE, "include_dashboard": False}
    before = signal.getsignal(signal.SIGTERM)
    try:
        _start(ray, address, {} if address else own)
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)  # Ray puts one of its own there, which ends with another exit code
        say(f"Ray: {workers} actors of {options.threads} CPUs {'at ' + address if address else 'on this machine'}")
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        items = [{"task": number} for number in numbers]
        blocks = max(1, min(len(items), workers * BLOCKS_PER_ACTOR))
        answers = ray.data.from_items(items, override_num_blocks=blocks).map(
            Actor,
            fn_constructor_args=[asdict(options)],
            compute=ray.data.ActorPoolStrategy(min_size=1, max_size=workers),
            num_cpus=options.threads,
        )
        for row in answers.iter_rows():
            yield json.loads(row["answer"])
    except ray.exceptions.RayError as error:
        first = str(error).strip().split("\n")[0][:200]
        raise StoppedError(f"Ray failed ({first}); what is done is kept, the same command goes on") from error
    finally:
        ray.shutdown()
