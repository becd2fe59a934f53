"""The header of a .safetensors file, read and checked without trusting it.

Layout (https://github.com/huggingface/safetensors#format): 8 bytes little-endian header length N, N bytes of JSON, then
the tensors one after another without holes. A file that was cut off while downloading maps as zeros, so its size is
compared with what the header promises before anything is read.
"""

from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from q3_runtime import strict_json
from q3_runtime.errors import ModelError
from q3_runtime.git_lfs import PULL, is_pointer

MAX_HEADER_BYTES = 100_000_000  # the format's own limit
ITEM_BYTES = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "I16": 2, "U16": 2, "F16": 2, "BF16": 2,
    "I32": 4, "U32": 4, "F32": 4, "I64": 8, "U64": 8, "F64": 8,
}  # fmt: skip
AGAIN = "download this file again"


@dataclass(frozen=True)
class TensorInfo:
    """Where a tensor lies: ``start`` and ``end`` are byte positions in the file."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int


def read_header(path: Path) -> dict[str, TensorInfo]:
    """Name → place of every tensor in the file, in the order of their bytes.

    Raises:
        ModelError: anything that is not a complete, well-formed file; the message names the file and the sizes.
    """
    if is_pointer(path):
        raise ModelError(f"{path.name}: {PULL}", fault="E_ST_HEADER")
    size = path.stat().st_size
    with path.open("rb") as file:
        prefix = file.read(8)
        if len(prefix) < 8:
            raise ModelError(
                f"{path.name}: {size} bytes, expected at least the 8 of a header length (incomplete download?); {AGAIN}",
                fault="E_SHARD_TRUNCATED",
            )
        header_bytes = int.from_bytes(prefix, "little")
        if not 2 <= header_bytes <= MAX_HEADER_BYTES:
            raise ModelError(
                f"{path.name}: header length {header_bytes}, expected 2 to {MAX_HEADER_BYTES}; {AGAIN}", fault="E_ST_HEADER"
            )
        if 8 + header_bytes > size:
            raise ModelError(
                f"{path.name}: header ends at {8 + header_bytes} but the file has {size} bytes (incomplete download?); {AGAIN}",
                fault="E_SHARD_TRUNCATED",
            )
        raw = file.read(header_bytes)
    try:
        header: Any = strict_json.loads(raw.decode("utf-8"))
        if not isinstance(header, dict):
            raise ValueError(f"a {type(header).__name__}")
    except (ValueError, RecursionError) as error:
        raise ModelError(
            f"{path.name}: header is not a JSON object ({error}), expected safetensors; {AGAIN}", fault="E_ST_HEADER"
        ) from error
    header.pop("__metadata__", None)
    infos = {name: _tensor(path, name, entry, 8 + header_bytes) for name, entry in header.items()}
    infos = dict(sorted(infos.items(), key=lambda item: (item[1].start, item[1].end)))
    position = 8 + header_bytes
    for name, info in infos.items():
        if info.start != position:
            raise ModelError(
                f"{path.name}: tensor {name} starts at byte {info.start}, expected {position} (no holes, no overlap); {AGAIN}",
                fault="E_ST_HEADER",
            )
        position = info.end
    if position != size:
        cause = "incomplete download?" if size < position else "trailing bytes"
        raise ModelError(
            f"{path.name}: tensors end at {position} but the file has {size} bytes ({cause}); {AGAIN}",
            fault="E_SHARD_TRUNCATED" if size < position else "E_ST_HEADER",
        )
    return infos


def _tensor(path: Path, name: str, entry: Any, base: int) -> TensorInfo:
    try:
        dtype, shape, (start, end) = entry["dtype"], entry["shape"], entry["data_offsets"]
        if not all(type(number) is int and 0 <= number < 2**63 for number in (*shape, start, end)):
            raise ValueError("sizes must be whole numbers below 2**63")
        if dtype not in ITEM_BYTES:
            raise ModelError(f"{path.name}: tensor {name} has dtype {dtype!r}, expected BF16, F16 or F32", fault="E_DTYPE")
        if end - start != prod(shape) * ITEM_BYTES[dtype]:
            raise ValueError(f"{end - start} bytes do not hold {dtype} {shape}")
    except (ValueError, KeyError, TypeError) as error:
        raise ModelError(
            f"{path.name}: header entry of tensor {name} is wrong ({error}); {AGAIN}", fault="E_ST_HEADER"
        ) from error
    return TensorInfo(dtype, tuple(shape), base + start, base + end)


def read_float32(path: Path, name: str) -> npt.NDArray[np.float32]:
    """One float32 tensor as an array of its own shape."""
    info = read_header(path)[name]
    with path.open("rb") as file:
        file.seek(info.start)
        return np.frombuffer(file.read(info.end - info.start), dtype="<f4").reshape(info.shape).copy()
