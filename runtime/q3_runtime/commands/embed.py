"""Embed texts: arguments, or lines of standard input, to JSON lines or a .npy file."""

import json
import os
import sys
from argparse import ArgumentParser, Namespace
from pathlib import Path

from q3_runtime.commands.options import (
    add_model_arguments,
    add_prompt_arguments,
    add_vector_arguments,
    check_words,
    open_embedder,
    read_texts,
)
from q3_runtime.errors import StorageError, UsageError


def add_arguments(parser: ArgumentParser) -> None:
    """Model, texts, prompt, form of the output."""
    add_model_arguments(parser)
    parser.add_argument("texts", metavar="TEXT", nargs="*", help="texts; none, or -: one a line from standard input")
    add_prompt_arguments(parser)
    add_vector_arguments(parser)
    parser.add_argument("--out", type=Path, metavar="FILE.npy", help="write the array [N, D] there instead of JSON lines")


def run(args: Namespace) -> int:
    """One line of JSON a text, ``{"index", "text", "embedding"}``, or the array in a file."""
    import numpy as np

    from q3_runtime import precisions

    precisions.chosen(args.precision)  # before the model is loaded
    if args.out is not None:
        _check_place(args.out)
    check_words(args, "instruction")
    if not args.texts and sys.stdin.isatty():
        raise UsageError('no text given, expected arguments or standard input; type: q3 embed DIR "some text"')
    model = open_embedder(args)
    texts = read_texts(args)
    progress = sys.stderr.isatty()
    prompt = {"prompt_name": args.prompt, "instruction": args.instruction}
    vectors = model.encode(texts, **prompt, dim=args.dim, precision=args.precision, progress=progress)
    if args.out is not None:
        partial = _partial(args.out)
        try:
            with partial.open("wb") as file:
                # np.save goes through C's stdio and does not notice a disk that is full at the last bytes.
                np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(vectors))
                file.write(np.ascontiguousarray(vectors).data)
            os.replace(partial, args.out)
        finally:
            partial.unlink(missing_ok=True)
        return 0
    for index, (text, vector) in enumerate(zip(texts, vectors, strict=True)):
        print(json.dumps({"index": index, "text": text, "embedding": vector.tolist()}, ensure_ascii=False))
    return 0


def _partial(out: Path) -> Path:
    """Beside it: half a file must never bear the name."""
    return out.with_suffix(f".{os.getpid()}.tmp")


def _check_place(out: Path) -> None:
    """Look before the work whether a file can be written there.

    Raises:
        UsageError: a name with another ending.
        StorageError: it cannot.
    """
    if out.suffix != ".npy":
        raise UsageError(f"--out {out}: expected a name ending in .npy")
    if out.is_dir():
        raise StorageError(f"--out {out}: a folder, expected a file or nothing; give another --out")
    if not out.parent.is_dir():
        raise StorageError(f"--out {out}: no such folder, expected one that is there; type: mkdir -p {out.parent}")
    try:
        _partial(out).touch()
        _partial(out).unlink()
    except OSError as error:
        raise StorageError(f"--out {out}: cannot be written ({error.strerror}); give another --out") from error
