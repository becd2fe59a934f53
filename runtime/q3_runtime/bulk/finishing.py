"""All parts, read again → manifest.json, _quarantine/rows.jsonl and, last, _SUCCESS."""

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from q3_runtime import strict_json
from q3_runtime.builds import versions
from q3_runtime.bulk import parts
from q3_runtime.bulk.folder import OutFolder
from q3_runtime.bulk.job import Job
from q3_runtime.bulk.parts import Part
from q3_runtime.bulk.tasks import Plan, Task
from q3_runtime.bulk.worker import NON_FINITE
from q3_runtime.durable import patiently, replace_synced, write_synced
from q3_runtime.errors import FidelityError, IntegrityError
from q3_runtime.hash_memory import sha256

MOST_NON_FINITE = 0.001
"""Share of the rows whose vector may be NaN or infinite; above, it is the model."""
FEW_ROWS = 1000
"""One such row among fewer than these is no share to judge by."""
SHOWN = 5
"""Numbers of damaged parts in an error."""
LIBRARIES = ("q3-onnx", "numpy", "onnxruntime", "pyarrow", "tokenizers")


@dataclass
class Counts:
    """Of rows; every row of the input is embedded or quarantined."""

    rows: int = 0
    embedded: int = 0
    quarantined: int = 0
    non_finite: int = 0

    def check_finite(self) -> None:
        """Refuse a model that gives NaN too often.

        Raises:
            FidelityError: more than MOST_NON_FINITE.
        """
        if self.non_finite > MOST_NON_FINITE * max(FEW_ROWS, self.rows):
            raise FidelityError(
                f"{self.non_finite} of {self.rows} vectors are not finite, expected {MOST_NON_FINITE:.1%} at most; "
                "use another quant of this model (q3 info lists them), q8 or fp32 say, with another --out"
            )


def damaged(
    folder: OutFolder, job: Job, plan: Plan, tick: Callable[[int], Any] = lambda _: None
) -> Iterator[tuple[int, Path, str]]:
    """Parts that are missing or are not what they should be: task, file, reason. Every byte is read; ``tick`` gets rows."""
    for number in range(len(plan)):
        path, task = folder.part(number), plan.task(number)
        if not path.exists():
            yield number, path, "missing"
        else:
            try:
                patiently(lambda path=path, task=task: parts.check(path, job, expected(job, task)))  # type: ignore[misc]
            except IntegrityError as error:
                yield number, path, str(error)
        tick(task.rows)


def expected(job: Job, task: Task) -> Part:
    """What the footer of a task's part must say."""
    return Part(job.id, task.number, task.first_row, task.rows, [])


def opened(folder: OutFolder) -> tuple[Job, Plan]:
    """A job that was begun, to be read.

    Raises:
        IntegrityError: there is no whole one.
    """
    try:
        return Job.read(folder.job), Plan(folder)
    except (OSError, ValueError) as error:
        raise IntegrityError(
            f"{folder.path}: no whole job in it ({error}); q3 bulk run … --out {folder.path} makes one"
        ) from error


