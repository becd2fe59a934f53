"""One run at a time, on one machine and between machines (B18, B19, B20)."""

import errno
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from q3_runtime import durable
from q3_runtime.bulk import leases
from q3_runtime.bulk.folder import OutFolder, here
from q3_runtime.bulk.leases import Lease, is_current, latest
from q3_runtime.errors import BusyError

HOLDER = """
import sys, time
from pathlib import Path
from q3_runtime.bulk.folder import OutFolder
from q3_runtime.bulk.leases import Lease
with Lease(OutFolder(Path(sys.argv[1])), "shard-0-of-1"):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def place(tmp_path):
    made = OutFolder(tmp_path / "out")
    made.make()
    return made


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(leases, "BEAT", 0.05)
    monkeypatch.setattr(leases, "PATIENCE", 0.4)


@pytest.fixture
def holder(place):
    process = subprocess.Popen([sys.executable, "-c", HOLDER, str(place.path)], stdout=subprocess.PIPE, text=True)
    with process:
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def elsewhere(place: OutFolder, token: int, beat: int, name: str = "shard-0-of-1") -> None:
    """A lease of a machine that is not this one."""
    content = {"host": "another", "process": 1, "started": "5", "beat": beat}
    partial = place.path / "partial"
    partial.write_text(json.dumps(content))
    partial.replace(place.leases / f"{name}.{token:09d}")


def test_a_second_run_is_told_who_is_at_work(place, holder):
    with (
        pytest.raises(BusyError, match=rf"process {holder.pid} on {here()} is at work there \(shard-0-of-1\)") as caught,
        Lease(place, "shard-0-of-1"),
    ):
        raise AssertionError("two have it")
    assert caught.value.exit_code == 75


def test_the_lease_of_a_process_that_was_killed_is_free_at_once(place, holder):
    holder.kill()
    holder.wait()
    started = time.monotonic()
    with Lease(place, "shard-0-of-1") as lease:
        assert lease.is_mine()
    assert time.monotonic() - started < 2


def test_a_process_that_has_the_number_of_a_dead_one_is_not_taken_for_it(place):
    content = {"host": here(), "process": os.getpid(), "started": "1", "beat": 3}
    (place.leases / "shard-0-of-1.000000004").write_text(json.dumps(content))
    with Lease(place, "shard-0-of-1") as lease:
        assert lease.token == ("shard-0-of-1", 5)


def test_a_lease_that_was_given_back_can_be_had_again_and_leaves_one_file(place):
    for token in range(1, 4):
        with Lease(place, "shard-0-of-1") as lease:
            assert lease.token == ("shard-0-of-1", token)
    assert [path.name for path in place.leases.iterdir()] == ["shard-0-of-1.000000003"]
    assert list(place.scratch.iterdir()) == []


def test_shards_of_one_number_go_side_by_side_and_others_do_not(place):
    def excludes(other: str) -> bool:
        return not other.endswith("-of-2")

    with Lease(place, "shard-0-of-2", excludes), Lease(place, "shard-1-of-2", excludes):
        with pytest.raises(BusyError), Lease(place, "shard-0-of-1", lambda other: not other.endswith("-of-1")):
            raise AssertionError
        with pytest.raises(BusyError), Lease(place, "shard-1-of-2", excludes):
            raise AssertionError


def test_a_holder_on_another_machine_that_counts_is_alive_whatever_its_clock_says(place, quick):
    over = threading.Event()

    def count() -> None:
        beat = 0
        while not over.wait(0.05):
            elsewhere(place, 3, beat := beat + 1)
            os.utime(place.leases / "shard-0-of-1.000000003", (0, 0))

    elsewhere(place, 3, 0)
    counting = threading.Thread(target=count)
    counting.start()
    try:
        said = []
        with pytest.raises(BusyError, match="process 1 on another"), Lease(place, "shard-0-of-1", say=said.append):
            raise AssertionError
        assert said
        assert said[0].startswith("process 1 on another was at work there; waiting")
    finally:
        over.set()
        counting.join()


def test_a_holder_on_another_machine_that_counts_no_more_is_dead_whatever_its_clock_says(place, quick):
    elsewhere(place, 3, 17)
    os.utime(place.leases / "shard-0-of-1.000000003", (4e9, 4e9))
    with Lease(place, "shard-0-of-1", say=lambda _: None) as lease:
        assert lease.token == ("shard-0-of-1", 4)


def test_who_was_not_looked_at_is_not_taken_for_dead(place, quick, monkeypatch):
    """Two wait for the same dead one; the first of them takes the next number and clears the old one away."""
    monkeypatch.setattr(leases, "PATIENCE", 5.0)
    over = threading.Event()

    def other() -> None:
        time.sleep(0.15)
        elsewhere(place, 6, 0)
        (place.leases / "shard-0-of-1.000000005").unlink()
        beat = 0
        while not over.wait(0.05):
            elsewhere(place, 6, beat := beat + 1)

    elsewhere(place, 5, 17)
    first = threading.Thread(target=other)
    first.start()
    try:
        with pytest.raises(BusyError, match="process 1 on another"), Lease(place, "shard-0-of-1", say=lambda _: None):
            raise AssertionError("two have it")
    finally:
        over.set()
        first.join()


def test_a_disk_that_is_away_for_a_moment_says_nothing_of_a_holder(place, holder, monkeypatch):
    read, failures = Path.read_text, [1]

    def away(path: Path, *args: object) -> str:
        if path.parent == place.leases and failures:
            failures.pop()
            raise OSError(errno.ESTALE, "Stale file handle")
        return read(path, *args)

    monkeypatch.setattr(Path, "read_text", away)
    with pytest.raises(BusyError, match=f"process {holder.pid}"), Lease(place, "shard-0-of-1"):
        raise AssertionError("two have it")
    assert not failures


def test_a_holder_counts_on_when_the_disk_is_back(place, quick, monkeypatch):
    def beat() -> int:
        return json.loads((place.leases / "shard-0-of-1.000000001").read_text())["beat"]

    def away(*_: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with Lease(place, "shard-0-of-1"):
        with monkeypatch.context() as patch:
            for name in ("listdir", "scandir"):  # of which Python's versions use one or the other
                patch.setattr(os, name, away)
            time.sleep(0.3)
        before, deadline = beat(), time.monotonic() + 10
        while beat() == before:
            assert time.monotonic() < deadline
            time.sleep(0.05)


def test_a_holder_that_was_taken_for_dead_knows_that_it_lost(place, quick):
    with Lease(place, "shard-0-of-1") as slow:
        assert slow.is_mine()
        elsewhere(place, 2, 0)
        assert not slow.is_mine()
        elsewhere(place, 3, 0)
        (place.leases / "shard-0-of-1.000000002").unlink()  # as the third one does
        assert not slow.is_mine()
        with pytest.raises(BusyError, match="another run took over"):
            slow.check()
    assert json.loads((place.leases / "shard-0-of-1.000000003").read_text())["host"] == "another"


def test_a_run_of_all_tasks_tells_the_shards_of_a_dead_array_that_they_lost(place, quick):
    elsewhere(place, 3, 17, name="shard-1-of-2")
    with Lease(place, "shard-0-of-1", lambda other: other.endswith("-of-2"), say=lambda _: None):
        assert not is_current(place, "shard-1-of-2", 3)


def test_of_many_that_come_at_once_one_gets_it(place):
    got, refused = [], []

    def come() -> None:
        try:
            with Lease(place, "shard-0-of-1") as lease:
                got.append(lease)
                time.sleep(0.5)
        except BusyError:
            refused.append(1)

    together = [threading.Thread(target=come) for _ in range(12)]
    for thread in together:
        thread.start()
    for thread in together:
        thread.join()
    assert (len(got), len(refused)) == (1, 11)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems tell nothing of such processes")
def test_a_killed_holder_for_which_nobody_has_waited_is_dead(place, holder):
    """It is still listed, with its number and its time: as in a container whose first process does not reap."""
    holder.kill()
    while Path(f"/proc/{holder.pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z":
        time.sleep(0.01)
    with Lease(place, "shard-0-of-1") as lease:
        assert lease.is_mine()


def test_all_that_may_be_dead_are_watched_together_and_once(place, quick):
    """An array of jobs after its nodes died: one after the other would take 15 s each, twice."""
    for shard in range(8):
        elsewhere(place, 3, 17, name=f"shard-{shard}-of-8")
    said = []
    with Lease(place, "shard-0-of-2", lambda other: other.endswith("-of-8"), say=said.append) as lease:
        assert lease.is_mine()
    assert [line.count("process 1 on another") for line in said] == [8]


def test_one_of_many_that_counts_is_met_while_the_others_are_watched(place, quick):
    over = threading.Event()

    def count() -> None:
        beat = 17
        while not over.wait(0.05):
            elsewhere(place, 3, beat := beat + 1, name="shard-5-of-8")

    for shard in range(8):
        elsewhere(place, 3, 17, name=f"shard-{shard}-of-8")
    counting = threading.Thread(target=count)
    counting.start()
    try:
        with (
            pytest.raises(BusyError, match="shard-5-of-8"),
            Lease(place, "shard-0-of-2", lambda other: other.endswith("-of-8"), say=lambda _: None),
        ):
            raise AssertionError
    finally:
        over.set()
        counting.join()


def test_without_hard_links_only_one_gets_it_too(place, monkeypatch):
    def refuse(*_: object) -> None:
        raise OSError(errno.EPERM, "no links here")

    monkeypatch.setattr(os, "link", refuse)
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        for number in range(60):
            tokens, start = [], threading.Barrier(4)

            def come(name=f"shard-{number}-of-60", tokens=tokens, start=start) -> None:
                temporary = Lease(place, name)._written()
                start.wait()
                tokens.append(durable.publish(temporary, place.leases / f"{name}.000000001", reserve=True))

            together = [threading.Thread(target=come) for _ in range(4)]
            for thread in together:
                thread.start()
            for thread in together:
                thread.join()
            assert sorted(tokens) == [False] * 3 + [True]
    finally:
        sys.setswitchinterval(before)


def test_one_that_is_broken_off_while_it_waits_does_not_count_on(place, quick, monkeypatch):
    """Else whoever comes later, from another machine, would take it for alive as long as this Python runs."""

    def interrupted(_: OutFolder, name: str) -> int:
        if name == "shard-9-of-9":
            raise KeyboardInterrupt
        return latest(place, name)

    elsewhere(place, 3, -1, name="shard-9-of-9")
    lease = Lease(place, "shard-0-of-1", lambda other: other.endswith("-of-9"), say=lambda _: None)
    real = lease._give_way
    monkeypatch.setattr(lease, "_give_way", lambda names: real([name for name in names if not name.endswith("-of-9")]))
    monkeypatch.setattr(leases, "latest", interrupted)
    with pytest.raises(KeyboardInterrupt), lease:
        raise AssertionError
    assert json.loads((place.leases / "shard-0-of-1.000000001").read_text())["beat"] == -1
