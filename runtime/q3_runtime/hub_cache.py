"""The hub's cache on disk: what a file there must be, where it may lie, and how onnxruntime can be given it.

* ``CACHE/models--ORG--NAME/snapshots/COMMIT/onnx/model.onnx`` is a link to ``../../../blobs/HASH``;
* ``CACHE/models--ORG--NAME/blobs/HASH`` is a file, or a link to ``CACHE/blobs/…``, which all repositories share;
* ``CACHE/models--ORG--NAME/plain/COMMIT/onnx/model.onnx`` is ours: a hard link to the file, where it is shared.
"""

import hashlib
import os
import re
import tempfile
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from q3_runtime.errors import IntegrityError, StorageError
from q3_runtime.hash_memory import HashMemory


@dataclass(frozen=True)
class Blob:
    """What a file must be: sha256 of a large one, git's sha1 of a small one; None where it is not known."""

    hash: str | None
    size: int | None = None


def files_of(folder: Path) -> list[str]:
    """Names of the files of a snapshot, links followed."""
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def blob_name(path: Path) -> str | None:
    """The hash that a file of a snapshot is kept under; None where the cache has copies instead of links."""
    return path.readlink().name if path.is_symlink() else None


def is_blob(folder: Path, real: Path) -> bool:
    """Whether a file lies where the links of a snapshot lead to: in its repository's blobs, or in those that all share."""
    home = folder.resolve()
    if home.parent.name != "snapshots":
        return False
    return any(real.is_relative_to(place.resolve()) for place in (home.parents[1] / "blobs", _shared(home)))


def check_blob(repo: str, folder: Path, name: str, blob: Blob, memory: HashMemory) -> None:
    """Is this file of a snapshot in its place, and of this size and hash? If it is not, it is removed from the cache.

    Raises:
        IntegrityError: it leads out of the repository's cache, or is not the file that is expected.
    """
    path = folder / name
    real = path.resolve()
    if not real.is_file() or not (real.is_relative_to(folder.resolve()) or is_blob(folder, real)):
        raise IntegrityError(
            f"{repo}: {path} leads to {real}, expected a file in {folder.parents[1]}; "
            "remove that folder and type the same again",
            fault="E_HUB",
        )
    size = real.stat().st_size
    if blob.size not in (None, size):
        difference = f"{size} bytes, expected {blob.size}"
    elif (found := _hash(real, blob.hash, memory)) != blob.hash:
        difference = f"its hash is {str(found)[:12]}…, expected {str(blob.hash)[:12]}…"
    else:
        return
    next_step = "it is removed: type the same again to download it" if _removed(path) else f"remove {path} and {real}"
    raise IntegrityError(f"{repo}: {name}: {difference}; {next_step}", fault="E_HUB")


def with_plain_files(folder: Path, names: Iterable[str]) -> Path:
    """A folder with the same files that onnxruntime takes.

    It reads weights that lie beside the graph, or beside the file that the graph's link leads to: a repository's blobs
    do. Blobs that repositories share lie in many folders; then this is a folder of hard links, made once in the cache.

    Raises:
        StorageError: the links cannot be made.
    """
    names = list(names)
    shared = _shared(folder).resolve()
    if not any((folder / name).resolve().is_relative_to(shared) for name in names):
        return folder
    plain = folder.parents[1] / "plain" / folder.name
    try:
        for name in names:
            _link((folder / name).resolve(), plain / name)
    except OSError as error:
        raise StorageError(
            f"{plain}: no hard links to the hub's shared files ({error.strerror}), onnxruntime does not follow other ones; "
            "download into a folder: hf download ORG/NAME --local-dir FOLDER"
        ) from error
    return plain


def _link(real: Path, place: Path) -> None:
    if place.exists() and place.samefile(real):
        return
    place.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=place.parent) as private:
        link = Path(private) / "link"
        os.link(real, link)
        os.replace(link, place)  # at once, whoever else makes or reads it now


def _shared(folder: Path) -> Path:
    """Where the cache keeps blobs that repositories share; a plain file there has one name per content."""
    return folder.parents[2] / "blobs"


def _hash(path: Path, expected: str | None, memory: HashMemory) -> str | None:
    """The file's hash of the kind that is expected; where that is no hash, what is expected."""
    if expected is None or not re.fullmatch("[0-9a-f]{40}|[0-9a-f]{64}", expected):
        return expected
    if len(expected) == 64:
        return memory.sha256(path)
    content = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def _removed(path: Path) -> bool:
    """Remove a file of a snapshot, and the blob behind it."""
    blob = path.parent / path.readlink() if path.is_symlink() else path
    for each in (path.resolve(), blob, path):
        with suppress(OSError):
            each.unlink()
    return not path.is_symlink() and not path.exists() and not blob.exists()
