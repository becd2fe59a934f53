"""Is every file the one that was exported, and does the graph stay among them?

onnxruntime itself loads damaged weights without a word.
"""

from collections.abc import Mapping
from pathlib import Path

from q3_runtime.errors import IntegrityError
from q3_runtime.git_lfs import PULL, is_pointer
from q3_runtime.graph_scan import POINTS_TO_A_FILE, External, GraphError, References, scan
from q3_runtime.hash_memory import HashMemory, sha256
from q3_runtime.hub_cache import is_blob
from q3_runtime.manifest import FileEntry, QuantEntry, is_plain_path

AGAIN = "export or download the folder again"
MOST_BYTES = {".json": 1 << 28, ".safetensors": 1 << 28, ".onnx": 1 << 26, ".jinja": 1 << 20, ".md": 1 << 20}
"""Of files that are read whole. Our largest: tokenizer.json 11 MB, a graph 2 MB."""
DOMAINS = {"", "ai.onnx", "com.microsoft"}
"""Of operators that onnxruntime brings itself."""


def check_files(folder: Path, files: Mapping[str, FileEntry], *, hashes: bool = True, remember: bool = True) -> None:
    """Compare place, size and sha256 of each file with the manifest; without ``hashes`` only whether it is there.

    With ``remember``, a hash computed once is kept in the user's cache and taken from there as long as the file stays as
    it is, by its times.

    Raises:
        IntegrityError: a file is missing, leads out of the folder, or is not the one that was exported.
    """
    for name, entry in files.items():  # sizes first: they cost nothing
        _check_place(folder, name, entry)
        path = folder / name
        if hashes and (size := path.stat().st_size) != entry.bytes:
            raise IntegrityError(f"{path}: " + (PULL if is_pointer(path) else f"{size} bytes, expected {entry.bytes}; {AGAIN}"))
    if not hashes:
        return
    memory = HashMemory() if remember else None
    for name, entry in files.items():
        path = folder / name
        found = memory.sha256(path) if memory else sha256(path)
        if found != entry.sha256:
            raise IntegrityError(f"{path}: sha256 {found[:12]}…, expected {entry.sha256[:12]}…; {AGAIN}")
    if memory:
        memory.save()


def _check_place(folder: Path, name: str, entry: FileEntry) -> None:
    path = folder / name
    if not path.is_file():
        raise IntegrityError(f"{path}: missing, expected {entry.bytes} bytes; {AGAIN}")
    inside = (folder.joinpath(*Path(name).parts[:count]) for count in range(1, len(Path(name).parts) + 1))
    if any(part.is_symlink() for part in inside) and not is_blob(folder, real := path.resolve()):
        raise IntegrityError(
            f"{path}: a link to {real}, expected a file, or a link of the hub's cache; copy the folder with cp -rL, or {AGAIN}"
        )
    most = MOST_BYTES.get(path.suffix)
    if most is not None and path.stat().st_size > most:
        raise IntegrityError(f"{path}: {path.stat().st_size} bytes, expected at most {most}; {AGAIN}")


def check_graph(folder: Path, entry: QuantEntry) -> None:
    """Compare what the graph refers to with what a graph of ours does: its own data file, and operators of onnxruntime.

    onnxruntime itself checks names, offsets and lengths too; which of them, depends on its version.

    Raises:
        IntegrityError: it refers to anything else, or is no graph.
    """
    path = folder / entry.onnx_file
    try:
        found = scan(path)
        for item in found.external:
            _check_external(path, entry, item)
    except GraphError as error:
        raise IntegrityError(f"{path}: not a graph of q3-export: {error}; {AGAIN}") from error
    if strange := _strange(found):
        raise IntegrityError(f"{path}: {', '.join(strange)}, expected a graph as q3-export writes it; {AGAIN}")


def _check_external(path: Path, entry: QuantEntry, item: External) -> None:
    name = f"{Path(entry.onnx_file).parent.as_posix()}/{item.location}"
    if not is_plain_path(item.location) or name not in entry.files:
        raise GraphError(f"tensor {item.tensor!r} lies in {item.location!r}, which is not a file of this quant")
    size, end = (path.parent / item.location).stat().st_size, item.offset + (item.length or 0)
    if end > size:
        raise GraphError(f"tensor {item.tensor!r} ends at byte {end} of {item.location}, which has {size}")


def _strange(found: References) -> list[str]:
    used = found.domains | {domain for domain, _ in found.operators}
    return [
        *(f"operators of {domain!r}" for domain in sorted(used - DOMAINS)),
        *(f"{kind} in it" for kind in sorted(found.rare)),
        *(f"operator {kind}" for domain, kind in found.operators if kind == POINTS_TO_A_FILE),
    ]
