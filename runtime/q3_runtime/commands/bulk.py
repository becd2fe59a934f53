"""Embed big files, resumable to the row; check and compact what came out."""

import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from q3_runtime.builds import with_extras
from q3_runtime.command_line import Terminated, print_json
from q3_runtime.commands.options import add_model_arguments, add_prompt_arguments, add_vector_arguments
from q3_runtime.errors import StoppedError, UsageError

if TYPE_CHECKING:
    from q3_runtime.bulk.finishing import Counts

QUARANTINED = 8
"""Exit code: done, but not every row has a vector."""


def add_arguments(parser: ArgumentParser) -> None:
    """Three verbs of its own."""
    verbs = parser.add_subparsers(dest="bulk_verb", required=True, metavar="run|verify|compact")
    for name, (summary, add, _) in VERBS.items():
        verb = verbs.add_parser(name, help=summary, description=summary)
        add(verb)
        verb.add_argument("--json", action="store_true", help="print what came out as JSON")
        verb.add_argument("--debug", action="store_true", help="show the traceback of an error")


def run(args: Namespace) -> int:
    """The verb that was named."""
    try:
        import pyarrow  # noqa: F401
    except ImportError as error:
        raise UsageError(f"pyarrow is not installed; type: {with_extras('bulk')}") from error
    _, _, run_verb = VERBS[args.bulk_verb]
    return run_verb(args)


def _add_run(parser: ArgumentParser) -> None:
    add_model_arguments(parser, threads=1)
    parser.add_argument(
        "inputs", metavar="INPUT", nargs="+", help="files, folders or globs: .parquet .jsonl .csv .txt, also .gz .zst"
    )
    parser.add_argument(
        "--out", required=True, type=Path, metavar="OUT", help="folder of the job; the same command goes on there"
    )
    parser.add_argument("--text-column", default="text", metavar="NAME", help="column of the texts (default: text)")
    parser.add_argument("--id-column", metavar="NAME", help="column of the ids (default: a row's number is its id)")
    add_prompt_arguments(parser)
    add_vector_arguments(parser)
    parser.add_argument("--max-tokens", type=int, metavar="N", help="cut texts there (default: what the model takes)")
    parser.add_argument("--chunk-rows", type=int, default=4096, metavar="N", help="rows of a part at most (default: 4096)")
    parser.add_argument("--on-duplicate", default="error", metavar="error|keep", help="ids that stand twice (default: error)")
    parser.add_argument("--keep-going", action="store_true", help="leave out files that cannot be read, and exit with 8")
    parser.add_argument("--engine", default="local", metavar="local|ray", help="who runs the tasks (default: local)")
    parser.add_argument("--address", help="of a Ray cluster (default: Ray on this machine)")
    parser.add_argument("--workers", type=int, metavar="N", help="processes (default: as many as cores and memory allow)")
    parser.add_argument("--shard-index", type=int, default=0, metavar="I", help="do every N-th task, from the I-th on")
    parser.add_argument("--num-shards", type=int, default=1, metavar="N", help="of how many runs this is one")


def _run(args: Namespace) -> int:
    from q3_runtime.bulk.run import run_bulk

    given = {
        name: value
        for name, value in vars(args).items()
        if name not in ("verb", "bulk_verb", "folder", "prompt", "json", "debug")
    }
    say = _say if not args.json else lambda _: None
    try:
        outcome = run_bulk(args.folder, prompt_name=args.prompt, progress=not args.json, say=say, **given)
    except (KeyboardInterrupt, Terminated) as stop:
        raise StoppedError(f"{args.out}: stopped; what is done is kept, the same command goes on") from stop
    if args.json:
        print_json(asdict(outcome))
    elif outcome.counts is None:
        print(
            f"{args.out}: shard {args.shard_index} of {args.num_shards} is done, {outcome.tasks_left} tasks are left to others"
        )
    else:
        _print(args.out, outcome.counts)
        for path, _ in outcome.skipped:
            print(f"left out: {path}")
    lost = outcome.skipped or (outcome.counts and outcome.counts.quarantined)
    return QUARANTINED if lost else 0


def _add_verify(parser: ArgumentParser) -> None:
    parser.add_argument("out", type=Path, metavar="OUT", help="folder of a job")


def _verify(args: Namespace) -> int:
    from q3_runtime.bulk.finishing import verify
    from q3_runtime.bulk.folder import OutFolder

    counts = verify(OutFolder(args.out))
    print_json(asdict(counts)) if args.json else _print(args.out, counts)
    return 0


def _add_compact(parser: ArgumentParser) -> None:
    parser.add_argument("out", type=Path, metavar="OUT", help="folder of a job that is complete")
    parser.add_argument("--to", required=True, type=Path, metavar="DIR", help="new folder for few large files")


def _compact(args: Namespace) -> int:
    from tqdm import tqdm

    from q3_runtime.bulk.compacting import compact
    from q3_runtime.bulk.folder import OutFolder

    with tqdm(unit="row", unit_scale=True, disable=args.json or not sys.stderr.isatty()) as bar:
        files = compact(OutFolder(args.out), args.to, bar.update)
    print_json({"files": [str(path) for path in files]}) if args.json else print(f"{args.to}: {len(files)} files")
    return 0


VERBS: dict[str, tuple[str, Callable[[ArgumentParser], None], Callable[[Namespace], int]]] = {
    "run": ("Embed every row of files, folders or globs into Parquet files.", _add_run, _run),
    "verify": ("Read all of a job again and compare it with its manifest.", _add_verify, _verify),
    "compact": ("Put the vectors of a complete job into few large files.", _add_compact, _compact),
}


def _print(out: Path, counts: "Counts") -> None:
    print(f"{out}: {counts.rows:,} rows = {counts.embedded:,} embedded + {counts.quarantined:,} quarantined")
    if counts.quarantined:
        print(f"reasons: {out / '_quarantine' / 'rows.jsonl'}")


def _say(line: str) -> None:
    from tqdm import tqdm

    tqdm.write(f"q3: {line}", file=sys.stderr)
