"""``q3 bulk run``: plan once, hand out what is not done, check all of it, say so."""

import os
import sys
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

from tqdm import tqdm

from q3_runtime import loading
from q3_runtime.bulk import finishing, parts
from q3_runtime.bulk.attempts import Attempts
from q3_runtime.bulk.beginning import begun, wanted_fields
from q3_runtime.bulk.finishing import Counts
from q3_runtime.bulk.folder import OutFolder
from q3_runtime.bulk.job import Job
from q3_runtime.bulk.leases import Lease, shard_lease
from q3_runtime.bulk.local import default_workers, run_local
from q3_runtime.bulk.ray_engine import run_ray
from q3_runtime.bulk.sources import find_sources
from q3_runtime.bulk.tasks import Plan
from q3_runtime.bulk.worker import Options, as_raised
from q3_runtime.durable import patiently
from q3_runtime.errors import BusyError, InputError, IntegrityError, UsageError
from q3_runtime.tokenization import SURROGATE

Engine = Callable[[Options, Plan, Sequence[int], int, Callable[[str], None], str | None], Generator[dict[str, Any], None, None]]
ENGINES: dict[str, Engine] = {"local": run_local, "ray": run_ray}
CHUNK_ROWS = 4096
ON_DUPLICATE = ("error", "keep")
REMAKES = 2
"""How often parts that are damaged when all is checked are made again, in one run."""
LOG_SECONDS = 30.0
"""Between two lines of progress in a log."""


@dataclass(frozen=True)
class Outcome:
    """Of one run. ``counts`` is None where tasks are left to other shards; ``rows`` and ``tokens`` are of this run alone."""

    counts: Counts | None
    rows: int
    tokens: int
    tasks_left: int
    skipped: list[tuple[str, str]]

    @property
    def is_whole(self) -> bool:
        """Whether every row of every file got its vector."""
        return self.counts is not None and not self.counts.quarantined and not self.skipped


def run_bulk(
    model: str | PathLike[str],
    inputs: str | PathLike[str] | Sequence[str | PathLike[str]],
    out: str | PathLike[str],
    *,
    quant: str | None = None,
    provider: str = "auto",
    text_column: str = "text",
    id_column: str | None = None,
    prompt_name: str | None = None,
    instruction: str | None = None,
    dim: int | None = None,
    precision: str = "float32",
    max_tokens: int | None = None,
    chunk_rows: int = CHUNK_ROWS,
    on_duplicate: str = "error",
    keep_going: bool = False,
    engine: str = "local",
    address: str | None = None,
    workers: int | None = None,
    threads: int = 1,
    shard_index: int = 0,
    num_shards: int = 1,
    progress: bool = False,
    say: Callable[[str], None] = lambda _: None,
) -> Outcome:
    """Embed every row of some files into Parquet files; what was done by an earlier run of the same job is kept.

    Args:
        model: an exported folder, or ``ORG/NAME`` on the hub.
        inputs: a file, folder or glob, or several: Parquet, JSONL, CSV, a text a line; the last three also as .gz or .zst.
        out: folder of the job, see folder.py.
        quant: see Embedder.
        provider: see Embedder.
        text_column: what is embedded, of all formats but text.
        id_column: what comes out beside the vectors; without one a row's id is its number.
        prompt_name: see Embedder.encode.
        instruction: see Embedder.encode.
        dim: see Embedder.encode.
        precision: see Embedder.encode.
        max_tokens: texts are cut there; None: what the model takes.
        chunk_rows: rows of a part at most; a kill costs what was done of one part a worker.
        on_duplicate: ``error`` refuses an id that stands twice, ``keep`` does not look.
        keep_going: leave out files and row groups that cannot be read; they are named.
        engine: ``local`` or ``ray``.
        address: of a Ray cluster.
        workers: processes, each with a model; None: as many as cores and memory allow.
        threads: of each.
        shard_index: which of the shards this run is, from 0.
        num_shards: into how many the tasks are dealt.
        progress: a bar on standard error.
        say: told what is done besides.

    Raises:
        InputError: E_JOB_MISMATCH where another job is in ``out``; E_INPUT_CHANGED, E_DUPLICATE_ID; see sources and readers.
        BusyError: somebody else is at it. FidelityError: too many vectors are not finite.
        IntegrityError, ModelError, ProviderError, UsageError, OSError: see q3_runtime.errors.
    """
    inputs = [inputs] if isinstance(inputs, str | PathLike) else list(inputs)
    _check_options(engine, on_duplicate, chunk_rows, workers, threads, shard_index, num_shards, address)
    found = loading.find(model, "embedding", quant=quant, provider=provider)
    wanted = wanted_fields(found, prompt_name, instruction, dim, precision, max_tokens)
    wanted |= {"threads": threads, "text_column": text_column, "id_column": id_column, "chunk_rows": chunk_rows}
    folder = OutFolder(Path(os.path.abspath(out)))  # noqa: PTH100  # without ".."
    for name in (text_column, id_column or "", str(folder.path)):
        if SURROGATE.search(name):
            raise InputError(f"{name!a}: a name that is not UTF-8; give another one")
    sources = find_sources([os.fspath(name) for name in inputs], folder.path)
    if not inputs:
        raise InputError("no inputs, expected files, folders or globs")
    folder.make()
    if not sources:
        raise InputError(f"{', '.join(map(str, inputs))}: all of it lies in {out}, which is left out; give another --out")
    folder.discard_scratch()
    with shard_lease(folder, shard_index, num_shards, say) as lease:
        with _bar("planning", sum(source.bytes for source in sources), "B", progress) as bar:
            job, tasks = begun(folder, wanted, sources, on_duplicate, keep_going, say, bar.update)
        if finishing.is_sealed(folder) and not _todo(folder, job, tasks, 0, 1, say):
            say(f"{folder.path}: complete already")
            return Outcome(finishing.read_counts(folder)[0], 0, 0, 0, tasks.skipped)
        folder.success.unlink(missing_ok=True)
        options = Options(str(folder.path), str(found.folder.absolute()), *lease.token, threads, keep_going)
        count = workers or default_workers(found, threads)
        mine = tasks.rows_of(range(shard_index, len(tasks), num_shards))
        rows = tokens = 0
        todo = _todo(folder, job, tasks, shard_index, num_shards, say)
        for _ in range(1 + REMAKES):
            with (
                _bar("embedding", mine, "row", progress, mine - tasks.rows_of(todo)) as bar,
                closing(_answers(ENGINES[engine], options, job.rows, tasks, todo, count, say, address)) as answers,
            ):
                for answer in answers:
                    rows, tokens = rows + answer["rows"], tokens + answer["tokens"]
                    bar.set_postfix_str(f"{tokens / max(1e-9, bar.format_dict['elapsed']):,.0f} tokens/s", refresh=False)
                    bar.update(answer["rows"])
            left = sum(not folder.part(number).exists() for number in range(len(tasks)))
            if left:
                return Outcome(None, rows, tokens, left, tasks.skipped)
            lease.check()
            try:
                counts, todo = _ended(folder, job, tasks, progress, say)
            except BusyError as error:
                say(f"another shard reads all parts now: {error}")
                return Outcome(None, rows, tokens, 0, tasks.skipped)
            if counts is not None:
                return Outcome(counts, rows, tokens, 0, tasks.skipped)
        raise IntegrityError(f"{folder.path}: parts are damaged again as soon as they are made; check the disk")


