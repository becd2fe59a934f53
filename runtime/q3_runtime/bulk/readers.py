"""A file → its rows, from any row on: a generator a format.

A row that cannot be embedded is a row all the same: it says what is wrong with it. Where each row lies in the file is the same
whether one reads from the beginning or from an offset, since planning and work read by the same code.
"""

import csv
import json
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader
from itertools import islice

import pyarrow as pa

from q3_runtime.bulk.parquet_rows import parquet_rows
from q3_runtime.bulk.records import Columns, Record, checked, no_column
from q3_runtime.bulk.sources import Source
from q3_runtime.durable import is_of_machine
from q3_runtime.errors import InputError
from q3_runtime.tokenization import SURROGATE

MAX_LINE = 16 << 20
"""Bytes of a line, its end counted."""
BUFFER = 1 << 20
UTF_16 = {b"\xff\xfe", b"\xfe\xff"}
"""How files of Windows begin that are not UTF-8."""


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
        return parquet_rows(source, columns, row)
    found = LINES[source.format](source, columns, offset if source.seekable else 0)
    return found if source.seekable else islice(found, row, None)


@contextmanager
def _opened(source: Source) -> Iterator[BufferedReader]:
    """Unpacked bytes."""
    with pa.OSFile(source.path, "rb") as file:
        stream = file if source.compression is None else pa.CompressedInputStream(file, source.compression)
        try:
            with BufferedReader(stream, BUFFER) as buffered:
                if buffered.peek(2)[:2] in UTF_16:
                    raise InputError(f"{source.path}: UTF-16, expected UTF-8; convert it (iconv -f utf-16 -t utf-8)")
                yield buffered
        except (OSError, EOFError) as error:
            if is_of_machine(error):
                raise  # not the content
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


def _by_line(source: Source, columns: Columns, offset: int) -> Iterator[Record]:
    parse = PARSERS[source.format]
    with _opened(source) as stream:
        lines = _Lines(stream, offset)
        start = lines.place
        for line in lines:
            text, problem = _decoded(line)
            yield Record(start, None, None, problem) if text is None else parse(start, text, columns)
            start = lines.place


def _from_text(start: int, line: str, _: Columns) -> Record:
    return Record(start, None, line, None)


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
        try:
            header = next(csv.reader(_decoded_lines(lines), strict=True), [])
        except csv.Error as error:
            raise InputError(f"{source.path}: its first line is not CSV ({error}); convert it first") from error
        for name in columns:
            if name is not None and name not in header:
                raise no_column(source, name, header)
        if offset:
            lines = _Lines(stream, offset)
        text_at, id_at = (None if name is None else header.index(name) for name in columns)
        fields = csv.reader(_decoded_lines(lines), strict=True)
        while True:
            start = lines.place
            try:
                row = next(fields)
            except StopIteration:
                return
            except csv.Error as error:
                fields = csv.reader(
                    _decoded_lines(lines), strict=True
                )  # a state of its own, as one that begins at the next row has
                yield Record(start, None, None, f"not CSV ({error}), {lines.place - start} bytes from there on")
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


PARSERS = {"text": _from_text, "jsonl": _from_json}
LINES = {"text": _by_line, "jsonl": _by_line, "csv": _csv}
