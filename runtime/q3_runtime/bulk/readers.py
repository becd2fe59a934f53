"""A file → its rows, from any row on: a generator a format.

A row that cannot be embedded is a row all the same: it says what is wrong with it. Where each row lies in the file is the same
whether one reads from the beginning or from an offset, since planning and work read by the same code.
"""

import csv
import json
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader
from itertools import chain, islice
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from q3_runtime.bulk.sources import Source
from q3_runtime.errors import InputError
from q3_runtime.tokenization import SURROGATE

MAX_LINE = 16 << 20
"""Bytes of a line, its end counted."""
BUFFER = 1 << 20
BATCH_ROWS = 1024
INTEGERS = (1 << 63) - 1


class Columns(NamedTuple):
    """Names of the columns that are read, None for one that is not; text files have neither."""

    text: str | None
    id: str | None


class Record(NamedTuple):
    """One row. ``offset`` is its first byte, unpacked; of Parquet, its row group."""

    offset: int
    id: int | str | None
    text: str | None
    problem: str | None
    """Why it cannot be embedded."""


def rows(source: Source, columns: Columns, row: int = 0, offset: int = 0) -> Iterator[Record]:
    """The rows of a file from one on.

    Args:
        source: the file.
        columns: what to read of it.
        row: the first one, counted from 0.
        offset: the byte at which that row begins, where the file is seekable; of Parquet and packed files it is not used.

    Raises:
        InputError: no such column, or a file that is damaged.
    """
    if source.format == "parquet":
        return _parquet(source, columns, row)
    found = LINES[source.format](source, columns, offset if source.seekable else 0)
    return found if source.seekable else islice(found, row, None)


@contextmanager
def _opened(source: Source) -> Iterator[BufferedReader]:
    """Unpacked bytes."""
    with pa.OSFile(source.path, "rb") as file:
        stream = file if source.compression is None else pa.CompressedInputStream(file, source.compression)
        try:
            with BufferedReader(stream, BUFFER) as buffered:
                yield buffered
        except (OSError, EOFError) as error:
            if getattr(error, "errno", None) is not None:
                raise  # the disk, not the content
            raise InputError(f"{source.path}: cannot be unpacked ({error}); pack it again, or leave it out") from error


class _Lines:
    """Lines of a file with their ends, None for one that is too long, and how far they reach."""

    def __init__(self, stream: BufferedReader, offset: int) -> None:
        self._stream = stream
        self.place = offset
        if offset:
            stream.seek(offset)

    def __iter__(self) -> "_Lines":
        return self

    def __next__(self) -> bytes | None:
        line = self._stream.readline(MAX_LINE + 1)
        if not line:
            raise StopIteration
        first, too_long = self.place == 0, len(line) > MAX_LINE
        self.place += len(line)
        while too_long and not line.endswith(b"\n") and (line := self._stream.readline(BUFFER)):
            self.place += len(line)
        if too_long:
            return None
        return line.removeprefix(b"\xef\xbb\xbf") if first else line


def _text(source: Source, _: Columns, offset: int) -> Iterator[Record]:
    with _opened(source) as stream:
        lines = _Lines(stream, offset)
        start = lines.place
        for line in lines:
            text, problem = _decoded(line)
            yield Record(start, None, text, problem)
            start = lines.place


def _jsonl(source: Source, columns: Columns, offset: int) -> Iterator[Record]:
    with _opened(source) as stream:
        lines = _Lines(stream, offset)
        start = lines.place
        for line in lines:
            text, problem = _decoded(line)
            yield Record(start, None, None, problem) if text is None else _from_json(start, text, columns)
            start = lines.place


def _from_json(start: int, line: str, columns: Columns) -> Record:
    if not line.strip():
        return Record(start, None, None, "blank line")
    try:
        content = json.loads(line)
    except (ValueError, RecursionError) as error:
        return Record(start, None, None, f"not JSON ({type(error).__name__})")
    if not isinstance(content, dict):
        return Record(start, None, None, f"{type(content).__name__} in JSON, not an object")
    return checked(start, content.get(columns.id), content.get(columns.text), columns)