def finish(folder: OutFolder, job: Job, plan: Plan) -> Counts:
    """Write what says that all is there, of parts that were checked.

    Raises:
        FidelityError: too many vectors are not finite.
    """
    counts = Counts(rows=job.rows)
    folder.quarantine.parent.mkdir(exist_ok=True)
    names = {"lost": folder.temporary(), "files": folder.temporary(), "manifest": folder.temporary()}
    with names["lost"].open("w", encoding="utf-8") as lost, names["files"].open("w", encoding="utf-8") as files:
        for number in range(len(plan)):
            path = folder.part(number)
            part, _ = parts.read_footer(path)
            for row in part.quarantined:
                lost.write(json.dumps(row._asdict(), ensure_ascii=False) + "\n")
                counts.non_finite += row.reason == NON_FINITE
            counts.quarantined += len(part.quarantined)
            entry = {"bytes": path.stat().st_size, "sha256": sha256(path), "rows": part.rows - len(part.quarantined)}
            files.write(f'{"," if number else ""}\n  "{path.relative_to(folder.path).as_posix()}": {json.dumps(entry)}')
    counts.embedded = counts.rows - counts.quarantined
    counts.check_finite()
    head = {"schema_version": 1, "job_id": job.id, **asdict(counts), "skipped": plan.skipped}
    head |= {"made_with": versions(LIBRARIES), "job": asdict(job)}
    with names["manifest"].open("w", encoding="utf-8") as manifest, names["files"].open(encoding="utf-8") as files:
        manifest.write(json.dumps(head, ensure_ascii=False, indent=1)[:-2] + ',\n "files": {')
        for line in files:  # a million of them are not held in memory
            manifest.write(line)
        manifest.write("\n }\n}\n")
    names["files"].unlink()
    replace_synced(names["lost"], folder.quarantine)
    replace_synced(names["manifest"], folder.manifest)
    temporary = folder.temporary()
    write_synced(temporary, job.id + "\n")
    replace_synced(temporary, folder.success)
    shutil.rmtree(folder.attempts, ignore_errors=True)
    return counts


def read_counts(folder: OutFolder) -> tuple[Counts, dict[str, Any]]:
    """Of a job that is complete: its counts, and all of manifest.json.

    Raises:
        IntegrityError: a manifest that is damaged.
    """
    try:
        content = strict_json.loads(folder.manifest.read_text("utf-8"))
        if not isinstance(content["files"], dict):
            raise TypeError("files")
        return Counts(**{name: int(content[name]) for name in asdict(Counts())}), content
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise IntegrityError(
            f"{folder.manifest}: damaged ({type(error).__name__}: {error}); run q3 bulk run again as before"
        ) from error


def is_sealed(folder: OutFolder) -> bool:
    """Whether all that :func:`finish` writes is there; the parts are not looked at."""
    try:
        return folder.success.exists() and _names_lost_rows(folder, read_counts(folder)[0])
    except IntegrityError:
        return False


def _names_lost_rows(folder: OutFolder, counts: Counts) -> bool:
    try:
        with folder.quarantine.open("rb") as file:
            return sum(1 for _ in file) == counts.quarantined
    except FileNotFoundError:
        return False


def verify(folder: OutFolder, tick: Callable[[int], Any] = lambda _: None) -> Counts:
    """Read all of a job that is complete, and compare every file with the manifest.

    Raises:
        IntegrityError: what is missing, damaged or changed, and that a job is not complete.
    """
    job, plan = opened(folder)
    if wrong := list(damaged(folder, job, plan, tick)):
        numbers = ", ".join(str(number) for number, _, _ in wrong[:SHOWN]) + (", …" if len(wrong) > SHOWN else "")
        raise IntegrityError(
            f"{folder.path}: {len(wrong)} of {len(plan)} parts are missing or damaged ({numbers}), the first: {wrong[0][2]}; "
            f"{'delete _SUCCESS and ' if folder.success.exists() else ''}run q3 bulk run again as before"
        )
    if not folder.success.exists():
        raise IntegrityError(f"{folder.path}: all parts are there but no _SUCCESS; run q3 bulk run again as before")
    counts, content = read_counts(folder)
    files = content["files"]
    own = [folder.part(number).relative_to(folder.path).as_posix() for number in range(len(plan))]
    changed = [name for name in own if files.get(name, {}).get("sha256") != sha256(folder.path / name)]
    if changed or len(files) != len(plan) or content["job_id"] != job.id:
        raise IntegrityError(
            f"{folder.path}: not what manifest.json says, first {(changed or ['the job'])[0]}; delete _SUCCESS and run q3 bulk "
            "run again as before"
        )
    if not _names_lost_rows(folder, counts):
        raise IntegrityError(f"{folder.quarantine}: missing or cut short; run q3 bulk run again as before")
    strange = next((path for path in folder.existing_parts() if path.relative_to(folder.path).as_posix() not in files), None)
    if strange is not None:
        raise IntegrityError(f"{strange}: not of this job, though it lies among its parts; run q3 bulk run again as before")
    return counts
