"""A job: begun now, or the one that was begun there and is what is asked for now."""

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

from q3_runtime import prompts
from q3_runtime.bulk import parts
from q3_runtime.bulk.folder import OutFolder
from q3_runtime.bulk.job import Job
from q3_runtime.bulk.leases import Lease
from q3_runtime.bulk.planning import plan
from q3_runtime.bulk.records import Columns
from q3_runtime.bulk.sources import Source
from q3_runtime.bulk.tasks import Plan
from q3_runtime.durable import publish, write_synced
from q3_runtime.errors import BusyError, InputError, IntegrityError
from q3_runtime.loading import Found
from q3_runtime.precisions import chosen
from q3_runtime.tokenization import Tokenizer, checked
from q3_runtime.vectors import checked_dim
from q3_runtime.whole_numbers import whole

WAIT = 2.0
"""Seconds between two looks whether another run has planned."""


def wanted_fields(
    found: Found, prompt_name: str | None, instruction: str | None, dim: int | None, precision: str, max_tokens: int | None
) -> dict[str, Any]:
    """Fields of the job that follow from the model and how it is asked."""
    manifest = found.manifest
    most = manifest.max_tokens
    limit = most if max_tokens is None else whole(max_tokens, 2, most)
    if limit is None:
        raise InputError(f"max_tokens is {max_tokens!r}, expected 2 to {most}")
    dim = checked_dim(dim, manifest.dims)
    needs_ranges = chosen(precision, dim).needs_ranges
    if needs_ranges and not manifest.output_ranges:
        raise InputError(f"{found.folder}: no output_ranges in it, which {precision} needs; export again, or take float16")
    source = manifest.source["id"] or ""
    fingerprint = manifest.fingerprint(found.quant, with_ranges=needs_ranges)
    prompt = checked(prompts.resolve(manifest.prompts, prompt_name, None, instruction), None, "strict")
    if limit < most and prompt:
        taken = len(Tokenizer(found.folder / "tokenizer.json", most).encode([prompt])[0].ids)
        if taken >= limit:
            raise InputError(
                f"max_tokens is {limit}, of which the prompt takes {taken}, expected more, so that texts have some"
            )
    return {
        "model": {"source": source, "quant": found.quant, "provider": found.provider, "sha256": fingerprint},
        "prompt": prompt,
        "dim": dim,
        "precision": precision,
        "max_tokens": limit,
    }


def begun(
    folder: OutFolder, wanted: dict[str, Any], sources: Sequence[Source], on_duplicate: str, keep_going: bool,
    say: Callable[[str], None], tick: Callable[[int], object],
) -> tuple[Job, Plan]:  # fmt: skip
    """The job, as it was begun, or planned now; whoever comes while another run plans waits for it."""
    job = _read_job(folder, say)
    while job is None:
        try:
            with Lease(folder, "plan", say=say) as lease:
                job = _read_job(folder, say)
                if job is None:
                    planned = _new_job(folder, wanted, sources, on_duplicate, keep_going, say, tick)
                    lease.check()
                    temporary = folder.temporary()
                    write_synced(temporary, planned.to_json())
                    job = planned if publish(temporary, folder.job) else _read_job(folder, say)
        except BusyError as error:
            say(f"waiting for the plan: {error}")
            time.sleep(WAIT)
            job = _read_job(folder, say)
    job.check(wanted, folder.path)
    try:
        tasks = Plan(folder)
    except (FileNotFoundError, ValueError) as error:
        say(f"{folder.path}: {error}; planned anew, the job set aside as {folder.set_aside(folder.job)}")
        return begun(folder, wanted, sources, on_duplicate, keep_going, say, tick)
    _check_inputs(folder, tasks, sources)
    return job, tasks


def _read_job(folder: OutFolder, say: Callable[[str], None]) -> Job | None:
    try:
        return Job.read(folder.job)
    except FileNotFoundError:
        return None
    except InputError:  # newer than we are, which is a ValueError too
        raise
    except ValueError as error:
        say(f"{folder.job}: damaged ({error}), set aside as {folder.set_aside(folder.job)}; planned anew")
        return None


def _new_job(
    folder: OutFolder, wanted: dict[str, Any], sources: Sequence[Source], on_duplicate: str, keep_going: bool,
    say: Callable[[str], None], tick: Callable[[int], object],
) -> Job:  # fmt: skip
    columns = Columns(wanted["text_column"], wanted["id_column"])
    planned = plan(
        folder, sources, columns, wanted["chunk_rows"], unique_ids=on_duplicate == "error", keep_going=keep_going, tick=tick
    )
    job = Job(**wanted, rows=planned.rows, id_type=planned.id_type, inputs_sha256=planned.inputs_sha256)
    for path in folder.existing_parts():  # a job file was lost, or damaged: what it said is in every part
        try:
            _, before = parts.read_footer(path)
        except IntegrityError:
            continue
        before.check(asdict(job), folder.path)
        break
    for name, why in planned.skipped:
        say(f"left out: {name}: {why}")
    return job


def _check_inputs(folder: OutFolder, tasks: Plan, sources: Sequence[Source]) -> None:
    """Refuse other files than those that the job was planned with.

    Raises:
        InputError: E_JOB_MISMATCH, or E_INPUT_CHANGED.
    """
    left_out = {path for path, _ in tasks.skipped}
    now = {source.path: None for source in sources if source.path not in left_out}
    before = {source.path: None for source in tasks.sources()}
    new, gone = [path for path in now if path not in before], [path for path in before if path not in now]
    if new or gone or list(now) != list(before):
        what = f"{len(new)} new, {len(gone)} gone, the first {(new + gone)[0]}" if new or gone else "the same in another order"
        raise InputError(
            f"{folder.path}: the input files differ from those the job was begun with: {what}; "
            "run it as it was begun, or give another --out",
            fault="E_JOB_MISMATCH",
        )
    for source in tasks.sources():
        source.check_unchanged()
