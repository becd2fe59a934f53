"""What a run takes is known before it starts: never less than it really takes, and at most twice that."""

import json
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from tests.support.checkpoints import Shape, write_checkpoint

from q3_export import export_model
from q3_runtime.memory import ModelSizes, available_memory
from q3_runtime.memory_share import MemoryShare

MEASURE = """
import re, sys, threading, time
from pathlib import Path
import numpy as np
from q3_runtime import Embedder
def anonymous():
    return int(re.search(r"RssAnon:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024
model = Embedder(sys.argv[1], self_check=False)
ids = [np.random.default_rng(row).integers(0, 900, int(tokens)) for row, tokens in enumerate(sys.argv[2:])]
model.run([ids[0][:3]])
before, peaks, done = anonymous(), [0], threading.Event()
def watch():
    while not done.wait(0.0005):
        peaks.append(anonymous())
watcher = threading.Thread(target=watch)
watcher.start()
model.run(ids)
done.set()
watcher.join()
print(max(peaks) - before)
"""
MEMINFO = "MemTotal:       16000000 kB\nMemFree:          100000 kB\nMemAvailable:    8000000 kB\n"
EIGHT = 8_000_000 * 1024
linux = pytest.mark.skipif(sys.platform != "linux", reason="other systems do not say")


@pytest.fixture(scope="module")
def middle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random checkpoint of a size at which activations outweigh everything else, exported."""
    home = tmp_path_factory.mktemp("middle")
    shape = Shape(hidden=512, intermediate=1536, layers=4, heads=8, kv_heads=4, head_dim=64, max_tokens=8192)
    probes, out = home / "probes.txt", home / "middle-onnx"
    probes.write_text("one\ntwo\n", encoding="utf-8")
    checkpoint = write_checkpoint(home / "Middle-Embedding", shape)
    return export_model(checkpoint, quant="fp32,int8,fp16", out=out, no_verify=True, probes=probes)


def peak_of_a_run(folder: Path, quant: str, lengths: list[int]) -> int:
    program = MEASURE.replace("self_check=False", f"self_check=False, quant={quant!r}")
    command = [sys.executable, "-c", program, str(folder), *map(str, lengths)]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


@linux
@pytest.mark.parametrize(
    ("quant", "lengths"),
    [
        ("fp32", [512]),
        ("fp32", [8192]),
        ("fp32", [512] * 8),
        ("fp32", [700] + [512] * 7),
        ("int8", [512] * 8),
        ("int8", [520] + [512] * 7),
        ("fp16", [2048]),
        ("fp16", [4096]),
    ],
)
def test_the_estimate_is_at_least_the_measured_peak_and_at_most_twice_that(middle, quant, lengths):
    estimate = ModelSizes.read(middle, tiled=quant != "fp16").run_bytes(len(lengths), max(lengths))
    measured = peak_of_a_run(middle, quant, lengths)
    print(f"\n{quant} {lengths}: {measured / 1e6:.0f} MB, estimate {estimate / 1e6:.0f} MB")
    assert measured <= estimate <= 2 * measured


def test_tiled_attention_makes_long_texts_possible():
    """Qwen3-Embedding-0.6B at 32,768 tokens: the scores alone would be 69 GB a text, twice if ill placed."""
    sizes = {"hidden": 1024, "intermediate": 3072, "heads": 16, "key_value": 1024, "query": 2048}
    tiled, whole = (ModelSizes(**sizes, tiled=tiled).run_bytes(1, 32768) for tiled in (True, False))
    assert tiled < 6e9
    assert whole - tiled == 2 * 16 * (32768**2 - 512**2) * 4 > 137e9


@linux
def test_what_a_run_took_goes_back_when_it_ends(middle):
    """Else the largest batch would stay for good, and a text be refused for what the run before it left."""
    give_back = "import q3_runtime.memory; q3_runtime.memory.give_back_freed(); print(anonymous() - before)"
    program = MEASURE.replace("print(max(peaks) - before)", f"print(max(peaks) - before, anonymous() - before)\n{give_back}")
    command = [sys.executable, "-c", program, str(middle), *["512"] * 8]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    peak, kept, left = map(int, output.split())
    assert left <= kept < 20e6 < 100e6 < peak


TWICE = """
import sys
from q3_runtime import Embedder
from q3_runtime.memory import resident
Embedder(sys.argv[1], quant="fp32").close()  # what is loaded once for all
before = resident()
model = Embedder(sys.argv[1], quant="fp32")
model.encode(["one text", "and another"])
held = resident() - before
model = None
model = Embedder(sys.argv[1], quant="fp32")
again = resident() - before
model.close()
print(held, again, resident() - before)
"""


@linux
def test_what_a_model_took_goes_back_when_it_is_closed_or_another_is_loaded(middle):
    command = [sys.executable, "-c", TWICE, str(middle)]
    held, again, left = map(int, subprocess.run(command, capture_output=True, text=True, check=True).stdout.split())
    assert left < 5e6 < 40e6 < held
    assert again < held + 5e6


def test_sizes_are_read_from_the_folders_config(folder, tmp_path):
    expected = ModelSizes(hidden=64, intermediate=192, heads=4, key_value=64, query=128)
    assert ModelSizes.read(folder) == expected
    config = json.loads((folder / "config.json").read_text("utf-8"))
    del config["head_dim"], config["num_key_value_heads"]
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    assert ModelSizes.read(tmp_path) == ModelSizes(64, 192, 4, key_value=64, query=64)


@pytest.mark.parametrize("content", [None, "", "[]", "{}", '{"hidden_size": "x"}', "[" * 100_000])
def test_a_config_that_cannot_be_read_gives_no_sizes(tmp_path, content):
    if content is not None:
        (tmp_path / "config.json").write_text(content, encoding="utf-8")
    assert ModelSizes.read(tmp_path) is None


# What there is


def system(at: Path, group: str, **files: str) -> Path:
    """A root with /proc and the memory files of cgroups, named by their folder: ``{"a/b": "max current cache"}``."""
    (at / "proc/self").mkdir(parents=True)
    (at / "proc/meminfo").write_text(MEMINFO)
    (at / "proc/self/cgroup").write_text(f"4:memory:/old\n0::{group}\n")
    for name, numbers in files.items():
        folder = at / "sys/fs/cgroup" / name.replace("_", "/").removeprefix("root")
        folder.mkdir(parents=True, exist_ok=True)
        limit, current, cache = numbers.split()
        (folder / "memory.max").write_text(f"{limit}\n")
        (folder / "memory.current").write_text(f"{current}\n")
        (folder / "memory.stat").write_text(f"anon 5\ninactive_file {cache}\nactive_file 100\nslab 7\n")
    return at


def test_without_cgroups_the_system_says_what_there_is(tmp_path):
    assert available_memory(system(tmp_path, "/")) == EIGHT


def test_a_cgroup_leaves_its_limit_less_what_is_used_and_the_page_cache_is_not(tmp_path):
    assert available_memory(system(tmp_path, "/a/b", a_b="5000000 3000000 400000")) == 2_000_000 + 400_000 + 100


def test_the_tightest_of_nested_cgroups_counts(tmp_path):
    root = system(tmp_path, "/a/b", root="max 9 0", a="2000000 1500000 0", a_b="5000000 3000000 0")
    assert available_memory(root) == 500_100


def test_a_container_sees_its_own_cgroup_as_the_root(tmp_path):
    assert available_memory(system(tmp_path, "/", root="5000000 4999000 0")) == 1_100


def test_limits_that_leave_more_than_the_system_has_do_not_count(tmp_path):
    assert available_memory(system(tmp_path, "/a", a="99000000000 0 0")) == EIGHT
    assert available_memory(system(tmp_path / "other", "/a", a="max 5 0")) == EIGHT


def test_a_cgroup_that_is_over_its_limit_leaves_nothing(tmp_path):
    assert available_memory(system(tmp_path, "/a", a="1000 900000 0")) == 0


def test_a_system_that_does_not_say_is_not_asked(tmp_path):
    assert available_memory(tmp_path) is None


@linux
def test_linux_says():
    assert 1e6 < available_memory() < 1e15


@pytest.mark.parametrize("group", ["/pods/one", "/elsewhere/on/the/host"])
def test_a_limit_of_the_older_cgroups_counts_too(tmp_path, group):
    """In a container of version 1 its own group is the root that it sees, whatever its path is outside."""
    root = system(tmp_path, "/")
    (root / "proc/self/cgroup").write_text(f"9:cpu,cpuacct:/\n4:memory:{group}\n0::/\n")
    folder = root / "sys/fs/cgroup/memory" / ("pods/one" if group == "/pods/one" else "")
    folder.mkdir(parents=True)
    (folder / "memory.limit_in_bytes").write_text("4000000\n")
    (folder / "memory.usage_in_bytes").write_text("3000000\n")
    (folder / "memory.stat").write_text("inactive_file 7\ntotal_inactive_file 400000\ntotal_active_file 100\n")
    assert available_memory(root) == 1_400_100


def test_the_older_cgroups_without_a_limit_do_not_count(tmp_path):
    root = system(tmp_path, "/")
    folder = root / "sys/fs/cgroup/memory"
    folder.mkdir(parents=True)
    (folder / "memory.limit_in_bytes").write_text("9223372036854771712\n")
    (folder / "memory.usage_in_bytes").write_text("3000000\n")
    assert available_memory(root) == EIGHT


# What several runs share


class Machine:
    """Memory of which a run takes a while to take its part, as on a real machine."""

    def __init__(self, size: int) -> None:
        self.size, self.free, self.least, self._lock = size, size, size, threading.Lock()

    def run(self, share: MemoryShare, needed: int, seconds: float = 0.05) -> int | None:
        with share.reserved(needed, lambda: self.free) as room:
            time.sleep(seconds)
            self._take(needed)
            time.sleep(seconds)
            self._take(-needed)
        return room

    def wait_until_taken(self) -> None:
        """Somebody has taken a part."""
        while not self.least < self.size:
            time.sleep(0.01)

    def _take(self, amount: int) -> None:
        with self._lock:
            self.free -= amount
            self.least = min(self.least, self.free)


def test_runs_that_do_not_fit_beside_each_other_wait_and_none_is_refused():
    machine, share = Machine(100), MemoryShare()
    with ThreadPoolExecutor(6) as pool:
        rooms = list(pool.map(lambda _: machine.run(share, 40), range(6)))
    assert machine.least == 20  # two at a time
    assert min(rooms) >= 40


def test_a_small_run_need_not_wait_for_a_large_one_that_has_taken_its_part():
    """What the large one has taken is missing from the room, and must not be counted once more."""
    machine, share = Machine(100), MemoryShare()
    with ThreadPoolExecutor(2) as pool:
        large = pool.submit(machine.run, share, 70, 0.5)
        machine.wait_until_taken()
        started = time.monotonic()
        machine.run(share, 20, 0)
        assert time.monotonic() - started < 0.2
        large.result()
    assert machine.least == 10


def test_a_batch_that_can_be_halved_does_not_wait_and_a_small_run_overtakes_what_does():
    """Else a query beside a text of minutes would wait for a second one of these."""
    machine, share = Machine(100), MemoryShare()
    with ThreadPoolExecutor(3) as pool:
        first = pool.submit(machine.run, share, 70, 0.4)
        machine.wait_until_taken()
        second = pool.submit(machine.run, share, 70, 0)
        for _ in range(3):
            with share.reserved(60, lambda: machine.free, waits=False) as room:
                assert room == 0
        started = time.monotonic()
        machine.run(share, 20, 0)
        assert time.monotonic() - started < 0.2
        assert not second.done()
        assert second.result(10) >= 70
        first.result()
    assert machine.least == 10


def test_memory_that_others_have_taken_meanwhile_is_not_promised():
    share = MemoryShare()
    with share.reserved(40, lambda: 100), share.reserved(10, lambda: 30):  # at least 30 went to somebody else
        for needed, expected in ((20, 30), (25, 0)):
            with share.reserved(needed, lambda: 30, waits=False) as room:
                assert room == expected


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_fork_does_not_wait_for_runs_of_threads_that_it_does_not_have():
    code = """
