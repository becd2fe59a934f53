"""Requests → batches of rows across requests, each run in a thread; answers back to whom they belong.

Admission is of whole requests, by their tokens. Short rows and long ones have a lane each, with a thread of its own, so that a
text of 32,768 tokens takes a share of the cores and not the place of a query.
"""

import asyncio
import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from time import monotonic
from typing import Any

from q3_runtime.errors import Q3Error
from q3_runtime.server.metrics import Metrics
from q3_runtime.server.refusals import RefusedError, overloaded
from q3_runtime.server.waiting import Ids, Row, Waiting

LONG = 1024
"""Rows with more tokens run in the second lane."""
FIRST_GUESS = 1000.0
"""Tokens per second before anything was measured."""
MOST_PATIENCE = 60
"""Seconds that Retry-After asks for at most."""

Run = Callable[[Sequence[Ids]], Sequence[Any]]
"""Token ids of B rows → what each row gives, or the exception that it is to fail with."""


@dataclass
class Limits:
    """Of one model's queue."""

    batch_tokens: int = 2048
    """Of a batch, padding counted; a single longer row is a batch of its own."""
    queue_tokens: int = 500_000
    """Admitted and not yet answered."""
    queue_seconds: float = 60.0
    """A request of which nothing has run after so long is refused."""


@dataclass
class Timing:
    """Seconds that a request waited for its first row to run, and that passed from then until its last was done."""

    queue: float = 0.0
    inference: float = 0.0


class Job:
    """One admitted request: its rows, and what became of them."""

    def __init__(self, ids: Sequence[Ids], alone: Callable[[Ids], Any] | None) -> None:
        self.rows = [Row(row_ids, index, self, alone) for index, row_ids in enumerate(ids)]
        self.tokens = sum(map(len, ids))
        self.results: list[Any] = [None] * len(ids)
        self.left = len(ids)
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.admitted = monotonic()
        self.started: float | None = None
        self.timing = Timing()


class Lane:
    """Rows that wait for one thread, and the thread."""

    def __init__(self, name: str) -> None:
        self.waiting = Waiting()
        self.thread = ThreadPoolExecutor(1, f"q3-serve-{name}")
        self.computes = False
        """Whether the thread does, perhaps for nobody any more."""
        self.filled = asyncio.Event()