def _csv(source: Source, columns: Columns, offset: int) -> Iterator[Record]:
    csv.field_size_limit(MAX_LINE)
    with _opened(source) as stream:
        lines = _Lines(stream, 0)
        header = next(csv.reader(_decoded_lines(lines)), [])
        for name in columns:
            if name is not None and name not in header:
                raise _no_column(source, name, header)
        if offset:
            lines = _Lines(stream, offset)
        text_at, id_at = (None if name is None else header.index(name) for name in columns)
        fields = csv.reader(_decoded_lines(lines))
        while True:
            start = lines.place
            try:
                row = next(fields)
            except StopIteration:
                return
            except csv.Error as error:
                fields = csv.reader(_decoded_lines(lines))  # a state of its own, as one that begins at the next row has
                yield Record(start, None, None, f"not CSV ({error})")
                continue
            text, key = (None if at is None or at >= len(row) else row[at] for at in (text_at, id_at))
            if text is not None and SURROGATE.search(text):
                yield Record(start, None, None, "not UTF-8")
            elif row:
                yield checked(start, key, text, columns)
            else:
                yield Record(start, None, None, "blank line")


def _decoded_lines(lines: _Lines) -> Iterator[str]:
    for line in lines:
        if line is None:
            raise csv.Error(f"a line of more than {MAX_LINE} bytes")
        yield line.decode("utf-8", "surrogateescape")


def _decoded(line: bytes | None) -> tuple[str | None, str | None]:
    """The text of a line without its end, or what is wrong with it."""
    if line is None:
        return None, f"a line of more than {MAX_LINE} bytes"
    try:
        return line.removesuffix(b"\n").removesuffix(b"\r").decode("utf-8"), None
    except UnicodeDecodeError as error:
        return None, f"not UTF-8 at byte {error.start} of the line"


LINES = {"text": _text, "jsonl": _jsonl, "csv": _csv}


def open_parquet(source: Source) -> pq.ParquetFile:
    """The file, its pages to be compared with their checksums.

    Raises:
        InputError: not a whole Parquet file.
    """
    try:
        return pq.ParquetFile(source.path, page_checksum_verification=True, buffer_size=BUFFER, pre_buffer=False)
    except (pa.ArrowException, OSError) as error:
        if getattr(error, "errno", None) is not None:
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
            raise _no_column(source, name, schema.names)
        found = schema.field(name).type
        if not is_right(found):
            raise InputError(f"{source.path}: column {name!r} holds {found}, expected {expected}; convert it, or name another")


def _parquet(source: Source, columns: Columns, row: int) -> Iterator[Record]:
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
    try:
        for batch in file.iter_batches(BATCH_ROWS, row_groups=[group], columns=wanted, use_threads=False):
            nothing = [None] * batch.num_rows
            texts, ids = (nothing if name is None else _values(batch.column(name)) for name in (columns.text, columns.id))
            for key, text in zip(ids, texts, strict=True):
                yield checked(group, key, text, columns)
            given += batch.num_rows
    except (pa.ArrowException, OSError) as error:
        if getattr(error, "errno", None) is not None:
            raise
        problem = f"{UNREADABLE} row group {group} ({_one_line(error)})"
        yield from (Record(group, None, None, problem) for _ in range(count - given))


UNREADABLE = "unreadable:"
"""Begins the problem of a row that was lost with others around it; only --keep-going goes on."""


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


def checked(offset: int, key: Any, text: Any, columns: Columns) -> Record:
    """A row of a table, with what is wrong with it."""
    problem = None
    if columns.id is not None:
        if key is None:
            problem = f"no {columns.id}"
        elif not (type(key) is int and abs(key) <= INTEGERS) and not isinstance(key, str):
            problem = f"{columns.id} is {type(key).__name__}, not a string or a whole number"
    if isinstance(key, bytes) or (isinstance(key, str) and SURROGATE.search(key)):
        problem = f"{columns.id} is not UTF-8"
    if problem:
        key = None
    if text is None:
        problem = problem or f"no {columns.text}"
    elif isinstance(text, bytes):
        problem = problem or "not UTF-8"
    elif not isinstance(text, str):
        problem = problem or f"{columns.text} is {type(text).__name__}, not a string"
    elif SURROGATE.search(text):
        problem = problem or "a lone surrogate"
    return Record(offset, key, None if problem else text, problem)


def _no_column(source: Source, name: str, names: list[str]) -> InputError:
    there = ", ".join(islice(chain(names), 20)) or "none"
    return InputError(f"{source.path}: no column {name!r}, it has {there}; pass --text-column or --id-column")


def _is_text(found: pa.DataType) -> bool:
    if pa.types.is_dictionary(found):
        found = found.value_type
    return bool(pa.types.is_string(found) or pa.types.is_large_string(found) or pa.types.is_string_view(found))


def _is_id(found: pa.DataType) -> bool:
    return bool(_is_text(found) or pa.types.is_integer(found))


def _one_line(error: object) -> str:
    return " ".join(str(error).split())[:200]
