"""Files that are on the disk, whole, or not there at all; disks that are away for a moment."""

import errno
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK, errno.EXDEV, *([errno.EINVAL] if os.name == "nt" else [])}
"""What a file system says that has no hard links, or none from one folder into another."""
PASSING = {errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EAGAIN, errno.ENETDOWN, errno.ENETUNREACH, errno.EHOSTDOWN}
"""What a network's file system says when it may be better in a moment."""
RETRIES, FIRST_PAUSE = 5, 0.5
"""Of what may pass; the pause, in seconds, doubles."""
Found = TypeVar("Found")


def write_synced(path: Path, text: str) -> None:
    """Write a text file and wait until it is on the disk."""
    with path.open("w", encoding="utf-8", newline="\n") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def sync_tree(folder: Path) -> None:
    """Wait until every file below is on the disk."""
    for path in [*folder.rglob("*"), folder]:
        if path.is_dir():
            sync_folder(path)
        else:
            with path.open("r+b" if os.name == "nt" else "rb") as file:  # Windows syncs only what may be written
                os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Wait until the names in a folder are on the disk; Windows has no such thing."""
    if os.name == "nt":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def replace_synced(temporary: Path, target: Path) -> None:
    """Give a file its name once its content is on the disk; what had that name is gone."""
    with temporary.open("r+b") as file:
        os.fsync(file.fileno())
    temporary.replace(target)
    sync_folder(target.parent)


def publish(temporary: Path, target: Path, *, reserve: bool = False) -> bool:
    """Give a complete file its name, unless that name is taken: then False, and the file is gone.

    A hard link never replaces anything, not even on NFS. Where there are none, a rename: whoever is late replaces a file
    that has the same content. Where it has not, ``reserve`` makes an empty file of that name first, which only one can.
    """
    try:
        os.link(temporary, target)
    except FileExistsError:
        temporary.unlink()
        return False
    except OSError as error:
        if error.errno not in NO_LINKS:
            raise
        try:
            if target.exists():
                raise FileExistsError
            if reserve:
                target.touch(exist_ok=False)
        except FileExistsError:
            temporary.unlink()
            return False
        os.replace(temporary, target)
    else:
        temporary.unlink()
    sync_folder(target.parent)
    return True


def is_of_machine(error: BaseException) -> bool:
    """Whether disk or memory, and not what is on the disk, is to blame: pyarrow's OSError for damaged content has no number."""
    return isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno is not None)


def patiently(work: Callable[[], Found], sleep: Callable[[float], object] = time.sleep) -> Found:
    """Do it, again a few times where the disk says what may pass."""
    pause = FIRST_PAUSE
    for _ in range(RETRIES):
        try:
            return work()
        except OSError as error:
            if error.errno not in PASSING:
                raise
        sleep(pause)
        pause *= 2
    return work()