def _ended(
    folder: OutFolder, job: Job, tasks: Plan, progress: bool, say: Callable[[str], None]
) -> tuple[Counts | None, list[int]]:
    """All is there: read it and say so; or the tasks whose parts are damaged, whoever made them, to be done again."""
    with Lease(folder, "finish", say=say):
        with _bar("checking", job.rows, "row", progress) as bar:
            bad = list(finishing.damaged(folder, job, tasks, bar.update))
        if not bad:
            folder.discard_scratch()
            return finishing.finish(folder, job, tasks), []
        for _, path, why in bad:
            say(f"{why}: set aside as {folder.set_aside(path)}, to be made again")
        return None, [number for number, _, _ in bad]


def _check_options(
    engine: str, on_duplicate: str, chunk_rows: int, workers: int | None, threads: int, shard_index: int, num_shards: int,
    address: str | None,
) -> None:  # fmt: skip
    for name, word, words in (("engine", engine, tuple(ENGINES)), ("on_duplicate", on_duplicate, ON_DUPLICATE)):
        if word not in words:
            raise UsageError(f"{name} is {word!r}, expected {' or '.join(words)}")
    numbers = {
        "chunk_rows": chunk_rows,
        "workers": 1 if workers is None else workers,
        "threads": threads,
        "num_shards": num_shards,
    }
    for name, value in numbers.items():
        if type(value) is not int or value < 1:
            raise UsageError(f"{name} is {value!r}, expected a whole number of at least 1")
    if type(shard_index) is not int or not 0 <= shard_index < num_shards:
        raise UsageError(f"shard_index is {shard_index!r}, expected 0 to {num_shards - 1}, one less than num_shards")
    if address is not None and (engine != "ray" or workers is None):
        raise UsageError("address is of a Ray cluster; take engine 'ray', and say with workers how many actors it shall have")


def _bar(what: str, total: int, unit: str, progress: bool, done: int = 0) -> Any:
    """On standard error, or in a log a line now and then; nothing of what takes no time."""
    form = {"unit": unit, "unit_scale": True, "mininterval": 0.5 if sys.stderr.isatty() else LOG_SECONDS, "delay": 1}
    return tqdm(desc=what, total=total, initial=done, disable=not progress, **form)


def _todo(folder: OutFolder, job: Job, tasks: Plan, shard: int, of: int, say: Callable[[str], None]) -> list[int]:
    """Tasks without a part; what lies in the place of one and says that it is something else is set aside."""
    if shard == 0:
        for path in folder.existing_parts():
            if not (path.stem.isdecimal() and int(path.stem) < len(tasks) and folder.part(int(path.stem)) == path):
                say(f"{path}: not of this job, set aside as {folder.set_aside(path)}")
    todo = []
    for number in range(shard, len(tasks), of):
        path = folder.part(number)
        if path.exists():
            try:
                part, _ = patiently(lambda path=path: parts.read_footer(path))  # type: ignore[misc]
                if part.is_of(finishing.expected(job, tasks.task(number))):
                    continue
                why = f"a part of job {part.job}"
            except IntegrityError as error:
                why = str(error)
            say(f"{path}: {why}; set aside as {folder.set_aside(path)}, to be made again")
        todo.append(number)
    return todo


def _answers(
    engine: Engine, options: Options, rows: int, tasks: Plan, todo: Sequence[int], workers: int, say: Callable[[str], None],
    address: str | None,
) -> Generator[dict[str, Any], None, None]:  # fmt: skip
    """What became of each task; a failure of one ends the run, and what others had begun is not held against them."""
    if not todo:
        return
    counts, folder, own = Counts(rows=rows), OutFolder(Path(options.out)), set(todo)
    try:
        with closing(engine(options, tasks, todo, min(workers, len(todo)), say, address)) as answers:
            for answer in answers:
                if "error" in answer:
                    raise as_raised(**answer["error"])
                counts.non_finite += answer["non_finite"]
                counts.check_finite()
                yield answer
    finally:
        for path in folder.attempts.glob("*/*.json"):
            if int(path.stem) in own:
                Attempts.read(path).forgive()
