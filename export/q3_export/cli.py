"""The command ``q3-export``: export a checkpoint, or verify a folder against one."""

import argparse
import sys
from collections.abc import Sequence
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

from q3_export.recipes import DEFAULT_QUANT, LAYOUTS, RECIPES
from q3_export.specs import SPECS
from q3_runtime.builds import with_extras
from q3_runtime.command_line import Parser, interrupted, print_json, run_safely
from q3_runtime.errors import UsageError

NEEDED = ("torch", "transformers", "onnx", "onnx_ir", "onnxscript", "safetensors", "huggingface_hub", "onnxruntime")
KEYS = ", ".join(SPECS)


def parse_args(args: Sequence[str] | None = None) -> argparse.Namespace:
    """The arguments of one call; ``verb`` is ``verify`` or None."""
    words = list(sys.argv[1:] if args is None else args)
    if words[:1] == ["verify"]:
        return _verify_parser().parse_args(words[1:])
    return _export_parser().parse_args(words)


def _export_parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="q3-export",
        description="Export a Qwen3-Embedding or -Reranker checkpoint to an ONNX folder that carries its measured fidelity.",
        epilog="q3-export verify DIR --model MODEL compares a folder with PyTorch, computed now; see q3-export verify --help.",
    )
    parser.add_argument("--model", required=True, help=f"one of {KEYS}, or a checkpoint: a folder, or ORG/NAME on the hub")
    parser.add_argument("--quant", default=DEFAULT_QUANT, help=f"comma list of {', '.join(RECIPES)} (default: {DEFAULT_QUANT})")
    parser.add_argument("--out", metavar="DIR", help="folder to make (default: ./<name of the model>-onnx)")
    parser.add_argument("--layout", choices=LAYOUTS, default="onnx", help="tei: one quant, as onnx/model.onnx, for TEI")
    parser.add_argument("--kind", choices=("embedding", "reranker"), help="default: what the checkpoint says")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="where PyTorch runs, and what CUDA can verify")
    parser.add_argument("--calibration", metavar="FILE", help="texts to take ranges from, in the form of --probes")
    parser.add_argument(
        "--probes",
        metavar="FILE",
        help='texts to judge by: JSONL of {"text", "kind"}, or one a line; for a reranker of {"query", "document"}',
    )
    parser.add_argument(
        "--min-cosine", type=float, metavar="X", help="floor of every probe's cosine, instead of the quant's own"
    )
    parser.add_argument(
        "--pooled-only", action="store_true", help="leave out last_hidden_state; the last layer computes one token"
    )
    parser.add_argument("--no-verify", action="store_true", help="do not measure the fidelity; the folder says so")
    parser.add_argument("--force", action="store_true", help="replace what is in DIR")
    parser.add_argument("--push", metavar="ORG/NAME", help="upload the folder to the hub, to a private repository if it is new")
    _add_common(parser)
    parser.add_argument("--version", action="version", version=f"q3-onnx {version('q3-onnx')}")
    parser.set_defaults(verb=None)
    return parser


def _verify_parser() -> argparse.ArgumentParser:
    parser = Parser(prog="q3-export verify", description="Compare a folder with PyTorch, computed now.")
    parser.add_argument("folder", metavar="DIR", help="folder made by q3-export")
    parser.add_argument("--model", required=True, help=f"what it was made from: one of {KEYS}, a folder, or ORG/NAME")
    parser.add_argument("--quant", help="verify only this quant (default: all that are present)")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="where PyTorch runs, and what CUDA can verify")
    _add_common(parser)
    parser.set_defaults(verb="verify")
    return parser


def _add_common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--revision", help="branch, tag or commit on the hub (default: the key's own commit, or the newest)")
    parser.add_argument("--offline", action="store_true", help="take what is in the hub's cache, like HF_HUB_OFFLINE=1")
    parser.add_argument("--json", action="store_true", help="print the manifest's fidelity, or an error, as JSON")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")


def run(args: argparse.Namespace) -> int:
    """Check system and extra, then do it."""
    if sys.platform == "win32":
        raise UsageError("q3-export runs on Linux and macOS, found Windows; run it in WSL: what it makes runs on Windows too")
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        raise UsageError(
            f"q3-export needs more than is installed (missing: {', '.join(missing)}); type: {with_extras('export')}"
        )
    return _verify(args) if args.verb == "verify" else _export(args)


def _export(args: argparse.Namespace) -> int:
    from q3_export.pipeline import export_model
    from q3_runtime.commands.verify import summary
    from q3_runtime.manifest import Manifest

    options = {name: value for name, value in vars(args).items() if name not in ("verb", "json", "debug", "model")}
    folder = export_model(args.model, **options, progress=not args.json)
    manifest = Manifest.read(folder)
    fidelity = {name: entry.fidelity for name, entry in manifest.quants.items()}
    if args.json:
        print_json({"folder": str(folder), "quants": fidelity})
        return 0
    for name, figures in fidelity.items():
        verdict = summary(name, figures | {"failures": []}) if figures else f"       {name}: not measured"
        print(f"{verdict}; {manifest.quants[name].total_bytes / 1e6:,.1f} MB")
    print(folder)
    return 0


def _verify(args: argparse.Namespace) -> int:
    from q3_export.checkpoint import open_checkpoint
    from q3_export.parity import compare
    from q3_export.resources import check_device
    from q3_runtime.commands.verify import summary
    from q3_runtime.fidelity import quants_of
    from q3_runtime.manifest import Manifest

    progress = not args.json
    check_device(args.device, quants_of(Manifest.read(Path(args.folder)), args.quant))  # before a download
    checkpoint = open_checkpoint(args.model, revision=args.revision, offline=args.offline, progress=progress)
    results = compare(Path(args.folder), checkpoint, args.quant, device=args.device, progress=progress)
    if args.json:
        print_json({"folder": args.folder, "quants": results})
    else:
        print("\n".join(summary(name, result) for name, result in results.items()))
    return 4 if any(result["failures"] for result in results.values()) else 0


def main(args: Sequence[str] | None = None) -> int:
    """Parse and run; returns the exit code."""
    try:
        parsed = parse_args(args)
    except KeyboardInterrupt:
        return interrupted("q3-export")
    return run_safely("q3-export", run, parsed)


if __name__ == "__main__":
    sys.exit(main())
