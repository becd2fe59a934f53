"""A part: the vectors of one task in a Parquet file that says what it is.

    id         int64 or string, the row's number where the input has none
    embedding  a list of fixed size, in the precision that was asked for
    n_tokens   int32, what the model read
    truncated  bool, whether the text was longer
    row        int64, the row's number among all rows of the input

The footer has the job, the task, and the rows that got no vector with the reason of each, so that a part is committed with
everything that is known of its rows, and found again without any other file. Nothing in it depends on when, where or by whom
it was made: the same task gives the same bytes.
"""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from q3_runtime.bulk.folder import OutFolder
from q3_runtime.bulk.job import Job
from q3_runtime.durable import is_of_machine, publish, sync_folder
from q3_runtime.errors import IntegrityError
from q3_runtime.precisions import PRECISIONS
from q3_runtime.vectors import Vectors

TASK_KEY, JOB_KEY = b"q3_task", b"q3_job"
NORM_TOLERANCE = {"float32": 1e-4, "float16": 5e-3}
"""How far the length of a vector may be from 1; vectors of integers have none."""


class Quarantined(NamedTuple):
    """A row without a vector: its number, the file, its number there, the byte or row group where it begins, the reason."""

    row: int
    source: str
    source_row: int
    offset: int
    reason: str


class Columns(NamedTuple):
    """The rows of a part. ``embedding`` is [N, dim] in its precision, or fewer bytes of packed bits."""

    id: list[int] | list[str]
    embedding: npt.NDArray[Any]
    n_tokens: npt.NDArray[np.int32]
    truncated: npt.NDArray[np.bool_]
    row: npt.NDArray[np.int64]


class Part(NamedTuple):
    """What a footer says."""

    job: str
    task: int
    first_row: int
    rows: int
    quarantined: list[Quarantined]

    def is_of(self, expected: "Part") -> bool:
        """The same task of the same job; what was quarantined is not looked at."""
        return self[:-1] == expected[:-1]


def schema(job: Job) -> pa.Schema:
    """Of every part of a job."""
    precision = PRECISIONS[job.precision]
    width = job.dim // precision.values_per_item
    return pa.schema(
        [
            pa.field("id", pa.int64() if job.id_type == "int64" else pa.string(), nullable=False),
            pa.field(
                "embedding", pa.list_(pa.field("item", pa.from_numpy_dtype(precision.dtype), nullable=False), width), False
            ),
            pa.field("n_tokens", pa.int32(), nullable=False),
            pa.field("truncated", pa.bool_(), nullable=False),
            pa.field("row", pa.int64(), nullable=False),
        ]
    )


def commit(folder: OutFolder, job: Job, part: Part, columns: Columns) -> None:
    """Write a part beside the others and give it its name, if no other process was faster."""
    form = schema(job)
    flat = pa.array(np.ascontiguousarray(columns.embedding).reshape(-1))
    vectors = pa.FixedSizeListArray.from_arrays(flat, type=form.field("embedding").type)
    arrays = [pa.array(columns.id, type=form.field("id").type), vectors, *map(pa.array, columns[2:])]
    table = pa.Table.from_arrays(arrays, schema=form.with_metadata(_metadata(job, part)))
    temporary, target = folder.temporary(), folder.part(part.task)
    try:
        with temporary.open("wb") as file:
            write_table(table, file)
            file.flush()
            os.fsync(file.fileno())
        if not target.parent.is_dir():
            target.parent.mkdir(exist_ok=True)
            sync_folder(folder.parts)
        publish(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


def layout(form: pa.Schema) -> dict[str, Any]:
    """Of all files that a job makes.

    Vectors do not repeat: a dictionary makes them larger, and their bytes split by place smaller; DuckDB 2.0 does not read
    float16 so.
    """
    is_split = form.field("embedding").type.value_type != pa.float16()
    return {
        "compression": "zstd",
        "use_dictionary": False,
        "use_byte_stream_split": ["embedding.list.element"] if is_split else False,
        "write_page_checksum": True,
        "write_statistics": ["id", "row"],
    }


def write_table(table: pa.Table, target: Any) -> None:
    """As one row group."""
    pq.write_table(table, target, row_group_size=max(1, table.num_rows), **layout(table.schema))


def _metadata(job: Job, part: Part) -> dict[bytes, bytes]:
    said = json.dumps(part._asdict(), ensure_ascii=False, separators=(",", ":"))
    return {TASK_KEY: said.encode("utf-8", "replace"), JOB_KEY: job.to_json().encode()}


@contextmanager
def _opened(path: Path) -> Iterator[pq.ParquetFile]:
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            yield file
    except (pa.ArrowException, OSError) as error:
        if is_of_machine(error):
            raise  # the disk or the machine, not the part
        raise _damaged(path, error) from error


def read_footer(path: Path) -> tuple[Part, Job]:
    """What a part says of itself.

    Raises:
        IntegrityError: not a part, or not a whole one.
    """
    with _opened(path) as file:
        return _footer(file, path)


def _footer(file: pq.ParquetFile, path: Path) -> tuple[Part, Job]:
    found = file.schema_arrow.metadata or {}
    try:
        content = json.loads(found[TASK_KEY])
        content["quarantined"] = [Quarantined(*entry) for entry in content["quarantined"]]
        return Part(**content), Job.parse(found[JOB_KEY].decode(), path)
    except (ValueError, KeyError, TypeError) as error:
        raise _damaged(path, error) from error


def check(path: Path, job: Job, expected: Part) -> pa.Table:
    """Read all of a part: every page with its checksum, every row in its place, every vector of length 1.

    Raises:
        IntegrityError: what is wrong with it, or that it is of another task than ``expected``.
    """
    with _opened(path) as file:
        part, _ = _footer(file, path)
        if not part.is_of(expected):
            raise _damaged(path, f"task {part.task} of job {part.job}")
        table = file.read()
    if not table.schema.equals(schema(job)):
        raise _damaged(path, f"columns {', '.join(table.schema.names)}")
    rows = table.column("row").to_numpy()
    all_rows = np.sort(np.concatenate([rows, np.array([lost.row for lost in part.quarantined], dtype=np.int64)]))
    if not np.array_equal(all_rows, np.arange(part.first_row, part.first_row + part.rows)) or (np.diff(rows) <= 0).any():
        raise _damaged(path, "rows that are missing, doubled or out of order")
    check_vectors(vectors_of(table), job.precision, path)
    return table


def check_vectors(vectors: npt.NDArray[Any], precision: str, path: Path) -> None:
    """Refuse vectors that are not of length 1, where they are floats.

    Raises:
        IntegrityError: with how far off.
    """
    tolerance = NORM_TOLERANCE.get(precision)
    if tolerance is not None and len(vectors):
        lengths: Vectors = np.linalg.norm(vectors.astype(np.float32), axis=1)
        if not (np.abs(lengths - 1) <= tolerance).all():
            raise _damaged(path, f"a vector of length {lengths[np.abs(lengths - 1).argmax()]:.4f}")


def vectors_of(table: pa.Table) -> npt.NDArray[Any]:
    """The column ``embedding`` as an array [N, dim]."""
    column = table.column("embedding").combine_chunks()
    width = column.type.list_size
    return np.asarray(column.flatten().to_numpy(zero_copy_only=False)).reshape(-1, width)


def _damaged(path: Path, why: object) -> IntegrityError:
    return IntegrityError(
        f"{path}: not the part it should be ({' '.join(str(why).split())[:200]}); run q3 bulk run again to remake it"
    )
