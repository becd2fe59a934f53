"""The long proofs of q3 bulk: scripts/test --full bulk."""

import json
import random
import re
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from tests.conftest import ROOT
from tests.runtime.bulk.test_kills import kill_at_random
from tests.support import bulk as files
from tests.support.bench_material import news
from tests.support.bulk import bulk, manifest, part_hashes
from tests.support.memory import descendants

from q3_runtime import Embedder
from q3_runtime.bulk import parts
from q3_runtime.bulk.beginning import begun, wanted_fields
from q3_runtime.bulk.folder import OutFolder
from q3_runtime.bulk.run import run_bulk
from q3_runtime.bulk.sources import find_sources
from q3_runtime.loading import find
from q3_runtime.memory import resident

pytestmark = pytest.mark.full("bulk")
KILLS = {"local": 40, "ray": 10}
ROWS = 300_000
LEAST_SHARE = 0.85
"""Of the tokens per second of q3 bench."""
MOST_GROWTH = 50e6
"""Bytes, of the median over all processes, from the second tenth of the run to its last."""
TASKS = 100_000
PLOT = ROOT / "docs/bulk/memory.svg"


@pytest.mark.parametrize("engine", KILLS)
def test_after_fifty_kills_nothing_is_lost_or_doubled_and_every_byte_is_the_same(engine, mini_folder, tmp_path):
    """The run, its workers and Ray's actors, at random moments."""
    count = 2400
    source = files.write(tmp_path / "a.jsonl.zst", files.texts(count), key=range(count))
    command = ["run", mini_folder, source, "--id-column", "key", "--quant", "fp32", "--chunk-rows", 40, "--workers", 2]
    started = time.monotonic()
    bulk(*command, "--engine", engine, "--out", tmp_path / "undisturbed")
    seconds = time.monotonic() - started
    out, hashes = tmp_path / "out", part_hashes(tmp_path / "undisturbed")
    left = kill_at_random(
        [*command, "--engine", engine, "--out", out], out, hashes, seconds, KILLS[engine], random.Random(engine)
    )
    print(
        f"\n{engine}: {KILLS[engine]} kills, {seconds:.0f} s undisturbed; parts after kills of the run: {left} of {len(hashes)}"
    )
    bulk(*command, "--engine", engine, "--out", out)
    assert part_hashes(out) == hashes
    assert [manifest(out)[name] for name in ("rows", "embedded", "quarantined")] == [count, count, 0]
    bulk("verify", out)


def test_killed_again_and_again_without_a_part_in_between_it_comes_to_an_end(mini_folder, tmp_path):
    """Runs that live for a moment each count attempts; a task that is taken apart for it is whole again in the end."""
    source = files.write(tmp_path / "a.txt", files.texts(400))
    command = ["run", mini_folder, source, "--quant", "fp32", "--chunk-rows", 200, "--workers", 1]
    bulk(*command, "--out", tmp_path / "undisturbed")
    moment = random.Random(3)
    for _ in range(10):
        process = files.start(*command, "--out", tmp_path / "out")
        time.sleep(moment.uniform(1.0, 2.0))
        for pid in [*descendants(process.pid), process.pid]:
            subprocess.run(["kill", "-9", str(pid)], check=False, capture_output=True)
        process.communicate()
        (tmp_path / "out/_SUCCESS").unlink(missing_ok=True)
    bulk(*command, "--out", tmp_path / "out")
    assert part_hashes(tmp_path / "out") == part_hashes(tmp_path / "undisturbed")


