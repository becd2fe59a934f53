"""Verify a folder on this machine: every file's hash, and the vectors against PyTorch's stored ones."""

import sys
from argparse import ArgumentParser, Namespace
from typing import Any

from q3_runtime.command_line import print_json


def add_arguments(parser: ArgumentParser) -> None:
    """Folder, quant, provider."""
    parser.add_argument("folder", metavar="DIR", help="folder made by q3-export, or ORG/NAME on the hub")
    parser.add_argument("--quant", help="verify only this quant (default: all that are present)")
    parser.add_argument("--provider", default="auto", help="auto, cpu, cuda, or an onnxruntime provider (default: auto)")
    parser.add_argument("--threads", type=int, help="threads of one run (default: the physical cores)")
    parser.add_argument("--json", action="store_true", help="print all figures as JSON")
    parser.add_argument("--quiet", action="store_true", help="no progress bars")


def run(args: Namespace) -> int:
    """A line a quant; raises FidelityError where one is below its floor, IntegrityError where a file was changed."""
    from q3_runtime.errors import FidelityError
    from q3_runtime.fidelity import verify_folder
    from q3_runtime.model_folder import find_folder

    folder = find_folder(args.folder, lambda manifest: [name for name in manifest.quants if args.quant in (None, name)])
    progress = not args.quiet and (sys.stderr.isatty() or not args.json)
    results = verify_folder(folder, quant=args.quant, provider=args.provider, threads=args.threads, progress=progress)
    if args.json:
        print_json({"folder": str(folder), "quants": results})
    else:
        print("\n".join(summary(quant, result) for quant, result in results.items()))
        print("every file is as exported")
    failed = [f"{quant}: {', '.join(result['failures'])}" for quant, result in results.items() if result["failures"]]
    if failed and args.json:  # the JSON says it
        return FidelityError.exit_code
    if failed:
        raise FidelityError(f"{'; '.join(failed)}; use another quant or provider, or export again")
    return 0


def summary(quant: str, result: dict[str, Any]) -> str:
    """The verdict in a line, and where it was measured, if the result says."""
    verdict = "OK    " if not result["failures"] else "NOT OK"
    floor = ", ".join(f"{name} {limit:g}" for name, limit in result["floor"].items())
    where = f"; on {result['provider']}" if "provider" in result else ""
    return f"{verdict} {quant}: {fidelity_in_words(result)}; floor: {floor}{where}"


def fidelity_in_words(figures: dict[str, Any]) -> str:
    """The figures that matter most, of vectors or of scores."""
    if "score_delta" in figures:
        return (
            f"scores against PyTorch fp32 over {figures['probes']} pairs: rank correlation {figures['spearman']:.6f}, largest "
            f"difference {figures['score_delta']:.6f}, of the log-odds {figures['log_odds_delta']:.4f} (their spread is "
            f"{figures['log_odds_std']:.2f}); alone against batched: {figures['batch_score_delta']:.1e}"
        )
    return (
        f"cosine to PyTorch fp32 over {figures['probes']} texts: mean {figures['mean']:.6f}, min {figures['min']:.6f}; "
        f"same top 10: {figures['top10_overlap']:.1%}; alone against batched: {figures['batch_invariance']:.6f}"
    )
