"""The plan: which rows of which file are one task. Two Parquet files, written once and read back by number."""

import hashlib
import json
from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from q3_runtime.bulk.folder import OutFolder
from q3_runtime.bulk.sources import Source
from q3_runtime.durable import is_of_machine, replace_synced

ROWS_AT_ONCE = 1 << 16


class Task(NamedTuple):
    """Rows ``row`` … ``row + rows - 1`` of a file, which are ``first_row`` and following of all the input."""

    number: int
    source: Source
    row: int
    offset: int
    first_row: int
    rows: int


class Chunk(NamedTuple):
    """The same without its number and its file."""

    row: int
    offset: int
    rows: int


class PlanWriter:
    """Files and their chunks, in order → tables."""

    def __init__(self) -> None:
        self._sources: list[tuple[Source, str, int]] = []
        self._numbers = array("q")
        self.rows = 0

    def add(self, source: Source, fingerprint: str, chunks: Sequence[Chunk]) -> None:
        """One more file."""
        for chunk in chunks:
            self._numbers.extend((len(self._sources), chunk.row, chunk.offset, self.rows + chunk.row, chunk.rows))
        count = sum(chunk.rows for chunk in chunks)
        self._sources.append((source, fingerprint, count))
        self.rows += count

    def digest(self) -> str:
        """The job's ``inputs_sha256``."""
        found = hashlib.sha256()
        for source, fingerprint, count in self._sources:
            found.update(f"{source.format} {source.bytes} {fingerprint} {count}\n".encode())
        return found.hexdigest()

    def write(self, folder: OutFolder, skipped: Sequence[tuple[str, str]]) -> None:
        """Both tables, each under its name when it is whole; ``skipped`` are files that were left out, with the reason."""
        fields = dict(zip(Source._fields, zip(*(source for source, _, _ in self._sources), strict=True), strict=True))
        columns = {name: pa.array(values) for name, values in fields.items()}
        columns["rows"] = pa.array([count for _, _, count in self._sources])
        _write(folder, folder.inputs, pa.table(columns).replace_schema_metadata({SKIPPED_KEY: json.dumps(skipped)}))
        numbers = np.frombuffer(self._numbers, dtype=np.int64).reshape(-1, len(COLUMNS))
        _write(folder, folder.tasks, pa.table({name: numbers[:, at] for at, name in enumerate(COLUMNS)}))


COLUMNS = ("source", "row", "offset", "first_row", "rows")
SKIPPED_KEY = b"q3_skipped"


class Plan:
    """The tasks by number, with memory of 40 bytes a task and what the names of the files take.

    Raises:
        ValueError: a table that is damaged; FileNotFoundError: one that is not there.
    """

    def __init__(self, folder: OutFolder) -> None:
        try:
            self._inputs = pq.read_table(folder.inputs, columns=list(Source._fields))
            skipped = json.loads(self._inputs.schema.metadata[SKIPPED_KEY])
            table = pq.read_table(folder.tasks)
            self._numbers = np.stack([table.column(name).to_numpy() for name in COLUMNS], axis=1)
        except (pa.ArrowException, OSError, KeyError) as error:
            if is_of_machine(error):
                raise
            raise ValueError(f"the plan is damaged: {error}") from error
        self.skipped: list[tuple[str, str]] = [(path, why) for path, why in skipped]

    def __len__(self) -> int:
        return len(self._numbers)

    def task(self, number: int) -> Task:
        """The task of that number."""
        at, row, offset, first_row, rows = self._numbers[number].tolist()
        return Task(number, self._source(at), row, offset, first_row, rows)

    def rows_of(self, numbers: Sequence[int]) -> int:
        """Rows of some tasks together."""
        return int(self._numbers[np.asarray(numbers, dtype=np.int64), COLUMNS.index("rows")].sum())

    def sources(self) -> Iterator[Source]:
        """The files, in order."""
        for at in range(self._inputs.num_rows):
            yield self._source(at)

    def _source(self, at: int) -> Source:
        return Source(*(self._inputs.column(name)[at].as_py() for name in Source._fields))


def _write(folder: OutFolder, target: Path, table: pa.Table) -> None:
    temporary = folder.temporary()
    pq.write_table(table, temporary, compression="zstd", row_group_size=ROWS_AT_ONCE)
    replace_synced(temporary, target)
