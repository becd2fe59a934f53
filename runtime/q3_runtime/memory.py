"""Does a run fit in memory? An estimate of what it takes, and what there is."""

import ctypes
import re
import sys
from dataclasses import dataclass
from pathlib import Path

from q3_runtime import strict_json
from q3_runtime.control_groups import control_groups, text_of

FLOAT = 4
OVERHEAD = 1_000_000
"""Bytes that a run of one token takes."""
SHORT_TOKENS = 512
"""Texts of so many tokens have plain attention in every graph, see :mod:`q3_export.passes.attention_by_length`."""
LIMIT_FILES = [("memory.max", "memory.current", ""), ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_")]
"""Of a control group: its limit, what is used, and what the names in memory.stat begin with; of version 2, and of 1."""


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
    status = text_of(Path("/proc") / str(process) / "status")
    return sum(int(kilobytes) * 1024 for kilobytes in re.findall(r"^Rss(?:Anon|Shmem):\s+(\d+) kB", status, re.MULTILINE))


def available_memory(root: Path = Path("/")) -> int | None:
    """Bytes that this process can still take: what the system has, or what its cgroups allow if that is less.

    None where the system does not say; only Linux does. ``root`` is where ``proc`` and ``sys`` are.
    """
    found = re.search(r"^MemAvailable:\s+(\d+) kB", text_of(root / "proc/meminfo"), re.MULTILINE)
    if found is None:
        return None
    return min([int(found.group(1)) * 1024, *_cgroup_rooms(root)])


def _cgroup_rooms(root: Path) -> list[int]:
    """Room in each control group that has a limit."""
    rooms = []
    for folder in control_groups("memory", root):
        for limit_file, used_file, prefix in LIMIT_FILES:
            limit, used = text_of(folder / limit_file).strip(), text_of(folder / used_file).strip()
            if limit.isdecimal() and used.isdecimal():
                # The page cache counts as used, and is dropped as soon as memory is wanted.
                cache = re.findall(rf"^{prefix}(?:in)?active_file (\d+)$", text_of(folder / "memory.stat"), re.MULTILINE)
                rooms.append(max(0, int(limit) - int(used) + sum(map(int, cache))))
    return rooms
