"""Many parts → few large files, in the order of the rows, in a folder of its own."""

import json
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from q3_runtime.bulk import finishing, parts
from q3_runtime.bulk.folder import OutFolder, discard_ended, own_name
from q3_runtime.bulk.job import Job
from q3_runtime.durable import sync_folder, sync_tree, write_synced
from q3_runtime.errors import IntegrityError, StorageError
from q3_runtime.hash_memory import sha256

FILE_BYTES = 512_000_000
"""Vectors of one file, about; the hub advises files of this size and no more than 10,000 a folder."""
GROUP_BYTES = 64_000_000
"""Of one row group, which a reader holds in memory."""
DAY = 86_400


def compact(
    folder: OutFolder, to: Path, tick: Callable[[int], Any] = lambda _: None, file_bytes: int = FILE_BYTES
) -> list[Path]:
    """Write the vectors of a complete job into ``to``, which must not exist, with a manifest of its own.

    Raises:
        IntegrityError: the job is not complete, or a part is damaged.
        StorageError: ``to`` is there, or its parent is not.
    """
    if not folder.success.exists():
        raise IntegrityError(f"{folder.path}: not complete, expected _SUCCESS in it; type: q3 bulk run … --out {folder.path}")
    if to.exists() or not to.parent.is_dir():
        found = "exists already" if to.exists() else f"has no parent folder {to.parent}"
        raise StorageError(f"{to}: {found}, expected a new folder in one that is there; give another --to")
    counts, content = finishing.read_counts(folder)
    job, plan = finishing.opened(folder)
    prefix = f".{to.name}.partial-"
    discard_ended(to.parent, prefix)
    _discard_old(to.parent, prefix)
    partial = to.with_name(prefix + own_name())
    partial.mkdir()
    try:
        with _Writer(partial, job, file_bytes) as writer:
            for number in range(len(plan)):
                task = plan.task(number)
                table = parts.check(folder.part(number), job, finishing.expected(job, task))
                writer.add(table.replace_schema_metadata(None))
                tick(task.rows)
        if writer.rows != counts.embedded:
            raise IntegrityError(
                f"{folder.path}: {writer.rows} vectors, expected {counts.embedded}; type: q3 bulk verify {folder.path}"
            )
        shutil.copyfile(folder.quarantine, partial / "_quarantined.jsonl")
        content["files"] = {path.name: {"bytes": path.stat().st_size, "sha256": sha256(path)} for path in writer.files}
        write_synced(partial / "_manifest.json", json.dumps(content, ensure_ascii=False, indent=1) + "\n")
        sync_tree(partial)
        partial.rename(to)
        sync_folder(to.parent)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return [to / path.name for path in writer.files]


def _discard_old(folder: Path, prefix: str) -> None:
    """What was begun on another machine, or before this one started, and has not been written to for a day."""
    for path in folder.iterdir():
        if path.name.startswith(prefix):
            with suppress(OSError):  # somebody is just taking it away
                if time.time() - max(file.stat().st_mtime for file in (path, *path.iterdir())) > DAY:
                    shutil.rmtree(path, ignore_errors=True)


class _Writer:
    """Tables, one behind the other → files of about ``file_bytes``, row groups of about GROUP_BYTES."""

    def __init__(self, folder: Path, job: Job, file_bytes: int) -> None:
        self._folder, self._schema, self._file_bytes = folder, parts.schema(job), file_bytes
        self._held: list[pa.Table] = []
        self._held_bytes = self._written_bytes = 0
        self._file: pq.ParquetWriter | None = None
        self.files: list[Path] = []
        self.rows = 0

    def __enter__(self) -> "_Writer":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None and (self._held or not self.files):
            self._flush()
        if self._file is not None:
            self._file.close()

    def add(self, table: pa.Table) -> None:
        """The next rows."""
        self._held.append(table)
        self._held_bytes += table.nbytes
        self.rows += table.num_rows
        if self._held_bytes >= min(GROUP_BYTES, self._file_bytes):
            self._flush()

    def _flush(self) -> None:
        table = pa.concat_tables(self._held) if self._held else self._schema.empty_table()
        if self._file is None:
            self.files.append(self._folder / f"embeddings-{len(self.files):05d}.parquet")
            self._file = pq.ParquetWriter(self.files[-1], self._schema, **parts.layout(self._schema))
        self._file.write_table(table, row_group_size=max(1, table.num_rows))
        self._written_bytes += self._held_bytes
        self._held, self._held_bytes = [], 0
        if self._written_bytes >= self._file_bytes:
            self._file.close()
            self._file, self._written_bytes = None, 0