class Scheduler:
    """The queue of one model. Everything but the runs happens in the event loop that created it.

    Args:
        run: see :data:`Run`; called in threads, two at a time at most.
        limits: of the queue.
        metrics: where batches are counted.
        name: of the model, for the metrics.
    """

    def __init__(self, run: Run, limits: Limits, metrics: Metrics, name: str) -> None:
        self._run, self._limits, self._metrics, self._name = run, limits, metrics, name
        self.tokens = 0
        """Admitted and not answered."""
        metrics.waiting_tokens.labels(name).set(0)  # there before the first request, for whoever scales by it
        self._rate = FIRST_GUESS
        self._short, self._long = Lane("short"), Lane("long")
        self._tasks = [asyncio.create_task(self._work(lane)) for lane in (self._short, self._long)]

    async def answer(self, ids: Sequence[Ids], alone: Callable[[Ids], Any] | None = None) -> tuple[list[Any], Timing]:
        """What the model gives for each row; or what ``alone`` gives, called for each row by itself.

        Cancelling the caller drops the rows that have not run.

        Raises:
            RefusedError: too many tokens for the queue, now or ever; or waited too long.
            Q3Error: what the run of one of its rows raised.
        """
        job = self._admit(ids, alone)
        timer = asyncio.get_running_loop().call_later(self._limits.queue_seconds, self._give_up, job)
        try:
            await job.done
        finally:
            timer.cancel()
            self._drop(job)
        return job.results, job.timing

    @property
    def computes(self) -> bool:
        """Whether a thread does, perhaps for nobody any more."""
        return self._short.computes or self._long.computes

    def close(self) -> None:
        """Run nothing more; a run that has begun ends in its thread."""
        for task in self._tasks:
            task.cancel()
        for lane in (self._short, self._long):
            lane.thread.shutdown(wait=False, cancel_futures=True)

    def check_room(self, tokens: int, *, at_least: bool = False) -> None:
        """Whether a request of so many would be admitted, or of ``at_least`` so many.

        Raises:
            RefusedError: too many, now or ever.
        """
        most = self._limits.queue_tokens
        if tokens > most:
            found = f"at least {tokens}" if at_least else f"{tokens}"
            raise RefusedError("too_many_tokens", f"the request has {found} tokens, expected at most {most}; send it in parts")
        if self.tokens + tokens > most:
            wait = min(MOST_PATIENCE, math.ceil(self.tokens / self._rate))
            raise overloaded(**{"retry-after": str(max(1, wait))})

    def _admit(self, ids: Sequence[Ids], alone: Callable[[Ids], Any] | None) -> Job:
        job = Job(ids, alone)
        self.check_room(job.tokens)
        self.tokens += job.tokens
        self._metrics.waiting_tokens.labels(self._name).set(self.tokens)
        for lane in (self._short, self._long):
            if rows := [row for row in job.rows if self._lane_of(row) is lane]:
                lane.waiting.add(rows)
                lane.filled.set()
        return job

    def _lane_of(self, row: Row) -> Lane:
        return self._long if len(row.ids) > LONG else self._short

    def _give_up(self, job: Job) -> None:
        if job.started is None and not job.done.done():
            seconds = self._limits.queue_seconds
            job.done.set_exception(RefusedError("queue_timeout", f"Model is overloaded: the request waited {seconds:g} s"))

    def _drop(self, job: Job) -> None:
        """Whatever of it still waits is forgotten, and its tokens are free."""
        for row in job.rows:
            self._lane_of(row).waiting.remove(row)
        self.tokens -= job.tokens
        self._metrics.waiting_tokens.labels(self._name).set(self.tokens)

    async def _work(self, lane: Lane) -> None:
        while True:
            await lane.filled.wait()
            rows = lane.waiting.take(self._limits.batch_tokens)
            if rows:
                await self._run_batch(lane, rows)
            else:
                lane.filled.clear()

    async def _run_batch(self, lane: Lane, rows: list[Row]) -> None:
        started = monotonic()
        for job in {row.owner for row in rows}:
            if job.started is None:
                job.started = started
                job.timing.queue = started - job.admitted
        ids = [row.ids for row in rows]
        try:
            found = await asyncio.get_running_loop().run_in_executor(lane.thread, self._compute, lane, ids, rows[0].alone)
        except Exception as error:
            await self._failed(lane, rows, error)
            return
        seconds, tokens = monotonic() - started, sum(map(len, ids))
        self._rate += 0.1 * (tokens / max(seconds, 1e-6) - self._rate)
        self._metrics.batch_ran(self._name, len(rows), tokens, seconds)
        for row, result in zip(rows, found, strict=True):
            self._finish(row, result)

    def _compute(self, lane: Lane, ids: Sequence[Ids], alone: Callable[[Ids], Any] | None) -> Sequence[Any]:
        """In the lane's thread."""
        lane.computes = True
        try:
            return self._run(ids) if alone is None else [alone(ids[0])]
        finally:
            lane.computes = False

    async def _failed(self, lane: Lane, rows: list[Row], error: Exception) -> None:
        """Only the request fails whose row it was: a batch that fails is run again, row by row."""
        if len(rows) > 1:
            for row in rows:
                if not row.owner.done.done():
                    await self._run_batch(lane, [row])
        else:
            self._finish(rows[0], error)

    def _finish(self, row: Row, result: Any) -> None:
        job: Job = row.owner
        if job.done.done():  # refused, or its client has left
            return
        if isinstance(result, Exception):
            if isinstance(result, Q3Error):
                result.row = row.index
            job.done.set_exception(result)
            return
        job.results[row.index] = result
        job.left -= 1
        if not job.left:
            job.timing.inference = monotonic() - (job.started or job.admitted)
            job.done.set_result(None)
