"""Tasks, by a pool of actors of Ray Data, on this machine or on a cluster. Through Ray go descriptions of tasks, never vectors.

Ray starts an actor again that died, and its tasks with it; what was committed is skipped, and attempts.py counts.
"""

import json
import logging
import os
from collections.abc import Callable, Generator, Iterable
from dataclasses import asdict
from typing import Any

from q3_runtime.bulk.sources import Source
from q3_runtime.bulk.tasks import Task
from q3_runtime.bulk.worker import Options, Worker
from q3_runtime.errors import UsageError

OBJECT_STORE = 100_000_000
"""Bytes on this machine; it holds descriptions of tasks."""
BLOCKS_PER_ACTOR = 16


class Actor:
    """A worker as Ray Data takes it."""

    def __init__(self, options: dict[str, Any]) -> None:
        self._worker = Worker(Options(**options))

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """One task and its answer, each as JSON."""
        number, source, *rest = json.loads(row["task"])
        return {"answer": json.dumps(self._worker.answer(Task(number, Source(*source), *rest)))}


def run_ray(
    options: Options, tasks: Iterable[Task], workers: int, say: Callable[[str], None], address: str | None = None
) -> Generator[dict[str, Any], None, None]:
    """The answer to each task, in the order in which they end.

    Args:
        options: of each worker; ``threads`` is what an actor takes of Ray's CPUs.
        tasks: what to do.
        workers: actors at most.
        say: told where it runs.
        address: of a cluster; None starts Ray on this machine.

    Raises:
        UsageError: Ray is not installed.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise UsageError(f"{error.name} is not installed; type: pip install 'q3-onnx[cpu,bulk,ray]'") from error
    own = {"num_cpus": workers * options.threads + 1, "object_store_memory": OBJECT_STORE, "include_dashboard": False}
    ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, **({} if address else own))
    try:
        say(f"Ray: {workers} actors of {options.threads} CPUs {'at ' + address if address else 'on this machine'}")
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        items = [{"task": json.dumps(task)} for task in tasks]
        blocks = max(1, min(len(items), workers * BLOCKS_PER_ACTOR))
        answers = ray.data.from_items(items, override_num_blocks=blocks).map(
            Actor,
            fn_constructor_args=[asdict(options)],
            compute=ray.data.ActorPoolStrategy(min_size=1, max_size=workers),
            num_cpus=options.threads,
        )
        for row in answers.iter_rows():
            yield json.loads(row["answer"])
    finally:
        ray.shutdown()
