"""The control groups of Linux that this process is in, of version 2 and of version 1."""

import re
from pathlib import Path


def control_groups(controller: str, root: Path = Path("/")) -> list[Path]:
    """Folders of the group that this process is in and of those above it, the innermost first; some may not be there.

    Within a container its own group often is the root, whatever path it has outside.

    Args:
        controller: of version 1, ``memory`` or ``cpu``; in version 2 a group has all.
        root: where ``proc`` and ``sys`` are.
    """
    own, base = text_of(root / "proc/self/cgroup"), root / "sys/fs/cgroup"
    lines = {base: r"^0::/(.*)$", base / controller: rf"^\d+:(?:[^:\n]*,)?{controller}(?:,[^:\n]*)?:/(.*)$"}
    folders = []
    for top, line in lines.items():
        found = re.search(line, own, re.MULTILINE)
        group = top / found.group(1) if found else top
        folders += [folder for folder in (group, *group.parents) if folder.is_relative_to(top)]
    return folders


def text_of(path: Path) -> str:
    """What a file of the system holds; nothing where it cannot be read."""
    try:
        return path.read_text("ascii", "replace")
    except OSError:
        return ""
