"""Peak memory of a process tree: anonymous and shared-memory pages, which the kernel cannot drop."""

import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from q3_runtime.memory import resident


@dataclass(frozen=True)
class Peak:
    """Bytes: ``parent`` of the process itself, ``children`` summed over those that it started, ``tree`` over all of them."""

    parent: int
    children: int
    tree: int
    returncode: int
    seconds: float
    output: str


def run_and_watch(command: list[str], **options: object) -> Peak:
    """Run a command and read /proc every 20 ms."""
    started = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **options)  # type: ignore[call-overload]
    parent = children = tree = 0
    with process, open(process.stdout.fileno(), closefd=False, encoding="utf-8", errors="replace") as stream:
        import threading

        output: list[str] = []
        reader = threading.Thread(target=lambda: output.append(stream.read()))
        reader.start()
        while process.poll() is None:
            own, others = resident(process.pid), sum(resident(pid) for pid in descendants(process.pid))
            parent, children, tree = max(parent, own), max(children, others), max(tree, own + others)
            time.sleep(0.02)
        reader.join()
    return Peak(parent, children, tree, process.returncode, time.monotonic() - started, "".join(output))


def descendants(pid: int) -> list[int]:
    """Process ids of all children, and of theirs."""
    found: list[int] = []
    try:
        tasks = list(Path(f"/proc/{pid}/task").iterdir())
    except OSError:
        return found
    for task in tasks:
        try:
            children = (task / "children").read_text().split()
        except OSError:
            continue
        for child in map(int, children):
            found += [child, *descendants(child)]
    return found
