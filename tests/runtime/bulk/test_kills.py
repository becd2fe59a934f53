"""Whatever is killed, at any moment: the same command goes on, and every part has the bytes of a run that nobody disturbed.

B1–B3, B15–B17, B19, B21, B22, B25.
"""

import errno
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.support import bulk as files
from tests.support.bulk import bulk, lost, manifest, part_hashes, start
from tests.support.memory import descendants

from q3_runtime.bulk.run import run_bulk
from q3_runtime.durable import RETRIES, patiently

ROWS, CHUNK = 600, 12


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return files.write(tmp_path_factory.mktemp("kills") / "a.jsonl", files.texts(ROWS), key=[f"k{row}" for row in range(ROWS)])


@pytest.fixture(scope="module")
def undisturbed(folder, source, tmp_path_factory):
    """The parts of a run that nobody disturbed, and how long it took."""
    out = tmp_path_factory.mktemp("undisturbed") / "out"
    started = time.monotonic()
    bulk(*arguments(folder, source, out))
    return part_hashes(out), time.monotonic() - started


def arguments(folder: Path, source: Path, out: Path) -> list[object]:
    return ["run", folder, source, "--out", out, "--id-column", "key", "--chunk-rows", CHUNK]


def complete(out: Path) -> bool:
    """All rows, and nothing else that counts."""
    found = manifest(out)
    return (found["rows"], found["embedded"], found["quarantined"]) == (ROWS, ROWS, 0) and lost(out) == []


def wait_for_parts(out: Path, count: int, process: "subprocess.Popen[str]") -> None:
    deadline = time.monotonic() + 60
    while len(list((out / "parts").rglob("*.parquet"))) < count:
        assert time.monotonic() < deadline
        assert process.poll() is None, process.stdout.read()
        time.sleep(0.01)


def wait_until_gone(pids: list[int]) -> None:
    """One that nobody has waited for yet is gone too: its command line is empty."""
    deadline = time.monotonic() + 20
    while left := [pid for pid in pids if command_line(pid)]:
        assert time.monotonic() < deadline, [command_line(pid) for pid in left]
        time.sleep(0.05)


