"""Who runs the tasks makes no difference: one process, two, two shards and Ray write the same files."""

import os
import subprocess
import sys
import threading

import pytest
from tests.support import bulk as files
from tests.support.bulk import bulk, manifest, part_hashes, start

from q3_runtime.bulk.run import run_bulk
from q3_runtime.bulk.worker import Options, options_text

ROWS = 120


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return files.write(tmp_path_factory.mktemp("engines") / "a.jsonl.gz", files.texts(ROWS))


@pytest.fixture(scope="module")
def one_process(mini_folder, source, tmp_path_factory):
    out = tmp_path_factory.mktemp("one") / "out"
    run_bulk(mini_folder, [source], out, quant="fp32", chunk_rows=16, workers=1)
    return out


def command(mini_folder, source, out, *more):
    return ["run", mini_folder, source, "--out", out, "--quant", "fp32", "--chunk-rows", 16, *more]


def test_two_processes_write_the_same_parts(mini_folder, source, one_process, tmp_path):
    bulk(*command(mini_folder, source, tmp_path / "out", "--workers", 2))
    assert part_hashes(tmp_path / "out") == part_hashes(one_process)


def test_two_shards_side_by_side_write_the_same_parts_and_the_last_one_ends_the_job(mini_folder, source, one_process, tmp_path):
    out = tmp_path / "out"
    shards = [
        start(*command(mini_folder, source, out, "--workers", 1, "--num-shards", 2, "--shard-index", index)) for index in (0, 1)
    ]
    said = [shard.communicate()[0] for shard in shards]
    assert [shard.returncode for shard in shards] == [0, 0], said
    assert part_hashes(out) == part_hashes(one_process)
    assert manifest(out)["embedded"] == ROWS


def test_a_shard_alone_says_what_is_left_to_others(mini_folder, source, one_process, tmp_path):
    out = tmp_path / "out"
    said = bulk(*command(mini_folder, source, out, "--workers", 1, "--num-shards", 2, "--shard-index", 1))
    assert said == f"{out}: shard 1 of 2 is done, 4 tasks are left to others\n"
    assert list(part_hashes(out)) == [f"{number:09d}.parquet" for number in range(1, 8, 2)]
    assert not (out / "_SUCCESS").exists()
    bulk(*command(mini_folder, source, out, "--workers", 1))
    assert part_hashes(out) == part_hashes(one_process)


def test_a_second_run_beside_the_first_is_told_so(mini_folder, source, tmp_path):
    out = tmp_path / "out"
    first = start(*command(mini_folder, source, out, "--workers", 1))
    while not (out / "_q3_job.json").exists():
        assert first.poll() is None
    said = bulk(*command(mini_folder, source, out), code=75)
    assert f"process {first.pid} on " in said
    assert first.communicate()[0].endswith(f"{ROWS} embedded + 0 quarantined\n")


def test_ray_writes_the_same_parts_and_no_vector_goes_through_it(mini_folder, source, one_process, tmp_path):
    bulk(*command(mini_folder, source, tmp_path / "out", "--engine", "ray", "--workers", 2))
    assert part_hashes(tmp_path / "out") == part_hashes(one_process)
    assert manifest(tmp_path / "out")["job_id"] == manifest(one_process)["job_id"]


def test_an_actor_of_ray_that_is_killed_costs_nothing_but_time(mini_folder, source, one_process, tmp_path):
    said = bulk(
        *command(mini_folder, source, tmp_path / "out", "--engine", "ray", "--workers", 1),
        failpoint=f"before the name:{tmp_path / 'died'}",
    )
    assert (tmp_path / "died").exists()
    assert f"{ROWS} embedded + 0 quarantined" in said
    assert part_hashes(tmp_path / "out") == part_hashes(one_process)


def test_a_cluster_that_is_not_there_is_named(mini_folder, source, tmp_path):
    arguments = command(mini_folder, source, tmp_path / "out", "--engine", "ray", "--workers", 1, "--address", "127.0.0.1:1")
    said = bulk(*arguments, code=7)
    assert "Ray cannot be reached at 127.0.0.1:1" in said.splitlines()[-1]


def test_without_ray_one_line_says_what_to_type(mini_folder, source, tmp_path):
    arguments = ["bulk", *map(str, command(mini_folder, source, tmp_path / "out", "--engine", "ray"))]
    code = f"import sys; sys.modules['ray'] = None; from q3_runtime.cli import main; sys.exit(main({arguments!r}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 2
    assert "ray is not installed; type: pip install 'q3-onnx[bulk,ray]'" in done.stderr.splitlines()[-1]


def test_memory_does_not_grow_with_the_input(mini_folder, tmp_path):
    """B28, in small: ten times the rows, the same memory of the run; of the worker hardly more."""
    from tests.support.memory import run_and_watch

    peaks = []
    for count in (2_000, 20_000):
        source = files.write(tmp_path / f"{count}.txt", [f"row {row}" for row in range(count)])
        arguments = [
            "run",
            mini_folder,
            source,
            "--out",
            tmp_path / f"out{count}",
            "--quant",
            "int8",
            "--chunk-rows",
            500,
            "--workers",
            1,
        ]
        peak = run_and_watch(files.command(*arguments))
        assert peak.returncode == 0, peak.output
        peaks.append(peak)
    assert peaks[1].parent - peaks[0].parent < 20e6
    assert peaks[1].children - peaks[0].children < 40e6


def test_a_worker_does_not_print_into_its_answers(mini_folder, source, tmp_path):
    """What a library writes to standard output must not be taken for an answer."""
    reader, writer = os.pipe()
    seen = []
    listening = threading.Thread(target=lambda: seen.append(os.read(reader, 100)))
    listening.start()
    out = tmp_path / "out"
    options = options_text(Options(str(out), str(mini_folder), "x", 1, 1, keep_going=False))
    run_bulk(mini_folder, [source], out, quant="fp32", chunk_rows=16, workers=1)
    code = "import os, runpy, sys; from q3_runtime.embedder import Embedder; real = Embedder.__init__\n"
    code += "def loud(*a, **k): os.write(1, b'loud\\n'); real(*a, **k)\nEmbedder.__init__ = loud\n"
    code += "runpy.run_module('q3_runtime.bulk.worker', run_name='__main__')"
    streams = {"stdin": subprocess.DEVNULL, "stdout": writer, "stderr": subprocess.DEVNULL}
    subprocess.run([sys.executable, "-c", code, options], check=True, **streams)
    os.close(writer)
    listening.join()
    assert seen == [b'{"ready": true}\n']
