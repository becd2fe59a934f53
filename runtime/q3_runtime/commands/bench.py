"""Measure a model on this machine: seconds of a query, tokens per second, memory."""

import sys
from argparse import ArgumentParser, Namespace
from dataclasses import asdict

from q3_runtime.command_line import print_json
from q3_runtime.commands.options import add_model_arguments, open_embedder, read_lines
from q3_runtime.errors import InputError


def add_arguments(parser: ArgumentParser) -> None:
    """Model, texts."""
    add_model_arguments(parser)
    parser.add_argument(
        "--file", metavar="FILE", help="the mix: a text a line (default: the texts that the folder was proved with)"
    )
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")


def run(args: Namespace) -> int:
    """Figures, a line each."""
    from tqdm import tqdm

    from q3_runtime.benchmark import QUERY_TOKENS, SHAPES, measure

    texts = None if args.file is None else [line for line in read_lines(args.file) if line.strip()]
    if texts == []:
        raise InputError(f"{args.file}: no lines with text, expected one a line")
    with tqdm(
        total=3 + len(SHAPES), desc="measuring", unit="figure", disable=args.json or not sys.stderr.isatty(), leave=False
    ) as bar:
        figures = measure(lambda: open_embedder(args), texts, bar.update)
    if args.json:
        print_json(asdict(figures))
        return 0
    print(f"load        {figures.load_seconds:.2f} s")
    print(f"one query   {1000 * figures.query_p50:.1f} ms (p95 {1000 * figures.query_p95:.1f} ms), {QUERY_TOKENS} tokens")
    for shape, speed in figures.tokens_per_second.items():
        of = f"{figures.mix_texts} texts, {figures.mix_tokens} tokens" if shape == "mix" else "texts x tokens"
        print(f"{shape:<11} {speed:,.0f} tokens/s ({of})")
    if figures.memory is not None:
        print(f"memory      {figures.memory / 1e6:,.0f} MB")
    return 0
