"""A task → its part, in a process that holds the model. What every engine runs, and what tells it the same by every engine.

``python -m q3_runtime.bulk.worker OPTIONS`` takes a task a line on standard input and answers with a line each.
"""

import json
import os
import sys
import traceback
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from q3_runtime import errors
from q3_runtime.batching import batches, default_budget
from q3_runtime.bulk import parts, readers
from q3_runtime.bulk.attempts import Attempts
from q3_runtime.bulk.folder import OutFolder
from q3_runtime.bulk.job import Job
from q3_runtime.bulk.leases import check_current
from q3_runtime.bulk.parquet_rows import UNREADABLE
from q3_runtime.bulk.parts import Part, Quarantined
from q3_runtime.bulk.records import Columns, Record
from q3_runtime.bulk.sources import Source
from q3_runtime.bulk.tasks import Task
from q3_runtime.durable import patiently
from q3_runtime.embedder import Embedder
from q3_runtime.errors import InputError, ProviderError, Q3Error, TooLargeError, disk_message, memory_message
from q3_runtime.precisions import chosen, chosen_ranges
from q3_runtime.vectors import Vectors

KILLS = "kills the process that computes it"
NON_FINITE = "the vector is not finite"


@dataclass(frozen=True)
class Options:
    """What a worker is told once."""

    out: str
    model_folder: str
    lease: str
    """Of the run, and its token: once a higher one is there, another run took over."""
    token: int
    threads: int
    keep_going: bool


class Cursor:
    """Reads tasks; goes on where the last one ended if the next one follows in the same file."""

    def __init__(self, columns: Columns) -> None:
        self._columns = columns
        self._source: Source | None = None
        self._rows: Iterator[Record] = iter(())
        self._next = 0

    def read(self, task: Task) -> list[Record]:
        """The rows of a task.

        Raises:
            InputError: the file changed, or ends early.
        """
        task.source.check_unchanged()
        goes_on = task.source == self._source and (
            self._next == task.row or (self._next < task.row and not task.source.seekable)
        )
        if not goes_on:
            self._rows = readers.rows(task.source, self._columns, task.row, task.offset)
            self._next = task.row
        self._source = None  # until this ends well
        skip = task.row - self._next
        found = list(islice(self._rows, skip, skip + task.rows))
        if len(found) < task.rows:
            raise InputError(
                f"{task.source.path}: {len(found)} rows from {task.row} on, expected {task.rows}; put the file back as it was",
                fault="E_INPUT_CHANGED",
            )
        self._source, self._next = task.source, task.row + task.rows
        return found


