"""Arguments that several verbs take, and the Embedder they ask for."""

import sys
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import TYPE_CHECKING

from q3_runtime.errors import InputError

if TYPE_CHECKING:
    from q3_runtime.embedder import Embedder


def add_model_arguments(parser: ArgumentParser, threads: int | None = None) -> None:
    """Folder, quant, provider, threads with their default."""
    parser.add_argument("folder", metavar="DIR", help="folder made by q3-export, or ORG/NAME on the hub")
    parser.add_argument("--quant", help="which quant to use (default: the best one present)")
    parser.add_argument("--provider", default="auto", help="auto, cpu, cuda, or an onnxruntime provider (default: auto)")
    default = "the physical cores" if threads is None else threads
    parser.add_argument("--threads", type=int, default=threads, help=f"threads of one run (default: {default})")


def add_vector_arguments(parser: ArgumentParser) -> None:
    """Length and type of the vectors that come out."""
    parser.add_argument("--dim", type=int, help="shorter vectors: the first DIM values, normalized again (32 to D)")
    names = "float32, float16, int8, uint8, binary or ubinary"
    parser.add_argument("--precision", default="float32", metavar="NAME", help=f"{names} (default: float32)")


def add_prompt_arguments(parser: ArgumentParser) -> None:
    """At most one of --prompt and --instruction."""
    group = parser.add_mutually_exclusive_group()
    group.add_argument("--prompt", metavar="NAME", help="prompt of the model to put in front: query or document")
    group.add_argument("--instruction", metavar="TEXT", help="task in English, put in front in the model's own form")


def open_embedder(args: Namespace) -> "Embedder":
    """The model that the arguments name."""
    from q3_runtime.embedder import Embedder

    return Embedder(args.folder, quant=args.quant, provider=args.provider, threads=args.threads)


def read_texts(args: Namespace) -> list[str]:
    """Texts of the command line; where there are none, or a dash alone, lines of standard input.

    Raises:
        InputError: they are not UTF-8.
    """
    return read_lines("-") if args.texts in ([], ["-"]) else list(args.texts)


def check_words(args: Namespace, *options: str) -> None:
    """Look before any work at what goes with the texts; a model does not know what its options are called here.

    Raises:
        InputError: a word that the terminal gave in another encoding.
    """
    for option in options:
        try:
            (getattr(args, option) or "").encode("utf-8")
        except UnicodeEncodeError as error:
            raise InputError(
                f"--{option}: not UTF-8 at character {error.start}, expected text in UTF-8; set the terminal to UTF-8"
            ) from error


def read_input(path: Path) -> bytes:
    """A file that the user names.

    Raises:
        InputError: it is not there, or a folder.
        OSError: it cannot be read.
    """
    try:
        return path.read_bytes()
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
        raise InputError(f"{path}: {(error.strerror or '').lower()}, expected a file; check the path") from error


def read_lines(name: str) -> list[str]:
    """Lines of a UTF-8 file, ``-`` for standard input, without their ends; only LF and CRLF end a line.

    Raises:
        InputError: no such file, or not UTF-8.
    """
    content = sys.stdin.buffer.read() if name == "-" else read_input(Path(name))
    try:
        text = content.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        place = "standard input" if name == "-" else name
        raise InputError(f"{place}: not UTF-8 at byte {error.start}, expected text in UTF-8; convert it first") from error
    lines = [line.removesuffix("\r") for line in text.split("\n")]
    return lines[:-1] if lines[-1] == "" else lines