def command_line(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def test_killed_at_random_moments_the_run_or_one_of_its_workers_nothing_is_lost_or_doubled(
    folder, source, undisturbed, tmp_path
):
    hashes, seconds = undisturbed
    kill_at_random(arguments(folder, source, tmp_path / "out"), tmp_path / "out", hashes, seconds, 5, random.Random(11))
    bulk(*arguments(folder, source, tmp_path / "out"))
    assert part_hashes(tmp_path / "out") == hashes
    assert complete(tmp_path / "out")
    bulk("verify", tmp_path / "out")


def kill_at_random(
    command: list[object], out: Path, hashes: dict[str, str], seconds: float, kills: int, moment: random.Random
) -> list[int]:
    """Runs that are each killed once, in turns the run itself or one of its workers, until that many were.

    A job that comes to its end meanwhile must have the parts of an undisturbed one, and is begun anew.

    Returns:
        How many parts were there after each kill of a run.
    """
    left, done = [], 0
    while done < kills:
        process = start(*command)
        deadline = time.monotonic() + moment.uniform(0, seconds)
        while time.monotonic() < deadline and process.poll() is None:
            time.sleep(0.01)
        if process.poll() is None:
            workers = [pid for pid in descendants(process.pid) if is_worker(pid)]
            victim = process.pid if done % 2 or not workers else moment.choice(workers)
            os.kill(victim, signal.SIGKILL)
            done += 1
            if victim == process.pid:
                process.wait()
                process.stdout.close()
                left.append(len(part_hashes(out)))
                continue
        said = process.communicate()[0]
        assert process.returncode == 0 or "while it loaded the model" in said, said
        if process.returncode == 0:
            assert part_hashes(out) == hashes
            shutil.rmtree(out)
    return left


def is_worker(pid: int) -> bool:
    """A process that computes, of either engine; Ray has others besides, with which its node dies."""
    line = command_line(pid)
    return b"q3_runtime.bulk.worker" in line or line.startswith(b"ray::MapWorker")


@pytest.mark.parametrize("place", ["writing", "before the name", "after the name", "before the end"])
def test_a_worker_that_dies_at_a_commit_leaves_no_half_part(place, folder, source, undisturbed, tmp_path):
    """B2, B3: half a file never has a part's name, and a part that has its name is kept."""
    out = tmp_path / "out"
    said = bulk(*arguments(folder, source, out), failpoint=f"{place}:{tmp_path / 'died'}")
    assert (tmp_path / "died").exists()
    assert said.endswith(f"{ROWS} rows = {ROWS} embedded + 0 quarantined\n")
    assert part_hashes(out) == undisturbed[0]
    assert not list((out / "_tmp").glob("*"))
    assert not (out / "_attempts").exists()


def test_a_run_that_dies_while_it_plans_is_begun_anew(folder, source, undisturbed, tmp_path):
    out = tmp_path / "out"
    bulk(*arguments(folder, source, out), failpoint=f"planning:{tmp_path / 'died'}", code=-signal.SIGKILL)
    assert list((out / "_tmp").iterdir())
    bulk(*arguments(folder, source, out))
    assert part_hashes(out) == undisturbed[0]
    assert not list((out / "_tmp").iterdir())


@pytest.mark.parametrize("place", ["before the manifest", "before success"])
def test_a_run_that_dies_at_the_end_is_not_complete_until_the_next(place, folder, source, undisturbed, tmp_path):
    out = tmp_path / "out"
    bulk(*arguments(folder, source, out), failpoint=f"{place}:{tmp_path / 'died'}", code=-signal.SIGKILL)
    assert not (out / "_SUCCESS").exists()
    assert "no _SUCCESS" in bulk("verify", out, code=6)
    bulk(*arguments(folder, source, out))
    assert part_hashes(out) == undisturbed[0]
    assert complete(out)


def test_a_disk_that_is_full_at_the_very_end_leaves_a_job_that_is_not_complete(folder, source, undisturbed, tmp_path):
    """B25."""
    out = tmp_path / "out"
    said = bulk(*arguments(folder, source, out), failpoint="no room for success:", code=5)
    assert "No space left on device" in said.splitlines()[-1]
    assert not (out / "_SUCCESS").exists()
    bulk(*arguments(folder, source, out))
    assert complete(out)


def test_workers_end_soon_after_their_run_was_killed(folder, source, tmp_path):
    """B21."""
    process = start(*arguments(folder, source, tmp_path / "out"))
    wait_for_parts(tmp_path / "out", 2, process)
    workers = descendants(process.pid)
    process.kill()
    process.communicate()
    assert workers
    wait_until_gone(workers)


STOPS = [(number, "local") for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)] + [(signal.SIGTERM, "ray")]


@pytest.mark.parametrize(("number", "engine"), STOPS)
def test_a_run_that_is_told_to_stop_does_so_soon_and_says_how_to_go_on(number, engine, folder, source, undisturbed, tmp_path):
    """B22."""
    out = tmp_path / "out"
    process = start(*arguments(folder, source, out), "--engine", engine, "--workers", 1)
    wait_for_parts(out, 2, process)
    workers = descendants(process.pid)
    started = time.monotonic()
    process.send_signal(number)
    said = process.communicate()[0]
    assert time.monotonic() - started < 20
    assert process.returncode == 75, said
    assert said.endswith(f"q3: error: {out}: stopped; what is done is kept, the same command goes on\n")
    wait_until_gone(workers)  # Ray's own services end a moment after their run
    assert not list((out / "_attempts").rglob("*.json"))
    bulk(*arguments(folder, source, out))
    assert part_hashes(out) == undisturbed[0]


