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
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from q3_runtime.bulk.folder import OutFolder, here, is_running
from q3_runtime.durable import patiently, publish
from q3_runtime.errors import BusyError

BEAT = 3.0
"""Seconds between two counts."""
PATIENCE = 15.0
"""Seconds without a count after which the holder on another machine is taken for dead."""


def shard_lease(folder: OutFolder, index: int, of: int, say: Callable[[str], None]) -> "Lease":
    """Of a run; the shards of one number share no task, those of another number do."""

    def excludes(other: str) -> bool:
        return other.startswith("shard-") and not other.endswith(f"-of-{of}")

    return Lease(folder, f"shard-{index}-of-{of}", excludes, say)


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
        self._dead: dict[Path, dict[str, Any]] = {}
        """Leases that were watched and not counted up, with what they said."""

    def __enter__(self) -> "Lease":
        while True:
            seen = latest(self._folder, self._name)
            self._give_way([self._name, *self._excluded()])
            self._token = seen + 1  # and no later one, whose holder nobody has looked at
            if publish(self._written(), path := self._path(self._name, self._token), reserve=True):
                if self.is_mine():
                    break
                path.unlink(missing_ok=True)  # a later one was there: this number had been cleaned away
        threading.Thread(target=self._keep, daemon=True).start()
        try:
            self._give_way(self._excluded())  # to who came at the same moment; of two that both give way, both come again
            for name in self._excluded():  # who had these and only stopped for a while must find out
                self._written(beat=-1).replace(self._path(name, latest(self._folder, name) + 1))
            self._clean()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._over.set()
        if self.is_mine():
            self._beat = -1
            with suppress(OSError):
                self._written().replace(self._path(self._name, self._token))

    @property
    def token(self) -> tuple[str, int]:
        """Name and number, by which a worker asks :func:`is_current`."""
        return self._name, self._token

    def is_mine(self) -> bool:
        """Still."""
        return is_current(self._folder, *self.token)

    def check(self) -> None:
        """See :func:`check_current`."""
        check_current(self._folder, *self.token)

    def _path(self, name: str, token: int) -> Path:
        return self._folder.leases / f"{name}.{token:09d}"

    def _excluded(self) -> list[str]:
        return [name for name in sorted(_names(self._folder)) if name != self._name and self._others(name)]

    def _give_way(self, names: Sequence[str]) -> None:
        """To whoever holds one of these leases. All whose holder cannot be asked are watched together, each once.

        Raises:
            BusyError: one has a holder who is alive.
        """
        found = {self._path(name, token): name for name in names if (token := latest(self._folder, name))}
        watched = {path: content for path, name in found.items() if (content := self._perhaps_held(path, name))}
        watched = {path: content for path, content in watched.items() if self._dead.get(path) != content}
        if not watched:
            return
        holders = sorted(f"process {content['process']} on {content['host']}" for content in watched.values())
        verb = "was" if len(holders) == 1 else "were"
        self._say(f"{', '.join(holders)} {verb} at work there; waiting {PATIENCE:.0f} s to see whether it still is")
        deadline = time.monotonic() + PATIENCE
        while watched and time.monotonic() < deadline:
            time.sleep(BEAT / 3)
            for path, content in list(watched.items()):
                now = _read(path)
                if now is None or now["beat"] < 0:
                    del watched[path]
                elif now["beat"] != content["beat"]:
                    raise self._busy(found[path], now)
        self._dead |= watched

    def _written(self, beat: int | None = None) -> Path:
        temporary = self._folder.temporary()
        content = {"host": here(), "process": os.getpid(), "started": _started(os.getpid())}
        temporary.write_text(json.dumps(content | {"beat": self._beat if beat is None else beat}), "utf-8")
        return temporary

    def _keep(self) -> None:
        while not self._over.wait(BEAT):
            with suppress(OSError):  # a beat that is late is made up by the next one; a full disk stops the work by itself
                if not self.is_mine():
                    return
                self._beat += 1
                self._written().replace(self._path(self._name, self._token))

    def _perhaps_held(self, path: Path, name: str) -> dict[str, Any] | None:
        """What a lease says whose holder may be alive, which only time tells; None: it has none.

        Raises:
            BusyError: its holder is a process of this machine, and alive.
        """
        content = _read(path)
        if content is None or content["beat"] < 0:
            return None
        process, is_here = content["process"], content["host"] == here()
        if is_here and (content["started"] or not is_running(process)):
            if is_running(process) and _started(process) == content["started"]:
                raise self._busy(name, content)
            return None
        if is_here and process == os.getpid():
            raise self._busy(name, content)
        return content

    def _busy(self, name: str, content: dict[str, Any]) -> BusyError:
        holder = f"process {content['process']} on {content['host']}"
        return BusyError(f"{self._folder.path}: {holder} is at work there ({name}); wait for it, or take another shard")

    def _clean(self) -> None:
        """Earlier tokens of this name."""
        for token, path in _tokens(self._folder, self._name).items():
            if token < self._token:
                path.unlink(missing_ok=True)


def latest(folder: OutFolder, name: str) -> int:
    """The highest token of a name, 0 where there is none."""
    return max(_tokens(folder, name), default=0)


def is_current(folder: OutFolder, name: str, token: int) -> bool:
    """Whether nobody has taken over since."""
    return latest(folder, name) == token


def check_current(folder: OutFolder, name: str, token: int) -> None:
    """Go no further without it.

    Raises:
        BusyError: somebody took over.
    """
    if not is_current(folder, name, token):
        raise BusyError(f"{folder.path}: another run took over; this one stops")


def _tokens(folder: OutFolder, name: str) -> dict[int, Path]:
    """By iterdir: from Python 3.12 on glob takes a disk that is away for an empty folder."""
    return {int(path.suffix[1:]): path for path in folder.leases.iterdir() if path.stem == name and path.suffix[1:].isdecimal()}


def _names(folder: OutFolder) -> set[str]:
    return {path.stem for path in folder.leases.iterdir() if path.suffix[1:].isdecimal()}


def _read(path: Path) -> dict[str, Any] | None:
    """None where it is gone or damaged. A disk that is away for a moment says nothing of a holder."""
    try:
        content = json.loads(patiently(lambda: path.read_text("utf-8")))
        kinds = {"host": str, "process": int, "started": str, "beat": int}
        return {name: kind(content[name]) for name, kind in kinds.items()}
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None


def _started(process: int) -> str:
    """When a process of this machine began, in ticks since the start of the system; "" where that is not known.

    One that has ended and that nobody has waited for (Z, X) is still listed, and did not begin any more.
    """
    if sys.platform != "linux":
        return ""
    try:
        state, *more = Path(f"/proc/{process}/stat").read_text("utf-8", "replace").rpartition(")")[2].split()
        return "" if state in "ZX" else more[18]
    except OSError:
        return ""
