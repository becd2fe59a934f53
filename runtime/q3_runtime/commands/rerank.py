"""Rank documents by how well they answer a query: arguments, or lines of standard input."""

import sys
from argparse import ArgumentParser, Namespace

from q3_runtime.command_line import print_json
from q3_runtime.commands.options import add_model_arguments, check_words, read_texts
from q3_runtime.errors import InputError, UsageError


def add_arguments(parser: ArgumentParser) -> None:
    """Model, query, documents."""
    add_model_arguments(parser)
    parser.add_argument("texts", metavar="DOC", nargs="*", help="documents; none, or -: one a line from standard input")
    parser.add_argument("--query", required=True, help="what they are to answer")
    parser.add_argument("--instruction", metavar="TEXT", help="task in English, instead of the model's own")
    parser.add_argument("--top", type=int, help="how many to print (default: all)")
    parser.add_argument("--raw", action="store_true", help="log-odds of yes against no instead of its probability, 0 to 1")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: Namespace) -> int:
    """Best documents first: score, number of the document from 1, text."""
    from q3_runtime.reranker import Reranker

    if args.top is not None and args.top < 1:
        raise UsageError(f"--top is {args.top}, expected at least 1")
    if not args.texts and sys.stdin.isatty():
        raise UsageError('no document given, expected arguments or standard input; type: q3 rerank DIR --query "…" "some text"')
    check_words(args, "query", "instruction")
    texts = read_texts(args)
    if not texts:
        raise InputError("standard input: no documents, expected one a line")
    model = Reranker(args.folder, quant=args.quant, provider=args.provider, threads=args.threads)
    progress = sys.stderr.isatty()
    ranking = model.rank(args.query, texts, top_n=args.top, instruction=args.instruction, raw=args.raw, progress=progress)
    if args.json:
        results = [{"score": score, "line": row + 1, "text": texts[row]} for row, score in ranking]
        print_json({"scale": ranking.scale, "results": results})
        return 0
    for row, score in ranking:
        print(f"{score:7.3f}  {row + 1:>5}  {texts[row]}")
    return 0
