"""One run at a time, on one machine or on many that share a folder.

A lease is a file ``NAME.TOKEN``; of one name the highest token counts. Its holder counts it up every few seconds. Whoever finds
one whose holder is gone, a process of this machine that ended or one of another that does not count any more, takes the next
token, which only one process can. Clocks of two machines are never compared. A process whose token is not the highest any more
commits nothing.
"""

import json
import os
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from q3_runtime.bulk.folder import OutFolder, here, is_running
from q3_runtime.durable import publish
from q3_runtime.errors import BusyError

BEAT = 3.0
"""Seconds between two counts."""
PATIENCE = 15.0
"""Seconds without a count after which the holder on another machine is taken for dead."""


class Lease:
    """``with Lease(folder, "shard-0-of-1"):`` nobody else has it meanwhile.

    Args:
        folder: where the job is.
        name: what is leased.
        others: names of leases that exclude this one.
        say: told why it takes long.

    Raises:
        BusyError: somebody has it, or one of the others.
    """

    def __init__(
        self, folder: OutFolder, name: str, others: Callable[[str], bool] = lambda _: False, say: Callable[[str], None] = print
    ) -> None:
        self._folder, self._name, self._others, self._say = folder, name, others, say
        self._over = threading.Event()
        self._token = 0
        self._beat = 0

    def __enter__(self) -> "Lease":
        while True:
            for name, token in self._latest().items():
                if (name == self._name or self._others(name)) and (holder := self._holder(name, token)):
                    raise BusyError(
                        f"{self._folder.path}: {holder} is at work there ({name}); wait for it, or take another shard"
                    )
            self._token = self._latest().get(self._name, 0) + 1
            if publish(self._written(), self._path(self._name, self._token)):
                break
        self._clean()
        threading.Thread(target=self._keep, daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._over.set()
        if self.is_mine():
            self._beat = -1
            with suppress(OSError):
                self._written().replace(self._path(self._name, self._token))

    @property
    def successor(self) -> Path:
        """The file that is there once somebody else took over."""
        return self._path(self._name, self._token + 1)

    def is_mine(self) -> bool:
        """Still."""
        return not self.successor.exists()

    def _path(self, name: str, token: int) -> Path:
        return self._folder.leases / f"{name}.{token:09d}"

    def _latest(self) -> dict[str, int]:
        """Name → the highest token."""
        found: dict[str, int] = {}
        for path in self._folder.leases.iterdir():
            name, _, token = path.name.rpartition(".")
            if token.isdecimal():
                found[name] = max(found.get(name, 0), int(token))
        return found

    def _written(self) -> Path:
        temporary = self._folder.temporary()
        content = {"host": here(), "process": os.getpid(), "started": _started(os.getpid()), "beat": self._beat}
        temporary.write_text(json.dumps(content), "utf-8")
        return temporary

    def _keep(self) -> None:
        while not self._over.wait(BEAT) and self.is_mine():
            self._beat += 1
            with suppress(OSError):  # a beat that is late is made up by the next one; a full disk stops the work by itself
                self._written().replace(self._path(self._name, self._token))

    def _holder(self, name: str, token: int) -> str | None:
        """Who has it, if they are alive."""
        path = self._path(name, token)
        content = _read(path)
        if content is None or content["beat"] < 0:
            return None
        holder = f"process {content['process']} on {content['host']}"
        if content["host"] == here():
            alive = is_running(content["process"]) and _started(content["process"]) == content["started"]
            return holder if alive else None
        self._say(f"{holder} was at work there; waiting {PATIENCE:.0f} s to see whether it still is")
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            time.sleep(BEAT / 3)
            now = _read(path)
            if now is None or now["beat"] < 0:
                return None
            if now["beat"] != content["beat"]:
                return holder
        return None

    def _clean(self) -> None:
        """Earlier tokens of this name."""
        for path in self._folder.leases.glob(f"{self._name}.*"):
            if path.suffix[1:].isdecimal() and int(path.suffix[1:]) < self._token:
                path.unlink(missing_ok=True)


def _read(path: Path) -> dict[str, Any] | None:
    try:
        content = json.loads(path.read_text("utf-8"))
        kinds = {"host": str, "process": int, "started": str, "beat": int}
        return {name: kind(content[name]) for name, kind in kinds.items()}
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _started(process: int) -> str:
    """When a process of this machine began, in ticks since the start of the system; "" where that is not known."""
    if sys.platform != "linux":
        return ""
    try:
        return Path(f"/proc/{process}/stat").read_text("utf-8", "replace").rpartition(")")[2].split()[19]
    except OSError:
        return ""
