"""One row of a file: its text and id, or what is wrong with it."""

from itertools import islice
from typing import Any, NamedTuple

from q3_runtime.bulk.sources import Source
from q3_runtime.errors import InputError
from q3_runtime.tokenization import SURROGATE

LEAST, MOST = -(1 << 63), (1 << 64) - 1
"""Whole numbers that an id may be: of 64 bits, with a sign or without."""


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


def checked(offset: int, key: Any, text: Any, columns: Columns) -> Record:
    """A row of a table, with what is wrong with it."""
    problem = None
    if columns.id is not None:
        if key is None:
            problem = f"no {columns.id}"
        elif not (type(key) is int and LEAST <= key <= MOST) and not isinstance(key, str):
            problem = f"{columns.id} is {type(key).__name__}, not a string or a whole number of 64 bits"
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


def no_column(source: Source, name: str, names: list[str]) -> InputError:
    """What to raise where a file lacks a column."""
    there = ", ".join(islice(names, 20)) or "none"
    return InputError(f"{source.path}: no column {name!r}, it has {there}; pass --text-column or --id-column")
