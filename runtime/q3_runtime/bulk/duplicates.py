"""Ids that stand twice, found in little memory however many there are: 24 bytes each go to 256 files on disk by their hash."""

import hashlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

import numpy as np

from q3_runtime.errors import InputError

ENTRY = np.dtype([("hash", "S16"), ("row", "<i8")])
HELD = 1 << 16
"""Entries in memory before they go to disk."""


class IdFiles:
    """``with IdFiles(folder) as ids:`` add every id, then look for those that stand twice.

    Hashes have 128 bits: two of 10⁹ different ids have the same one with a chance of 10⁻²¹.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._held: list[tuple[bytes, int]] = []

    def __enter__(self) -> "IdFiles":
        self._folder.mkdir(parents=True)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        shutil.rmtree(self._folder)

    def add(self, key: int | str, row: int) -> None:
        """An id, and which row of the input has it; 7 and "7" are the same one."""
        self._held.append((hashlib.blake2b(str(key).encode(), digest_size=16).digest(), row))
        if len(self._held) >= HELD:
            self._spill()

    def repeated(self) -> Iterator[tuple[int, int]]:
        """Rows that have the id of an earlier row, each behind that one."""
        self._spill()
        for path in sorted(self._folder.iterdir()):
            entries = np.fromfile(path, dtype=ENTRY)
            entries.sort(order=["hash", "row"])
            for at in np.flatnonzero(entries["hash"][1:] == entries["hash"][:-1]).tolist():
                yield int(entries["row"][at]), int(entries["row"][at + 1])

    def _spill(self) -> None:
        entries = np.array(self._held, dtype=ENTRY)
        self._held.clear()
        first = np.ascontiguousarray(entries["hash"]).view(np.uint8).reshape(-1, ENTRY["hash"].itemsize)[:, 0]
        for byte in np.unique(first):
            with (self._folder / f"{byte:02x}").open("ab") as file:
                entries[first == byte].tofile(file)


def refuse(repeated: Iterator[tuple[int, int]], named: "list[tuple[int, str]]") -> None:
    """The first of them by row, if there is one.

    Args:
        repeated: see :meth:`IdFiles.repeated`.
        named: first row of each file and its name, in order.

    Raises:
        InputError: E_DUPLICATE_ID.
    """
    count, first = 0, None
    for pair in repeated:
        count += 1
        first = pair if first is None or pair[1] < first[1] else first
    if first is None:
        return
    starts = [start for start, _ in named]

    def place(row: int) -> str:
        at = int(np.searchsorted(starts, row, side="right")) - 1
        return f"row {row - starts[at]} of {named[at][1]}"

    raise InputError(
        f"{count} row(s) have the id of an earlier one, the first: {place(first[1])}, as {place(first[0])}; "
        "mend the ids, or pass --on-duplicate keep",
        fault="E_DUPLICATE_ID",
    )
