"""The command ``q3``: one file a verb, in q3_runtime.commands."""

import argparse
import re
import sys
from collections.abc import Sequence
from importlib.metadata import version

from q3_runtime.command_line import Parser, interrupted, run_safely
from q3_runtime.commands import bench, bulk, doctor, embed, info, rerank, search, serve, verify

VERBS = {
    "embed": embed, "search": search, "rerank": rerank, "verify": verify, "info": info, "bench": bench, "doctor": doctor,
    "serve": serve, "bulk": bulk,
}  # fmt: skip
OPTION = re.compile(r"-\S+$|--[\w-]+=")
"""A word that is meant as one, known or not; a dash alone is standard input."""


def parse_args(args: Sequence[str] | None = None) -> argparse.Namespace:
    """The arguments of one call; ``verb`` names the module whose ``run`` takes them."""
    parser = Parser(prog="q3", description="Use folders made by q3-export: vectors and scores, without PyTorch.")
    parser.add_argument("--version", action="version", version=f"q3-onnx {version('q3-onnx')}")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    for name, module in VERBS.items():
        summary = (module.__doc__ or name).splitlines()[0]  # python -OO leaves docstrings out
        verb = verbs.add_parser(name, help=summary, description=summary)
        module.add_arguments(verb)
        verb.add_argument("--debug", action="store_true", help="show the traceback of an error")
        verb.set_defaults(parser=verb)
    parsed, rest = parser.parse_known_args(args)
    end = rest.index("--") if "--" in rest else len(rest)
    options = [word for word in rest[:end] if OPTION.match(word)]  # "- a list item" is a text
    if rest and (not hasattr(parsed, "texts") or options):
        parsed.parser.error(f"unrecognized arguments: {' '.join(options or rest)}")
    del parsed.parser
    if rest:  # argparse takes texts on one side of the options only: q3 embed DIR --dim 64 "some text"
        parsed.texts = [*parsed.texts, *rest[:end], *rest[end + 1 :]]
    return parsed


def main(args: Sequence[str] | None = None) -> int:
    """Parse and run; returns the exit code."""
    try:
        parsed = parse_args(args)
    except KeyboardInterrupt:
        return interrupted("q3")
    return run_safely("q3", VERBS[parsed.verb].run, parsed)


if __name__ == "__main__":
    sys.exit(main())
