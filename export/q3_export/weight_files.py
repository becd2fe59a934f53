"""The weight files of a checkpoint: which tensor lies where. Nothing is opened that has not been checked."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from q3_runtime import strict_json
from q3_runtime.errors import ModelError
from q3_runtime.manifest import MANIFEST_NAME, is_plain_path
from q3_runtime.tensorfile import TensorInfo, read_header

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
PICKLED = (".bin", ".pt", ".pth", ".ckpt")
EXACT_IN_FLOAT32 = ({"BF16"}, {"F16"}, {"F32"}, {"BF16", "F32"}, {"F16", "F32"})


@dataclass(frozen=True)
class Place:
    """One tensor: its file, and its name, dtype and shape there."""

    file: Path
    name: str
    info: TensorInfo


def find_weights(folder: Path) -> dict[str, Place]:
    """Tensor name, without a leading ``model.``, → its place.

    As for transformers, one file comes before an index: ``save_pretrained`` into a folder that had shards leaves their index.

    Raises:
        ModelError: a file or tensor is missing, damaged, misplaced, or of a dtype that float32 does not hold exactly.
    """
    if (folder / SINGLE).is_file():
        places = {name: Place(folder / SINGLE, name, info) for name, info in read_header(folder / SINGLE).items()}
    elif (folder / INDEX).is_file():
        places = _indexed(folder)
    else:
        check_not_pickled(folder, [path.name for path in folder.iterdir()])
        if (folder / MANIFEST_NAME).is_file():
            raise ModelError(f"{folder}: exported already, expected a Qwen3 checkpoint; type: q3 info {folder}")
        raise ModelError(
            f"{folder}: no {SINGLE} and no {INDEX} (incomplete download?); expected a Qwen3 checkpoint", fault="E_SHARD_MISSING"
        )
    _check_dtypes(places)
    for name in places:
        if f"model.{name}" in places:
            raise ModelError(
                f"{folder}: tensors {name} and model.{name}, expected one of them; download again", fault="E_INDEX"
            )
    return {name.removeprefix("model."): place for name, place in places.items()}


def check_not_pickled(checkpoint: Path | str, names: Iterable[str]) -> None:
    """Refuse a checkpoint, known by the names of its files, whose weights are pickled only."""
    names = set(names)
    pickled = sorted(name for name in names if name.endswith(PICKLED))
    if pickled and not names & {SINGLE, INDEX}:
        raise ModelError(
            f"{checkpoint}: only pickled weights ({', '.join(pickled[:3])}), which can run code; expected {SINGLE}; "
            "convert with transformers' save_pretrained",
            fault="E_UNSAFE",
        )


def _indexed(folder: Path) -> dict[str, Place]:
    try:
        index: Any = strict_json.loads((folder / INDEX).read_text("utf-8"))
        weight_map = {str(name): str(shard) for name, shard in index["weight_map"].items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ModelError(f"{INDEX}: no weight_map of names to files ({error!r}); download it again", fault="E_INDEX") from error
    shards = sorted(set(weight_map.values()))
    for shard in shards:
        if not is_plain_path(shard) or "/" in shard or not shard.endswith(".safetensors"):
            raise ModelError(
                f"{INDEX}: file name {shard!r} is not a plain *.safetensors; do not use this checkpoint", fault="E_PATH"
            )
    there = {path.name for path in folder.iterdir() if path.is_file()}
    missing = [shard for shard in shards if shard not in there]
    if missing:
        raise ModelError(
            f"{folder}: {len(missing)} of {len(shards)} weight files are missing: {', '.join(missing)} (incomplete download?); "
            "download them",
            fault="E_SHARD_MISSING",
        )
    headers = {shard: read_header(folder / shard) for shard in shards}
    for name, shard in weight_map.items():
        if name not in headers[shard]:
            elsewhere = next((other for other in shards if name in headers[other]), "none of the files")
            raise ModelError(
                f"{INDEX}: tensor {name} should be in {shard}, found in {elsewhere}; download index and weights again",
                fault="E_INDEX",
            )
    for shard, header in headers.items():
        for name in header:
            if weight_map.get(name) != shard and not (name == "lm_head.weight" and name not in weight_map):
                raise ModelError(
                    f"{shard}: tensor {name} is not in {INDEX} for this file; download index and weights again", fault="E_INDEX"
                )
    return {name: Place(folder / shard, name, headers[shard][name]) for name, shard in weight_map.items()}


def _check_dtypes(places: dict[str, Place]) -> None:
    found: dict[str, str] = {}
    for name, place in places.items():
        found.setdefault(place.info.dtype, name)
    if set(found) not in EXACT_IN_FLOAT32:
        each = ", ".join(f"{dtype} ({name})" for dtype, name in sorted(found.items()))
        raise ModelError(
            f"weights of dtype {each or '(no tensors)'}, expected BF16, F16 or F32, only F32 beside another; "
            "use the original, unquantized checkpoint",
            fault="E_DTYPE",
        )