class Worker:
    """A loaded model and the place in the input.

    Raises:
        InputError: the model is not the one of the job.
        ModelError, IntegrityError, ProviderError: see q3_runtime.errors.
    """

    def __init__(self, options: Options) -> None:
        self._folder, self._options = OutFolder(Path(options.out)), options
        self._job = patiently(lambda: Job.read(self._folder.job))
        self._model = Embedder(
            options.model_folder, quant=self._job.model["quant"], provider=self._job.model["provider"], threads=options.threads
        )
        self._precision = chosen(self._job.precision, self._job.dim)
        found = self._model.manifest.fingerprint(self._model.quant, with_ranges=self._precision.needs_ranges)
        self._job.check({"model": self._job.model | {"sha256": found}}, self._folder.path)
        self._tokenizer = self._model.tokenizer.limited(self._job.max_tokens)
        self._cursor = Cursor(Columns(self._job.text_column, self._job.id_column))
        self._ranges = chosen_ranges(self._job.precision, self._job.dim, None, lambda: self._model.ranges)

    def answer(self, task: Task) -> dict[str, Any]:
        """What became of a task, as JSON can hold it: ``{"rows", "tokens", "non_finite"}``, or ``{"error"}``."""
        try:
            return self._work(task)
        except Exception as error:
            if not isinstance(error, Q3Error | OSError):
                traceback.print_exception(error)
            return {"error": told(error, self._folder.path)}

    def _work(self, task: Task) -> dict[str, Any]:
        if self._folder.part(task.number).exists():
            return {"rows": task.rows, "tokens": 0, "non_finite": 0}
        attempts = Attempts.read(self._folder.attempt(task.number))
        while trial := attempts.begin(task.rows):
            begin, end = trial
            self._embed(patiently(lambda: self._cursor.read(task))[begin:end], task, begin)
            attempts.survived()
        records = patiently(lambda: self._cursor.read(task))
        columns, quarantined = self._columns(task, records, set(attempts.poison))
        part = Part(self._job.id, task.number, task.first_row, task.rows, quarantined)
        patiently(lambda: check_current(self._folder, self._options.lease, self._options.token))
        patiently(lambda: parts.commit(self._folder, self._job, part, columns))
        attempts.end()
        non_finite = sum(lost.reason == NON_FINITE for lost in quarantined)
        return {"rows": task.rows, "tokens": int(columns.n_tokens.sum()), "non_finite": non_finite}

    def _columns(self, task: Task, records: list[Record], poison: set[int]) -> tuple[parts.Columns, list[Quarantined]]:
        reasons = [record.problem if at not in poison else KILLS for at, record in enumerate(records)]
        lost_group = next((reason for reason in reasons if reason and reason.startswith(UNREADABLE)), None)
        if lost_group and not self._options.keep_going:
            raise InputError(f"{task.source.path}: {lost_group}; write the file again, or pass --keep-going")
        vectors, n_tokens, truncated, more = self._embed(
            [record if reason is None else record._replace(text=None) for record, reason in zip(records, reasons, strict=True)],
            task,
        )
        for at, reason in more.items():
            reasons[at] = reason
        kept = [at for at, reason in enumerate(reasons) if reason is None]
        numbers = np.arange(task.first_row, task.first_row + task.rows, dtype=np.int64)
        ids: list[Any] = [records[at].id if records[at].id is not None else int(numbers[at]) for at in kept]
        columns = parts.Columns(
            id=ids if self._job.id_type == "int64" else list(map(str, ids)),
            embedding=self._precision.convert(vectors[kept], self._job.dim, self._ranges).astype(
                self._precision.dtype, copy=False
            ),
            n_tokens=n_tokens[kept],
            truncated=truncated[kept],
            row=numbers[kept],
        )
        return columns, [
            Quarantined(task.first_row + at, task.source.path, task.row + at, records[at].offset, reason)
            for at, reason in enumerate(reasons)
            if reason is not None
        ]

    def _embed(self, records: list[Record], task: Task, begin: int = 0) -> tuple[Vectors, Any, Any, dict[int, str]]:
        """Full vectors [N, D], tokens and cuts of all records; those without a text, and those with a problem, stay empty.

        ``begin`` is the row of the task that comes first.
        """
        with_text = [at for at, record in enumerate(records) if record.text is not None]
        encoded = self._tokenizer.encode([records[at].text or "" for at in with_text], prefix=self._job.prompt)
        vectors = np.zeros((len(records), self._model.dims), dtype=np.float32)
        n_tokens, truncated = np.zeros(len(records), dtype=np.int32), np.zeros(len(records), dtype=np.bool_)
        for rows in batches([len(item.ids) for item in encoded], default_budget(self._model.provider)):
            places = [with_text[row] for row in rows]
            n_tokens[places] = [len(encoded[row].ids) for row in rows]
            truncated[places] = [encoded[row].truncated for row in rows]
            try:
                vectors[places] = self._model.run([encoded[row].ids for row in rows])
            except TooLargeError as error:  # one day there is more memory: the row is not lost, and the task is not done
                row = task.row + begin + places[error.index]
                raise ProviderError(
                    f"{task.source.path}, row {row}: a text {error.lack}; run it with fewer --workers, or where there is more "
                    "memory, or split the text",
                    fault="E_MEMORY",
                ) from error
        finite = np.asarray(np.isfinite(vectors).all(axis=1) & vectors.any(axis=1))
        return vectors, n_tokens, truncated, {at: NON_FINITE for at in with_text if not finite[at]}


def told(error: Exception, place: object) -> dict[str, str | None]:
    """An error as JSON can hold it; ``place`` is named where a disk's error does not say where."""
    if isinstance(error, Q3Error):
        return {"kind": type(error).__name__, "message": str(error), "fault": error.fault}
    if isinstance(error, OSError):
        return {"kind": "StorageError", "message": disk_message(error, place), "fault": "E_IO"}
    if isinstance(error, MemoryError):
        return {"kind": "ProviderError", "message": memory_message(error), "fault": "E_MEMORY"}
    message = f"unexpected {type(error).__name__}: {error}; run again with --workers 1 and report it"
    return {"kind": "Q3Error", "message": message, "fault": "E_BUG"}


def as_raised(kind: str, message: str, fault: str | None) -> Q3Error:
    """The error that a worker told of."""
    error = errors.unsaid(getattr(errors, kind), message)
    Q3Error.__init__(error, message, fault=fault)  # those that make a message of their own have made it
    return error


def options_text(options: Options) -> str:
    """The argument of a worker's process."""
    return json.dumps(asdict(options))


def main() -> int:
    """Answers go to what was standard output; what anything else prints there goes to standard error."""
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as answers:
        os.dup2(2, 1)

        def say(content: dict[str, Any]) -> None:
            answers.write(json.dumps(content) + "\n")
            answers.flush()

        try:
            worker = Worker(Options(**json.loads(sys.argv[1])))
        except (Q3Error, OSError) as error:
            say({"error": told(error, sys.argv[1])})
            return 0
        say({"ready": True})
        for line in sys.stdin:  # ends with the run that started it
            number, source, *rest = json.loads(line)
            say(worker.answer(Task(number, Source(*source), *rest)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