class TestPoison:
    """B17."""

    @pytest.mark.parametrize("engine", ["local", "ray"])
    def test_a_row_that_kills_whoever_computes_it_is_found_and_the_rest_is_embedded(self, engine, folder, tmp_path):
        texts = files.texts(40)
        texts[21] += " DEADLY"
        source = files.write(tmp_path / "a.txt", texts)
        command = ["run", folder, source, "--out", tmp_path / "out", "--chunk-rows", 8, "--engine", engine, "--workers", 1]
        said = bulk(*command, failpoint="poison:DEADLY", code=8)
        assert "40 rows = 39 embedded + 1 quarantined" in said
        assert [(row["row"], row["reason"]) for row in lost(tmp_path / "out")] == [(21, "kills the process that computes it")]

        texts[21] = None
        clean = files.write(tmp_path / "b.jsonl", texts)
        run_bulk(folder, [clean], tmp_path / "clean", chunk_rows=8, workers=1)
        assert (
            files.array(files.vectors(tmp_path / "out")).tobytes() == files.array(files.vectors(tmp_path / "clean")).tobytes()
        )

    def test_a_model_that_kills_its_process_while_it_loads_is_no_endless_loop(self, folder, source, tmp_path):
        said = bulk(*arguments(folder, source, tmp_path / "out"), failpoint="poison:", code=7)
        assert "a worker ended while it loaded the model: signal 9" in said


class TestDisks:
    FULL = """
mount -t tmpfs -o size=3m tmpfs "$1" && head -c 2800k /dev/zero > "$1/filler" || exit 99
disk=$1; shift
"$@" > "$disk.said" 2>&1; echo $? > "$disk.code"
find "$disk/out" -name "*.parquet" -path "*parts*" -exec sha256sum {} + > "$disk.parts"; ls "$disk/out/_tmp" > "$disk.left"
rm "$disk/filler"
"$@" > "$disk.said2" 2>&1; echo $? > "$disk.code2"
find "$disk/out" -name "*.parquet" -path "*parts*" -exec sha256sum {} + > "$disk.parts2"
"""

    def test_one_that_is_full_ends_the_run_with_5_and_what_was_committed_stays(self, folder, source, undisturbed, tmp_path):
        """B15."""
        disk = tmp_path / "disk"
        disk.mkdir()
        command = files.command(*arguments(folder, source, disk / "out"))
        done = subprocess.run(
            ["unshare", "--mount", "--map-root-user", "sh", "-c", self.FULL, "sh", str(disk), *command],
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr

        def read(suffix: str) -> str:
            return Path(f"{disk}.{suffix}").read_text()

        def parts(suffix: str) -> dict[str, str]:
            return {Path(line.split()[1]).name: line.split()[0] for line in read(suffix).splitlines()}

        assert read("code") == "5\n", read("said")
        assert "No space left on device; check the path" in read("said").splitlines()[-1]
        first, second = parts("parts"), parts("parts2")
        assert 0 < len(first) < len(second)
        assert read("code2") == "0\n", read("said2")
        assert second == undisturbed[0]
        assert first.items() <= second.items()
        assert read("left") == ""

    def test_one_that_is_away_for_a_moment_is_asked_again(self, folder, source, undisturbed, tmp_path):
        """B16: the first two commits of a worker fail with ESTALE."""
        bulk(*arguments(folder, source, tmp_path / "out"), failpoint=f"stale:{tmp_path / 'count'}")
        assert int((tmp_path / "count").read_text()) > 2
        assert part_hashes(tmp_path / "out") == undisturbed[0]

    def test_patience_has_an_end_and_is_for_what_may_pass_alone(self):
        calls, pauses = [], []

        def fail(number: int) -> None:
            calls.append(number)
            raise OSError(number, os.strerror(number))

        for number, expected in ((errno.EIO, 1 + RETRIES), (errno.ESTALE, 1 + RETRIES), (errno.ENOSPC, 1), (errno.EACCES, 1)):
            calls.clear()
            with pytest.raises(OSError, match=os.strerror(number)):
                patiently(lambda number=number: fail(number), pauses.append)
            assert len(calls) == expected
        assert pauses == [0.5, 1, 2, 4, 8] * 2


def test_a_worker_that_was_taken_for_dead_commits_nothing(folder, source, tmp_path):
    """B19."""
    out = tmp_path / "out"
    code = f"""
import sys
from q3_runtime.bulk.leases import Lease
real = Lease.__enter__
def lose(self):
    real(self)
    if "shard" in self._name:
        successor = self._path(self._name, self._token + 1)
        successor.write_text('{{"host": "another", "process": 1, "started": "", "beat": 1}}')
    return self
Lease.__enter__ = lose
from q3_runtime.cli import main
sys.exit(main({["bulk", *map(str, arguments(folder, source, out))]!r}))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 75, done.stderr
    assert "another run took over; this one stops" in done.stderr
    assert part_hashes(out) == {}
