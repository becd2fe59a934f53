"""Names in the folder that a job writes to.

_q3_job.json            what is to be done; written once
_q3_inputs.parquet      the files that are read
_q3_tasks.parquet       the tasks: which rows of which file
parts/000000/000000000.parquet   the vectors, a file a task, a thousand of them a folder
_tmp/                   what is being written
_attempts/              tasks that were begun
_leases/                who is running
_bad/                   what was found and is not ours, or damaged
_quarantine/rows.jsonl  rows without a vector, each with its reason; made at the end, as are
manifest.json           every file with its sha256
_SUCCESS                nothing is missing
"""

import os
import shutil
import socket
import sys
import uuid
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from q3_runtime.durable import sync_folder
from q3_runtime.errors import InputError, StorageError

PER_FOLDER = 1000


class OutFolder:
    """Paths below ``OUT``."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.job = path / "_q3_job.json"
        self.inputs = path / "_q3_inputs.parquet"
        self.tasks = path / "_q3_tasks.parquet"
        self.parts = path / "parts"
        self.scratch = path / "_tmp"
        self.attempts = path / "_attempts"
        self.leases = path / "_leases"
        self.bad = path / "_bad"
        self.quarantine = path / "_quarantine" / "rows.jsonl"
        self.manifest = path / "manifest.json"
        self.success = path / "_SUCCESS"

    def make(self) -> None:
        """Create the folders that work needs.

        Raises:
            StorageError: no place for them; InputError: E_EXISTS, where something else is.
        """
        if self.path.exists() and not self.path.is_dir():
            raise StorageError(f"{self.path}: a file, expected a folder or nothing; give another --out")
        if not self.path.parent.is_dir():
            raise StorageError(f"{self.path}: its parent folder does not exist; type: mkdir -p {self.path.parent}")
        is_job = self.leases.is_dir() or self.job.is_file()
        if self.path.is_dir() and any(self.path.iterdir()) and not is_job:
            found = "a folder with other content, expected nothing or a job"
            raise InputError(f"{self.path}: {found}; give another --out", fault="E_EXISTS")
        for folder in (self.path, self.leases, self.parts, self.scratch, self.attempts):  # by its leases a job is known
            folder.mkdir(parents=True, exist_ok=True)

    def part(self, number: int) -> Path:
        """Of the task of that number."""
        return self.parts / f"{number // PER_FOLDER:06d}" / f"{number:09d}.parquet"

    def attempt(self, number: int) -> Path:
        """What is known of a task that was begun."""
        return self.attempts / f"{number // PER_FOLDER:06d}" / f"{number:09d}.json"

    def temporary(self) -> Path:
        """A new name that no other process takes."""
        return self.scratch / own_name()

    def existing_parts(self) -> Iterator[Path]:
        """All files below ``parts``, in order, a folder at a time."""
        for folder in sorted(self.parts.iterdir()) if self.parts.is_dir() else ():
            if folder.is_dir():
                yield from sorted(folder.iterdir())
            else:
                yield folder

    def discard_scratch(self) -> None:
        """What processes of this machine left behind that have ended."""
        discard_ended(self.scratch)

    def set_aside(self, path: Path) -> Path:
        """Move a file that cannot be used to ``_bad``, under a name that says where it was."""
        self.bad.mkdir(exist_ok=True)
        target = self.bad / f"{path.name}.{uuid.uuid4().hex[:12]}"
        os.replace(path, target)
        sync_folder(path.parent)
        return target


def own_name() -> str:
    """A new name that says whose it is."""
    return f"{here()}-{os.getpid()}-{uuid.uuid4().hex[:12]}"


def discard_ended(folder: Path, prefix: str = "") -> None:
    """Remove what has such a name and is of a process of this machine that has ended; others may be at the same."""
    for path in folder.iterdir():
        place, _, rest = path.name.rpartition("-")[0].rpartition("-")
        if place == prefix + here() and rest.isdecimal() and not is_running(int(rest)):
            shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)


@cache
def here() -> str:
    """The machine; on Linux its start and its space of process ids too: machines and containers may share a name."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()[:8]
        space = f"-{boot}-{Path('/proc/self/ns/pid').stat().st_ino}" if sys.platform == "linux" else ""
    except OSError:
        space = ""
    name = "".join(letter if letter.isalnum() else "_" for letter in socket.gethostname())
    return name + space


def is_running(process: int) -> bool:
    """A process of this machine, by its id."""
    if os.name == "nt":  # os.kill would end it there
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
