"""Serve folders over HTTP, in the words of text-embeddings-inference, OpenAI and Cohere."""

import os
from argparse import ArgumentParser, BooleanOptionalAction, Namespace
from pathlib import Path

from q3_runtime.builds import with_extras
from q3_runtime.commands.options import read_input
from q3_runtime.errors import InputError, UsageError


def add_arguments(parser: ArgumentParser) -> None:
    """Models, address, key, limits."""
    what = "folder made by q3-export, or ORG/NAME on the hub; NAME is what clients call it"
    parser.add_argument("--model", metavar="[NAME=]DIR[:quant]", nargs="+", action="extend", required=True, help=what)
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on; others than this machine's need a key")
    parser.add_argument("--port", type=int, default=8080, help="port to listen on, 0 for a free one (default: 8080)")
    parser.add_argument(
        "--api-key-file", type=Path, metavar="FILE", help="file with the key that clients must send (else Q3_API_KEY)"
    )
    parser.add_argument("--provider", default="auto", help="auto, cpu, cuda, or an onnxruntime provider (default: auto)")
    parser.add_argument("--threads", type=int, help="threads of one run (default: the physical cores)")
    parser.add_argument("--auto-truncate", action=BooleanOptionalAction, default=True, help="cut texts that are too long")
    for name, default, text in LIMITS:
        parser.add_argument(f"--{name}", type=type(default), default=default, help=f"{text} (default: {default})")


LIMITS: list[tuple[str, int | float, str]] = [
    ("max-client-batch-size", 2048, "texts of one request"),
    ("max-concurrent-requests", 512, "requests that are read and not answered; others get 429"),
    ("max-batch-tokens", 2048, "tokens that are computed together, padding counted"),
    ("max-queue-tokens", 500_000, "tokens that wait, of all requests to one model; others get 429"),
    ("queue-timeout", 60.0, "seconds after which a request of which nothing has run gets 503"),
    ("payload-limit", 2_000_000, "bytes of a request's body"),
]


def run(args: Namespace) -> int:
    """0 once it was told to stop and has answered what it had accepted."""
    for name, _, text in LIMITS:
        value = getattr(args, name.replace("-", "_"))
        if not value > 0:
            raise UsageError(f"--{name} is {value}, expected more than 0: {text}")
    if not 0 <= args.port <= 65535:
        raise UsageError(f"--port is {args.port}, expected 0 to 65535")
    try:
        from q3_runtime.server.application import Service
        from q3_runtime.server.models import Models
        from q3_runtime.server.scheduling import Limits
        from q3_runtime.server.serving import Options, parse_model, serve
    except ImportError as error:
        raise UsageError(f"{error.name} is not installed; type: {with_extras('serve')}") from error
    limits = Limits(args.max_batch_tokens, args.max_queue_tokens, args.queue_timeout)
    models = Models([], limits, args.max_client_batch_size, args.max_concurrent_requests)
    service = Service(models, api_key=_api_key(args.api_key_file), payload_limit=args.payload_limit)
    wanted = [parse_model(text) for text in args.model]
    serve(Options(wanted, args.host, args.port, args.provider, args.threads, args.auto_truncate), service)
    return 0


def _api_key(path: Path | None) -> str | None:
    """From the file, else from the environment; never from the command line, which others on the machine can read."""
    key = os.environ.get("Q3_API_KEY") if path is None else read_input(path).decode("utf-8", "replace")
    key = key and key.strip()  # a header's value has no space at its ends
    if key == "" or (key and not (key.isascii() and key.isprintable())):
        raise InputError(f"{path or 'Q3_API_KEY'}: not a key, expected a line of printable ASCII characters")
    return key