def test_300_000_short_texts_in_one_go_in_flat_memory_at_the_rate_of_q3_bench(mini_folder, shared_text, tmp_path):
    lines = [line.strip()[:80] for line in news()]
    source = files.write(tmp_path / "a.parquet", [f"{row} {lines[row % len(lines)]}" for row in range(ROWS)])
    mix = files.write(tmp_path / "mix.txt", [f"{row} {line}" for row, line in enumerate(lines[:4096])])
    done = subprocess.run(
        [sys.executable, "-m", "q3_runtime.cli", "bench", str(mini_folder), "--quant", "int8", "--file", str(mix), "--json"],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    bench = json.loads(done.stdout)["tokens_per_second"]["mix"]

    process = files.start("run", mini_folder, source, "--out", tmp_path / "out", "--quant", "int8", "--json")
    said: list[str] = []
    reader = threading.Thread(target=lambda: said.append(process.stdout.read()))
    reader.start()
    started, samples = time.monotonic(), []
    while process.poll() is None:
        tree = [resident(pid) for pid in (process.pid, *descendants(process.pid))]
        samples.append((time.monotonic() - started, sum(tree), tree[0]))
        time.sleep(0.5)
    seconds = time.monotonic() - started
    reader.join()
    process.stdout.close()
    assert process.returncode == 0, said
    found = json.loads(said[0])
    assert found["counts"]["embedded"] == ROWS
    moments, memory, own = np.array(samples).T
    tenths = [memory[(moments >= at * seconds / 10) & (moments < (at + 1) * seconds / 10)] for at in range(10)]
    growth = float(np.median(tenths[-1]) - np.median(tenths[1]))
    rate = found["tokens"] / seconds
    _plot(moments, memory / 1e6, own / 1e6)
    print(
        f"\n{ROWS:,} rows, {found['tokens']:,} tokens in {seconds:.0f} s with start and final check: {rate:,.0f} tokens/s, "
        f"{rate / bench:.2f} of q3 bench's {bench:,.0f}; {memory.max() / 1e6:.0f} MB at most, "
        f"{growth / 1e6:+.0f} MB from the second tenth to the last; the run itself {own.max() / 1e6:.0f} MB"
    )
    assert growth < MOST_GROWTH
    assert rate >= LEAST_SHARE * bench


def _plot(moments: np.ndarray, memory: np.ndarray, own: np.ndarray) -> None:
    import matplotlib as mpl
    from matplotlib.figure import Figure

    mpl.rcParams["svg.hashsalt"] = "q3"
    figure = Figure(figsize=(7, 3), layout="constrained")
    axes = figure.subplots()
    axes.plot(moments, memory, label="all processes")
    axes.plot(moments, own, label="the run itself")
    axes.set(
        xlabel="seconds", ylabel="MB, RssAnon + RssShmem", ylim=(0, None), title=f"{ROWS:,} short texts, mini int8, 2 cores"
    )
    axes.legend()
    PLOT.parent.mkdir(exist_ok=True)
    figure.savefig(PLOT, metadata={"Date": None})


def test_a_plan_of_a_hundred_thousand_tasks_is_made_listed_and_checked_in_flat_memory(mini_folder, tmp_path):
    """A stub in the place of the model: every task is committed with vectors that are made up (B27)."""
    source = files.write(tmp_path / "a.txt", [str(row) for row in range(TASKS)])
    with Embedder(mini_folder, quant="int8") as model:
        width = model.dims
    folder = OutFolder(tmp_path / "out")
    folder.make()
    wanted = wanted_fields(find(mini_folder, "embedding", quant="int8"), None, None, 32, "int8", None)
    wanted |= {"threads": 1, "text_column": "text", "id_column": None, "chunk_rows": 1}
    before, started = resident(), time.monotonic()
    job, plan = begun(
        folder,
        wanted,
        find_sources([str(source)], folder.path),
        "error",
        keep_going=False,
        say=lambda _: None,
        tick=lambda _: None,
    )
    planned, grown = time.monotonic() - started, resident() - before
    assert (len(plan), width >= 32) == (TASKS, True)

    started = time.monotonic()
    vector = np.ones((1, 32), dtype=np.int8)
    for number in range(TASKS):
        task = plan.task(number)
        part = parts.Part(job.id, number, task.first_row, 1, [])
        row = np.array([task.first_row])
        columns = parts.Columns([task.first_row], vector, np.array([2], np.int32), np.array([False]), row)
        parts.commit(folder, job, part, columns)
    committed = time.monotonic() - started

    started = time.monotonic()
    said: list[str] = []
    outcome = run_bulk(
        mini_folder, [source], folder.path, quant="int8", dim=32, precision="int8", chunk_rows=1, workers=1, say=said.append
    )
    finished = time.monotonic() - started
    assert (outcome.rows, outcome.counts.embedded) == (0, TASKS)
    print(
        f"\n{TASKS:,} tasks: planned in {planned:.1f} s with {grown / 1e6:.0f} MB, {committed / TASKS * 1e3:.2f} ms a commit, "
        f"listed, read again and finished in {finished:.0f} s, {(resident() - before) / 1e6:.0f} MB"
    )
    assert grown < 100e6
    assert resident() - before < 200e6
    assert not re.search("set aside", " ".join(said))


def test_the_same_command_as_in_the_page_works_on_a_folder_of_many_small_files(mini_folder, tmp_path):
    """B27: ten thousand files of three rows."""
    corpus = tmp_path / "corpus"
    for number in range(10_000):
        path = corpus / f"{number // 1000}/{number:05d}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_text("".join(json.dumps({"text": f"{number} {row}"}) + "\n" for row in range(3)), "utf-8")
    said = bulk("run", mini_folder, corpus, "--out", tmp_path / "out", "--quant", "int8")
    assert "30,000 rows = 30,000 embedded" in said
