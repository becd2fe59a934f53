"""Files → tasks. Parquet is planned by its footer alone; of the other formats every row is read once."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from q3_runtime.bulk import duplicates
from q3_runtime.bulk.duplicates import IdFiles
from q3_runtime.bulk.folder import OutFolder
from q3_runtime.bulk.parquet_rows import check_columns, open_parquet
from q3_runtime.bulk.readers import rows
from q3_runtime.bulk.records import Columns
from q3_runtime.bulk.sources import Source
from q3_runtime.bulk.tasks import Chunk, PlanWriter
from q3_runtime.errors import InputError

CHUNK_BYTES = 256 << 10
"""Text of one task, about: 64,000 tokens, which int8 of 0.6B computes in 100 s on two cores."""
LEAST_CHUNK_BYTES = 16 << 10
"""Of one task of a small input, about: 4,000 tokens, enough for batches of texts that are near in length."""
LEAST_TASKS = 64
"""What is divided into fewer than the workers leaves some of them idle; how many these are may change from run to run."""


@dataclass
class Planned:
    """What planning found: fields of the job, and the files that were left out with the reason."""

    rows: int
    id_type: str
    inputs_sha256: str
    skipped: list[tuple[str, str]] = field(default_factory=list)


def plan(
    folder: OutFolder,
    sources: Sequence[Source],
    columns: Columns,
    chunk_rows: int,
    *,
    unique_ids: bool = True,
    keep_going: bool = False,
    tick: Callable[[int], Any] = lambda _: None,
) -> Planned:
    """Write the tables of files and tasks.

    Args:
        folder: where.
        sources: the input, in order.
        columns: what is read of it.
        chunk_rows: rows of a task at most.
        unique_ids: refuse an id that stands twice.
        keep_going: leave out files that cannot be read, and say which.
        tick: called with the bytes of each file that is done.

    Raises:
        InputError: a file that cannot be read, has no rows, or no such column; an id that stands twice.
    """
    writer, skipped, integers, named = PlanWriter(), [], True, []
    chunk_bytes = max(LEAST_CHUNK_BYTES, min(CHUNK_BYTES, sum(source.bytes for source in sources) // LEAST_TASKS))
    with IdFiles(folder.temporary()) as ids:
        for source in sources:
            try:
                chunks = list(_chunks(source, columns, chunk_rows, chunk_bytes))
                if not chunks:
                    raise InputError(f"{source.path}: no rows; leave it out, or pass --keep-going")
                fingerprint = source.fingerprint()
            except (InputError, PermissionError, FileNotFoundError) as error:
                if not keep_going:
                    raise
                skipped.append((source.path, str(error).encode("utf-8", "backslashreplace").decode()))
                continue
            named.append((writer.rows, source.path))
            if columns.id is not None and (unique_ids or integers):
                integers &= _note_ids(source, columns, ids, writer.rows, unique_ids)
            writer.add(source, fingerprint, chunks)
            tick(source.bytes)
        if not named:
            raise InputError(f"none of {len(sources)} files can be read, the first: {skipped[0][1]}")
        duplicates.refuse(ids.repeated(), named)
    writer.write(folder, skipped)
    return Planned(writer.rows, "int64" if integers else "string", writer.digest(), skipped)


def _chunks(source: Source, columns: Columns, chunk_rows: int, chunk_bytes: int) -> Iterator[Chunk]:
    if source.format == "parquet":
        yield from _parquet_chunks(source, columns, chunk_rows, chunk_bytes)
        return
    start = begin = count = place = 0
    has_text, problem = False, None
    for place, record in enumerate(rows(source, columns)):
        if count and (count >= chunk_rows or record.offset - begin >= chunk_bytes):
            yield Chunk(start, begin, count)
            count = 0
        if not count:
            start, begin = place, record.offset
        count += 1
        has_text |= record.text is not None
        problem = problem or record.problem
    if count:
        if not has_text:
            raise InputError(
                f"{source.path}: none of its {place + 1} rows can be embedded, the first: {problem}; "
                "pass --text-column or --id-column"
            )
        yield Chunk(start, begin, count)


def _note_ids(source: Source, columns: Columns, ids: IdFiles, first_row: int, unique_ids: bool) -> bool:
    """Whether all of them are whole numbers; a text file has none, and its rows are called by their numbers."""
    if source.format == "text":
        return False
    integers = True
    for row, record in enumerate(
        rows(source, Columns(None if source.format == "parquet" else columns.text, columns.id)), first_row
    ):
        if record.id is not None:
            integers &= type(record.id) is int and record.id < 1 << 63  # what the column holds; else they come out as strings
            if unique_ids:
                ids.add(record.id, row)
    return integers


def _parquet_chunks(source: Source, columns: Columns, chunk_rows: int, chunk_bytes: int) -> Iterator[Chunk]:
    """As many rows as have so much text in the mean of their row group; a chunk does not reach into the next group."""
    with open_parquet(source) as file:
        check_columns(source, file.schema_arrow, columns)
        at = next(i for i in range(file.metadata.num_columns) if file.metadata.schema.column(i).path == columns.text)
        row = 0
        for group in range(file.num_row_groups):
            found = file.metadata.row_group(group)
            size = found.column(at).total_uncompressed_size / max(1, found.num_rows)
            step = max(1, min(chunk_rows, int(chunk_bytes / max(1.0, size))))
            for start in range(0, found.num_rows, step):
                yield Chunk(row + start, group, min(step, found.num_rows - start))
            row += found.num_rows
