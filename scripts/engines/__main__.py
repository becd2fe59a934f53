"""Makes one engine's files, runs them, or embeds with them, in the environment that the engine has; prints JSON.

python scripts/engines make|measure|embed ENGINE VARIANT CHECKPOINT FOLDER JOB.json
"""

import gc
import importlib
import json
import re
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from types import ModuleType

sys.path.insert(0, str(Path(__file__).parent))
WARM, TIMED = 2, 30
"""Runs of one query that warm up and that count. Of other shapes one warms up."""
MOST_TIMED, ENOUGH = 5, 10.0
"""Runs of another shape that count, at most, and seconds after which no more begins."""


def main() -> int:
    """What is asked for, in a process of its own."""
    verb, name, variant, checkpoint, folder, job_file = sys.argv[1:]
    engine = importlib.import_module(name)
    job = json.loads(Path(job_file).read_text("utf-8"))
    if verb == "make":
        Path(folder).mkdir(parents=True, exist_ok=True)
        engine.make(Path(checkpoint), variant, Path(folder), job["calibration"])
        print(json.dumps(None))
        return 0
    load = lambda: ready_for_text(engine, Path(checkpoint), variant, Path(folder), job["threads"])  # noqa: E731
    batches = lambda what: getattr(engine, "batches", None) or partial(sorted_rows, most=job["batch_rows"][what])  # noqa: E731
    if verb == "embed":
        print(json.dumps(embedded(load(), batches("texts"), job["texts"])))
    else:
        disk = getattr(engine, "disk", size)(Path(checkpoint), variant, Path(folder))
        print(json.dumps(measured(load, batches, job) | {"disk": disk}))
    return 0


def ready_for_text(engine: ModuleType, checkpoint: Path, variant: str, folder: Path, threads: int) -> Callable:
    """What runs, and in memory with it the tokenizer, where the engine does not load one by itself."""
    run = engine.load(checkpoint, variant, folder, threads)
    if getattr(engine, "LOADS_TOKENIZER", False):
        return run
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(checkpoint / "tokenizer.json"))
    return lambda rows, tokenizer=tokenizer: run(rows)  # noqa: ARG005


def measured(load: Callable[[], Callable], batches: Callable[[str], Callable], job: dict) -> dict:
    """Seconds of everything, each list the repetitions of one run; the peak of resident memory in bytes after 8 x 128."""
    load()  # from a cold disk, and for what is remembered from the first time
    gc.collect()
    started = time.perf_counter()
    run = load()
    found: dict = {"load": time.perf_counter() - started, "shapes": {}, "mixes": {}}
    run(job["shapes"][job["query"]])
    found["first"] = time.perf_counter() - started
    for name, rows in job["shapes"].items():
        warm, timed = (WARM, TIMED) if name == job["query"] else (1, MOST_TIMED)
        found["shapes"][name] = seconds(lambda: run(rows), warm, timed)  # noqa: B023  # run in this turn
        if name == "8x128":
            found["memory"] = int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1]) * 1024
    for name, rows in job["mixes"].items():
        found["mixes"][name] = seconds(lambda: embedded(run, batches(name), rows), 0, 1)  # noqa: B023
    return found


def size(checkpoint: Path, variant: str, folder: Path) -> int:  # noqa: ARG001
    """Bytes of what the engine made, or where it made nothing of the checkpoint."""
    made = [path.stat().st_size for path in folder.rglob("*") if path.is_file()]
    return sum(made) or sum(path.stat().st_size for path in checkpoint.rglob("*") if path.is_file())


def embedded(run: Callable, batches: Callable, rows: Sequence[list[int]]) -> list[list[float]]:
    """Unit vectors of texts that are token ids, in their order."""
    vectors: list = [None] * len(rows)
    for places in batches([len(row) for row in rows]):
        for place, vector in zip(places, run([rows[place] for place in places]), strict=True):
            vectors[place] = vector.tolist()
    return vectors


def sorted_rows(lengths: Sequence[int], most: int) -> Iterator[list[int]]:
    """Places of the rows of each batch, the longest first."""
    order = sorted(range(len(lengths)), key=lambda place: -lengths[place])
    for start in range(0, len(order), most):
        yield order[start : start + most]


def seconds(work: Callable[[], object], warm: int, timed: int) -> list[float]:
    """Of each run that counts: ``timed``, or as many as begin in time."""
    for _ in range(warm):
        work()
    found: list[float] = []
    while len(found) < timed and sum(found) < ENOUGH:
        started = time.perf_counter()
        work()
        found.append(time.perf_counter() - started)
    return found


if __name__ == "__main__":
    sys.exit(main())
