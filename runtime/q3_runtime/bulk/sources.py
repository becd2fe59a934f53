"""Paths, folders and globs → files whose format is known."""

import glob
import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from q3_runtime.errors import InputError, StorageError
from q3_runtime.tokenization import SURROGATE

FORMATS = {".parquet": "parquet", ".jsonl": "jsonl", ".ndjson": "jsonl", ".csv": "csv", ".txt": "text"}
COMPRESSIONS = {".gz": "gzip", ".zst": "zstd"}
SAMPLE = 1 << 16


class Source(NamedTuple):
    """A file, and how to know that it is still the same one."""

    path: str
    format: str
    compression: str | None
    bytes: int
    mtime_ns: int

    @property
    def seekable(self) -> bool:
        """Whether its reader can begin at any row without reading what is before."""
        return self.format != "parquet" and self.compression is None

    def fingerprint(self) -> str:
        """Of its size and its two ends; a Parquet file's second end describes all of it."""
        with open(self.path, "rb") as file:  # noqa: PTH123  # a str, since there can be a million of them
            digest = hashlib.sha256(f"{self.bytes} ".encode() + file.read(SAMPLE))
            file.seek(max(0, self.bytes - SAMPLE))
            digest.update(file.read(SAMPLE))
        return digest.hexdigest()[:32]

    def check_unchanged(self) -> None:
        """Refuse a file that is not the one that was planned with.

        Raises:
            InputError: E_INPUT_CHANGED.
            StorageError: it is not there any more.
        """
        try:
            stat = os.stat(self.path)  # noqa: PTH116
        except OSError as error:
            raise StorageError(
                f"{self.path}: cannot be read any more ({error.strerror}), but this job needs it; put it back and run again"
            ) from error
        if (stat.st_size, stat.st_mtime_ns) != (self.bytes, self.mtime_ns):
            raise InputError(
                f"{self.path}: changed since the job was begun ({self.bytes} bytes then, {stat.st_size} now); "
                "put the file back as it was, with its time, or begin again with another --out",
                fault="E_INPUT_CHANGED",
            )


def find_sources(names: Sequence[str], out: Path) -> list[Source]:
    """Files in the order of ``names``; those of a folder or a glob by name, all folders below included.

    In folders, what begins with a dot or an underline is left out, what has no known ending, and what lies in ``out``.

    Raises:
        InputError: nothing there, an unknown format, a name that is not UTF-8, or a file given twice.
    """
    own = os.path.join(os.path.realpath(out), "")  # noqa: PTH118
    paths = [path for name in names for path in _files(name) if not os.path.realpath(path).startswith(own)]
    seen: set[str] = set()
    for path in paths:
        if SURROGATE.search(path):
            raise InputError(f"{path!a}: a name that is not UTF-8; rename the file")
        if path in seen:
            raise InputError(f"{path}: given twice; leave it out once")
        seen.add(path)
    return [_source(path) for path in paths]


def _files(name: str) -> list[str]:
    if os.path.isdir(name):  # noqa: PTH112
        found = sorted(_below(name))
        if not found:
            raise InputError(f"{name}: no files in it that end in {_endings()}; give another input")
        return found
    if os.path.exists(name):  # noqa: PTH110
        return [os.path.abspath(name)]  # noqa: PTH100  # as it is called: not where a link leads
    matched = [os.path.abspath(path) for path in glob.iglob(name, recursive=True)]  # noqa: PTH100, PTH207
    found = sorted({path for match in matched for path in (_below(match) if os.path.isdir(match) else [match])})  # noqa: PTH112
    if not found:
        raise InputError(f"{name}: no such file, folder, or glob that matches anything; check the path")
    return found


def _below(folder: str) -> list[str]:
    """Links to folders are followed, each folder once; one that cannot be listed is an error."""

    def refuse(error: OSError) -> None:
        raise error

    found, seen = [], set()
    for root, folders, files in os.walk(os.path.abspath(folder), onerror=refuse, followlinks=True):  # noqa: PTH100
        place = os.path.realpath(root)
        folders[:] = sorted(name for name in folders if name[0] not in "._" and place not in seen)
        if place in seen:
            continue
        seen.add(place)
        found += [os.path.join(root, name) for name in files if name[0] not in "._" and _kind(name)]  # noqa: PTH118
    return found


def _kind(name: str) -> tuple[str, str | None] | None:
    suffixes = [suffix.lower() for suffix in Path(name).suffixes]
    compression = COMPRESSIONS.get(suffixes[-1]) if suffixes else None
    inner = suffixes[:-1] if compression else suffixes
    kind = FORMATS.get(inner[-1]) if inner else None
    return None if kind is None or (kind == "parquet" and compression) else (kind, compression)


def _source(path: str) -> Source:
    kind = _kind(path)
    if kind is None:
        raise InputError(f"{path}: a format that is not known by its ending, expected {_endings()}; rename or convert it")
    try:
        stat = os.stat(path)  # noqa: PTH116
    except FileNotFoundError:  # a link to nothing, which planning refuses or leaves out
        return Source(path, *kind, 0, 0)
    return Source(path, *kind, stat.st_size, stat.st_mtime_ns)


def _endings() -> str:
    return f"{', '.join(FORMATS)}, the last four also with {' or '.join(COMPRESSIONS)}"
