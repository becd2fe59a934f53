"""How many threads a run gets, where a process may use fewer processors than there are."""

import os
import subprocess
import sys

import pytest

from q3_runtime.processors import available_threads


@pytest.mark.skipif(sys.platform != "linux" or (os.cpu_count() or 1) < 2, reason="needs Linux and two cores")
def test_a_process_that_is_held_to_one_core_uses_one_thread():
    code = (
        "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))});"
        "from q3_runtime.processors import available_threads; print(available_threads())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "1\n"


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux says")
@pytest.mark.parametrize(
    ("allowed", "files", "threads"),
    [
        (range(16), {}, 0),
        (range(15), {}, 8),
        (range(8), {}, 4),
        ([0, 2, 4], {}, 3),
        (range(16), {"cpu.max": "300000 100000"}, 3),
        (range(16), {"cpu.max": "max 100000", "a/cpu.max": "max 100000"}, 0),
        (range(16), {"a/cpu.max": "500000 100000"}, 5),
        (range(16), {"cpu.max": "1200000 100000"}, 8),
        (range(16), {"cpu.max": "1600000 100000"}, 0),
        (range(16), {"cpu.max": "50000 100000"}, 1),
        (range(16), {"cpu/pod/cpu.cfs_quota_us": "200000", "cpu/pod/cpu.cfs_period_us": "100000"}, 2),
        (range(16), {"cpu/pod/cpu.cfs_quota_us": "-1", "cpu/pod/cpu.cfs_period_us": "100000"}, 0),
    ],
)
def test_threads_are_the_cores_that_this_process_may_use(tmp_path, monkeypatch, allowed, files, threads):
    """Eight cores of two threads each; control groups of both versions, those above counted too."""
    monkeypatch.setattr(os, "cpu_count", lambda: 16)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(allowed))
    for number in range(16):
        place = tmp_path / f"sys/devices/system/cpu/cpu{number}/topology"
        place.mkdir(parents=True)
        (place / "thread_siblings_list").write_text(f"{number // 2 * 2}-{number // 2 * 2 + 1}\n")
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text("3:cpu,cpuacct:/pod\n0::/a/b\n")
    for name, content in files.items():
        (tmp_path / "sys/fs/cgroup" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "sys/fs/cgroup" / name).write_text(content + "\n")
    assert available_threads(tmp_path) == threads
