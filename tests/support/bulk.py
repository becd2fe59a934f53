"""``q3 bulk`` in a process of its own, files for it to read, and what came out."""

import csv
import gzip
import hashlib
import io
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from tests.conftest import ROOT
from tests.support.server import not_under_nohup

FAILPOINTS = Path(__file__).parent / "failpoints"
NOTES = (ROOT / "examples/notes.txt").read_text("utf-8").splitlines()


def texts(count: int) -> list[str]:
    """Lines of the notes, each with a number, of one to six lines each."""
    return [f"{row}: " + " ".join(NOTES[(row * 7 + step) % len(NOTES)] for step in range(1 + row % 6)) for row in range(count)]


def write(path: Path, rows: Sequence[Any], **columns: Sequence[Any]) -> Path:
    """Texts in the format of the file's ending, with more columns where there are any."""
    table = {"text": list(rows), **{name: list(values) for name, values in columns.items()}}
    suffixes = path.suffixes
    kind = suffixes[-2] if suffixes[-1] in (".gz", ".zst") else suffixes[-1]
    if kind == ".parquet":
        pq.write_table(pa.table(table), path, row_group_size=max(1, len(rows) // 3), write_page_checksum=True)
        return path
    if kind == ".txt":
        content = "".join(f"{row}\n" for row in rows)
    elif kind == ".jsonl":
        content = "".join(
            json.dumps(dict(zip(table, values, strict=True)), ensure_ascii=False) + "\n"
            for values in zip(*table.values(), strict=True)
        )
    else:
        stream = io.StringIO()
        writer = csv.writer(stream)
        writer.writerow(table)
        writer.writerows(zip(*table.values(), strict=True))
        content = stream.getvalue()
    raw = content.encode()
    if suffixes[-1] == ".gz":
        raw = gzip.compress(raw)
    elif suffixes[-1] == ".zst":
        raw = pa.Codec("zstd").compress(raw).to_pybytes()
    path.write_bytes(raw)
    return path


def write_damaged(path: Path, rows: Sequence[str], group_rows: int, row: int) -> Path:
    """Parquet with a byte of that row's text turned over, which nothing but the checksum of its page tells."""
    options = {"write_page_checksum": True, "compression": "none", "use_dictionary": False}
    pq.write_table(pa.table({"text": list(rows)}), path, row_group_size=group_rows, **options)
    raw = bytearray(path.read_bytes())
    raw[raw.index(rows[row].encode()) + 10] ^= 1
    path.write_bytes(raw)
    return path


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "q3_runtime.cli", "bulk", *map(str, arguments)]


def environment(failpoint: str = "") -> dict[str, str]:
    """With the one place at which a process dies."""
    return os.environ | ({"PYTHONPATH": str(FAILPOINTS), "Q3_FAILPOINT": failpoint} if failpoint else {})


def bulk(*arguments: object, code: int = 0, failpoint: str = "") -> str:
    """Standard output; standard error where another exit code than 0 is expected."""
    done = subprocess.run(
        command(*arguments), capture_output=True, text=True, check=False, env=environment(failpoint), encoding="utf-8"
    )
    assert done.returncode == code, f"{done.returncode}: {done.stdout}{done.stderr}"
    return done.stdout if code == 0 else done.stdout + done.stderr


def start(*arguments: object, failpoint: str = "") -> "subprocess.Popen[str]":
    return subprocess.Popen(
        command(*arguments),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment(failpoint),
        encoding="utf-8",
        preexec_fn=not_under_nohup,
    )


def part_hashes(out: Path) -> dict[str, str]:
    """Name of a part → its sha256."""
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted((out / "parts").rglob("*.parquet"))}


def vectors(out: Path) -> pa.Table:
    """All rows of a job."""
    return pq.read_table(out / "parts")


def array(table: pa.Table) -> np.ndarray:
    column = table.column("embedding").combine_chunks()
    return column.flatten().to_numpy(zero_copy_only=False).reshape(-1, column.type.list_size)


def lost(out: Path) -> list[dict[str, Any]]:
    """Rows without a vector."""
    return [json.loads(line) for line in (out / "_quarantine/rows.jsonl").read_text("utf-8").splitlines()]


def manifest(out: Path) -> dict[str, Any]:
    return json.loads((out / "manifest.json").read_text("utf-8"))
