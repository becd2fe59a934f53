"""Search a text file: embed its lines and print those nearest to the query."""

import sys
from argparse import ArgumentParser, Namespace

from q3_runtime.command_line import print_json
from q3_runtime.commands.options import add_model_arguments, check_words, open_embedder, read_lines
from q3_runtime.errors import InputError, UsageError


def add_arguments(parser: ArgumentParser) -> None:
    """Model, file, query."""
    add_model_arguments(parser)
    parser.add_argument("file", metavar="FILE", help="text file in UTF-8, one passage a line; - for standard input")
    parser.add_argument("--query", required=True, help="what to look for")
    parser.add_argument("--instruction", metavar="TEXT", help="task in English, instead of the model's own")
    parser.add_argument("--top", type=int, default=5, help="how many lines to print (default: 5)")
    parser.add_argument("--dim", type=int, help="compare shorter vectors (32 to D)")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: Namespace) -> int:
    """Best lines first: cosine, line number, text."""
    if args.top < 1:
        raise UsageError(f"--top is {args.top}, expected at least 1")
    check_words(args, "query", "instruction")
    lines = _passages(args.file)
    model = open_embedder(args)
    query = model.encode_query([args.query], dim=args.dim, instruction=args.instruction)  # before the long work
    documents = model.encode_document([text for _, text in lines], dim=args.dim, progress=sys.stderr.isatty())
    scores = model.similarity(query, documents)[0]
    best = (-scores).argsort(kind="stable")[: args.top]
    if args.json:
        print_json([{"score": float(scores[i]), "line": lines[i][0], "text": lines[i][1]} for i in best])
        return 0
    for i in best:
        print(f"{scores[i]:6.3f}  {lines[i][0]:>5}  {lines[i][1]}")
    return 0


def _passages(name: str) -> list[tuple[int, str]]:
    """Number, from 1, and text of each line that is not blank."""
    passages = [(number, line) for number, line in enumerate(read_lines(name), start=1) if line.strip()]
    if not passages:
        raise InputError(f"{name}: no lines with text, expected one passage a line")
    return passages
