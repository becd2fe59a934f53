"""Show what a folder holds: source, quants, sizes, measured fidelity, prompts, providers."""

import json
from argparse import ArgumentParser, Namespace
from dataclasses import asdict
from typing import Any

from q3_runtime.command_line import print_json


def add_arguments(parser: ArgumentParser) -> None:
    """Folder."""
    parser.add_argument("folder", metavar="DIR", help="folder made by q3-export, or ORG/NAME on the hub")
    parser.add_argument("--json", action="store_true", help="print the manifest and the choice as JSON")


def run(args: Namespace) -> int:
    """Read the manifest; no file is hashed and no model is loaded."""
    from q3_runtime.manifest import Manifest
    from q3_runtime.model_folder import find_folder
    from q3_runtime.session import available_providers, choose

    manifest = Manifest.read(find_folder(args.folder, lambda _: ()))
    quant, provider = choose(manifest.quants, None, "auto")
    if args.json:
        print_json(asdict(manifest) | {"default": {"quant": quant, "provider": provider}, "providers": available_providers()})
        return 0
    source, dims = manifest.source, ", ".join(map(str, manifest.mrl_dims))
    print(f"source      {source['id']} ({manifest.kind}), sha256 {str(source['sha256'])[:12]}…")
    print(f"license     {manifest.license or 'not stated by the source'}")
    print(f"made with   {', '.join(f'{name} {number}' for name, number in manifest.made_with.items())}")
    if manifest.kind == "embedding":
        print(f"vectors     {manifest.dims} dimensions, can be cut to {dims}; texts of up to {manifest.max_tokens} tokens")
    else:
        print(f"scores      of pairs of query and document, of up to {manifest.max_tokens} tokens with the template")
    for name, text in manifest.prompts.items():
        print(f"prompt      {name}: {json.dumps(text, ensure_ascii=False)}")
    for name, entry in manifest.quants.items():
        figures = entry.fidelity
        measured = _measured(figures) if figures else "not measured"
        default = " (default here)" if name == quant else ""
        print(
            f"quant       {name}{default}: {entry.total_bytes / 1e6:,.1f} MB, {measured}, onnxruntime {entry.min_onnxruntime}+"
        )
    print(f"providers   {', '.join(available_providers())}; default here: {provider}")
    return 0


def _measured(figures: dict[str, Any]) -> str:
    if "score_delta" in figures:
        return f"rank correlation {figures['spearman']:.6f}, largest difference of a score {figures['score_delta']:.6f}"
    return f"cosine mean {figures['mean']:.6f}, min {figures['min']:.6f}"
