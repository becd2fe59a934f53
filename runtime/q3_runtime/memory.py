"""Does a run fit in memory? An estimate of what it takes, and what there is."""

import ctypes
import re
import sys
from dataclasses import dataclass
from pathlib import Path

from q3_runtime import strict_json

FLOAT = 4
OVERHEAD = 1_000_000
"""Bytes that a run of one token takes."""
SHORT_TOKENS = 512
"""Texts of so many tokens have plain attention in every graph, see :mod:`q3_export.passes.attention_by_length`."""


@dataclass(frozen=True)
class ModelSizes:
    """The sizes in config.json that decide what a run takes.

    ``tiled``: all scores of attention, T × T, are held for short texts only.
    """

    hidden: int
    intermediate: int
    heads: int
    key_value: int
    """Width of the keys, and of the values, of a token."""
    query: int
    tiled: bool = True

    @classmethod
    def read(cls, folder: Path, *, tiled: bool = True) -> "ModelSizes | None":
        """From ``folder/config.json``; None where that cannot be read, in a folder whose hashes nobody wanted checked."""
        try:
            config = strict_json.loads((folder / "config.json").read_text("utf-8"))
            heads, hidden = int(config["num_attention_heads"]), int(config["hidden_size"])
            head = int(config.get("head_dim") or hidden // heads)
            return cls(
                hidden=hidden,
                intermediate=int(config["intermediate_size"]),
                heads=heads,
                key_value=int(config.get("num_key_value_heads") or heads) * head,
                query=heads * head,
                tiled=tiled,
            )
        except (OSError, ValueError, KeyError, TypeError, AttributeError, ZeroDivisionError, RecursionError):
            return None

    def run_bytes(self, rows: int, tokens: int) -> int:
        """Memory beside the weights that a run of ``rows`` × ``tokens`` takes at its peak; rather too much than too little.

        The factors were measured with onnxruntime 1.31.1 on Linux, from 64 to 1024 dimensions and 3 to 28 layers. A few
        states of one layer are alive at the peak: 0.8 to 1.2 times these. Scores take once what they are, or twice where
        onnxruntime's arena gave a part of their place to something smaller.
        """
        alive = 4 * self.intermediate + 5 * self.hidden + 5 * self.query + 4 * self.key_value
        scores = rows * self.heads * (min(tokens, SHORT_TOKENS) if self.tiled else tokens) ** 2
        return OVERHEAD + FLOAT * (rows * tokens * alive * 5 // 4 + 2 * scores)


def give_back_freed() -> None:
    """What earlier runs freed and glibc kept for later goes back to the system; elsewhere nothing happens."""
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)


def resident(process: int | str = "self") -> int:
    """RssAnon + RssShmem of a process in bytes; 0 where it has ended, or where the system does not say."""
    status = _text(Path("/proc") / str(process) / "status")
    return sum(int(kilobytes) * 1024 for kilobytes in re.findall(r"^Rss(?:Anon|Shmem):\s+(\d+) kB", status, re.MULTILINE))


def available_memory(root: Path = Path("/")) -> int | None:
    """Bytes that this process can still take: what the system has, or what its cgroups allow if that is less.

    None where the system does not say; only Linux does. ``root`` is where ``proc`` and ``sys`` are.
    """
    found = re.search(r"^MemAvailable:\s+(\d+) kB", _text(root / "proc/meminfo"), re.MULTILINE)
    if found is None:
        return None
    return min([int(found.group(1)) * 1024, *_cgroup_rooms(root)])


def _cgroup_rooms(root: Path) -> list[int]:
    """Room in this process's cgroup (version 2) and in each one above it that has a limit."""
    own = re.search(r"^0::/(.*)$", _text(root / "proc/self/cgroup"), re.MULTILINE)
    base = root / "sys/fs/cgroup"
    group = base / own.group(1) if own else base
    rooms = []
    for folder in (group, *group.parents):
        if not folder.is_relative_to(base):
            break
        limit, current = _text(folder / "memory.max").strip(), _text(folder / "memory.current").strip()
        if limit.isdecimal() and current.isdecimal():
            # The page cache counts as used, and is dropped as soon as memory is wanted.
            cache = re.findall(r"^(?:in)?active_file (\d+)$", _text(folder / "memory.stat"), re.MULTILINE)
            rooms.append(max(0, int(limit) - int(current) + sum(map(int, cache))))
    return rooms


def _text(path: Path) -> str:
    try:
        return path.read_text("ascii", "replace")
    except OSError:
        return ""
