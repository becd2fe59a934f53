"""How many processors this process may use: its affinity mask and its control groups."""

import os
import sys
from collections.abc import Iterable
from pathlib import Path

from q3_runtime.control_groups import control_groups, text_of


def available_threads(root: Path = Path("/")) -> int:
    """Threads for one run: 0 (onnxruntime's choice, one a physical core), or fewer where this process may use less.

    onnxruntime looks at neither the affinity mask nor the cgroup quota.
    """
    processors = os.cpu_count() or 1
    allowed = os.sched_getaffinity(0) if sys.platform == "linux" else range(processors)
    quotas = [quota for quota in _cpu_quotas(root) if quota < processors]
    if len(allowed) == processors and not quotas:
        return 0
    return max(1, min([_physical(allowed, root), *quotas]))


def _physical(processors: Iterable[int], root: Path) -> int:
    """Cores that the processors are, two of which may be threads of one core."""
    topology = root / "sys/devices/system/cpu"
    return len({text_of(topology / f"cpu{number}/topology/thread_siblings_list") or number for number in processors})


def _cpu_quotas(root: Path) -> list[int]:
    """Whole cores that each control group with a limit may use."""
    found = []
    for folder in control_groups("cpu", root):
        files = text_of(folder / "cpu.max"), f"{text_of(folder / 'cpu.cfs_quota_us')} {text_of(folder / 'cpu.cfs_period_us')}"
        for quota, period in (numbers for file in files if len(numbers := file.split()) == 2):
            if quota.isdecimal():  # neither max nor -1
                found.append(int(quota) // int(period))
    return found
