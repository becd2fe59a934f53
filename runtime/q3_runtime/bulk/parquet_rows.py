"""A Parquet file → its rows, from any row on; a page that is damaged costs its row group."""

from collections.abc import Iterator
from itertools import islice
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from q3_runtime.bulk.records import Columns, Record, checked, no_column
from q3_runtime.bulk.sources import Source
from q3_runtime.durable import is_of_machine
from q3_runtime.errors import InputError

BUFFER = 1 << 20
BATCH_ROWS, BATCH_BYTES = 1024, 16 << 20
"""Decoded at once: as many rows, or fewer of long texts."""
UNREADABLE = "unreadable:"
"""Begins the problem of a row that was lost with others around it; only --keep-going goes on."""


def open_parquet(source: Source) -> pq.ParquetFile:
    """The file, its pages to be compared with their checksums.

    Raises:
        InputError: not a whole Parquet file.
    """
    try:
        return pq.ParquetFile(source.path, page_checksum_verification=True, buffer_size=BUFFER, pre_buffer=False)
    except (pa.ArrowException, OSError) as error:
        if is_of_machine(error):
            raise
        raise InputError(
            f"{source.path}: not a whole Parquet file ({_one_line(error)}); write it again, or leave it out"
        ) from error


def check_columns(source: Source, schema: pa.Schema, columns: Columns) -> None:
    """Refuse columns that are not there or hold something else.

    Raises:
        InputError: with what is there.
    """
    for name, is_right, expected in ((columns.text, _is_text, "strings"), (columns.id, _is_id, "strings or integers")):
        if name is None:
            continue
        if name not in schema.names:
            raise no_column(source, name, schema.names)
        if schema.names.count(name) > 1:
            raise InputError(f"{source.path}: column {name!r} stands twice; rename one of them")
        found = schema.field(name).type
        if not is_right(found):
            raise InputError(f"{source.path}: column {name!r} holds {found}, expected {expected}; convert it, or name another")


def parquet_rows(source: Source, columns: Columns, row: int) -> Iterator[Record]:
    """See :func:`q3_runtime.bulk.readers.rows`."""
    with open_parquet(source) as file:
        check_columns(source, file.schema_arrow, columns)
        wanted = [name for name in columns if name is not None]
        for group in range(file.num_row_groups):
            count = file.metadata.row_group(group).num_rows
            if row < count:
                yield from islice(_row_group(file, group, count, wanted, columns), row, None)
            row = max(0, row - count)


def _row_group(file: pq.ParquetFile, group: int, count: int, wanted: list[str], columns: Columns) -> Iterator[Record]:
    given = 0
    size = file.metadata.row_group(group).total_byte_size / max(1, count)
    step = max(1, min(BATCH_ROWS, int(BATCH_BYTES / max(1.0, size))))
    try:
        for batch in file.iter_batches(step, row_groups=[group], columns=wanted, use_threads=False):
            nothing = [None] * batch.num_rows
            texts, ids = (nothing if name is None else _values(batch.column(name)) for name in (columns.text, columns.id))
            for key, text in zip(ids, texts, strict=True):
                yield checked(group, key, text, columns)
            given += batch.num_rows
    except (pa.ArrowException, OSError) as error:
        if is_of_machine(error):
            raise
        problem = f"{UNREADABLE} row group {group} ({_one_line(error)})"
        yield from (Record(group, None, None, problem) for _ in range(count - given))


def _values(column: pa.Array) -> list[Any]:
    """Python values; bytes for a string that is not UTF-8."""
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if pa.types.is_string_view(column.type):
        column = column.cast(pa.string())
    try:
        column.validate(full=True)
        values: list[Any] = column.to_pylist()
        return values
    except (pa.ArrowInvalid, UnicodeDecodeError):
        binary = pa.large_binary() if pa.types.is_large_string(column.type) else pa.binary()
        return [_text_or_bytes(value) for value in column.view(binary).to_pylist()]


def _text_or_bytes(value: bytes | None) -> str | bytes | None:
    try:
        return None if value is None else value.decode("utf-8")
    except UnicodeDecodeError:
        return value


def _is_text(found: pa.DataType) -> bool:
    if pa.types.is_dictionary(found):
        found = found.value_type
    return bool(pa.types.is_string(found) or pa.types.is_large_string(found) or pa.types.is_string_view(found))


def _is_id(found: pa.DataType) -> bool:
    return bool(_is_text(found) or pa.types.is_integer(found))


def _one_line(error: object) -> str:
    return " ".join(str(error).split())[:200]
