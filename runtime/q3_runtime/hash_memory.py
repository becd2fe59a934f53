"""Hashes of files, computed once: large weights take seconds to read."""

import hashlib
import json
import os
import re
import sys
import tempfile
import time
from pathlib import Path

SETTLED = 2_000_000_000
"""Nanoseconds since the last change of a file after which another one shows in its times, on FAT too."""


def sha256(path: Path) -> str:
    """sha256 of a file's content, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def cache_folder() -> Path:
    """Where hashes are remembered: the platform's cache folder for one user, under ``q3-onnx``."""
    try:
        home = Path.home()
    except RuntimeError:  # a user without one: nothing can be remembered
        home = Path(os.devnull)
    default = {"win32": home / "AppData" / "Local", "darwin": home / "Library" / "Caches"}.get(sys.platform, home / ".cache")
    named = os.environ.get("LOCALAPPDATA" if sys.platform == "win32" else "XDG_CACHE_HOME")
    return (Path(named) if named else default) / "q3-onnx"


class HashMemory:
    """``hashes.json`` in the cache folder: "dev:ino:size:mtime_ns:ctime_ns" → sha256. A cache that cannot be used is ignored.

    Whoever can write into that folder can have any file taken for another: it belongs to the user, as the cache of their
    browser does. A file's times cannot be set back without its ctime_ns telling, on Windows excepted.
    """

    def __init__(self) -> None:
        self._path = cache_folder() / "hashes.json"
        self._new: dict[str, str] = {}
        self._known = self._read()

    def _read(self) -> dict[str, str]:
        try:
            content = json.loads(self._path.read_text("utf-8"))
        except (OSError, ValueError, RecursionError):
            return {}
        if not isinstance(content, dict):
            return {}
        return {key: value for key, value in content.items() if isinstance(value, str) and re.fullmatch("[0-9a-f]{64}", value)}

    def sha256(self, path: Path) -> str:
        """sha256 of a file's content, remembered or computed.

        One that was changed a moment ago, or meanwhile, is not remembered: a further change might leave its times as they are.
        """
        now, stat = time.time_ns(), path.stat()
        key = _key(stat)
        if key in self._known:
            return self._known[key]
        found = sha256(path)
        if max(stat.st_mtime_ns, stat.st_ctime_ns) + SETTLED <= now and _key(path.stat()) == key:
            self._known[key] = self._new[key] = found
        return found

    def save(self) -> None:
        """Keep what was computed."""
        if not self._new:
            return
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            handle, temporary = tempfile.mkstemp(dir=self._path.parent, prefix="hashes-")
            try:
                with os.fdopen(handle, "w", encoding="utf-8") as file:
                    json.dump(self._read() | self._new, file)
                os.replace(temporary, self._path)
            except OSError:
                Path(temporary).unlink()
                raise
        except OSError:
            return  # a read-only home costs the time of hashing again, nothing else


def _key(stat: os.stat_result) -> str:
    return ":".join(map(str, (stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)))