import os
from q3_runtime.memory_share import SHARE
with SHARE.reserved(90, lambda: 100):
    child = os.fork()
    if not child:
        with SHARE.reserved(90, lambda: 100) as room:
            os._exit(room)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == "100\n"


def test_a_run_that_never_fits_is_told_what_there_is_once_nothing_else_runs():
    machine, share = Machine(100), MemoryShare()
    with ThreadPoolExecutor(2) as pool:
        other = pool.submit(machine.run, share, 50)
        machine.wait_until_taken()
        assert machine.run(share, 200, 0) == 100
        other.result()


@linux
def test_threads_that_share_a_model_do_not_take_more_memory_than_there_is_and_none_is_refused(middle):
    """Each alone fits, all six together do not."""
    code = """
import sys, threading
from concurrent.futures import ThreadPoolExecutor
import numpy as np
from q3_runtime import Embedder
from q3_runtime.memory import resident
model = Embedder(sys.argv[1], quant="int8", threads=1, self_check=False)
ids = [np.arange(3, 515) % 900 for _ in range(8)]
model.run([ids[0][:3]])
runner = model._runner
needed = runner._sizes.run_bytes(8, 512)
before, peak, over = resident(), [0], threading.Event()
runner._available = lambda: int(1.3 * needed) - (resident() - before)
def watch():
    while not over.wait(0.0005):
        peak[0] = max(peak[0], resident() - before)
watcher = threading.Thread(target=watch)
watcher.start()
with ThreadPoolExecutor(6) as pool:
    shapes = {found.shape for found in pool.map(lambda _: model.run(ids), range(6))}
over.set()
watcher.join()
print(shapes, peak[0] <= 1.3 * needed)
"""
    done = subprocess.run([sys.executable, "-c", code, str(middle)], capture_output=True, text=True, check=False)
    assert done.stdout == "{(8, 512)} True\n", done.stderr
