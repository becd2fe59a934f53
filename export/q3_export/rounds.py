"""One quant, written and measured, and written again with its costliest linears wider until it is faithful enough."""

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import onnx_ir as ir

from q3_export import artifact, binding, passes
from q3_export.checkpoint import Checkpoint
from q3_export.probes import Reference
from q3_export.quantize.formats import Format
from q3_export.quantize.sensitivity import Plan
from q3_export.quantize.widening import ROUNDS, reached, widened
from q3_export.recipes import Recipe
from q3_export.rescaling import Rescaling
from q3_export.verification import Judge
from q3_runtime.durable import write_synced
from q3_runtime.manifest import HEADLINES, MANIFEST_NAME, Manifest, QuantEntry


@dataclass(frozen=True)
class Maker:
    """Graph without weights → graph and weights on the disk, as the recipe says."""

    traced: ir.Model
    checkpoint: Checkpoint
    recipe: Recipe
    reference: Reference
    folder: Path
    pooled_only: bool = False
    progress: bool = False

    @property
    def plan(self) -> Plan | None:
        """What the reference found for the recipe's formats; None for a quant of floats."""
        return self.reference.plans.get(self.recipe.forms)

    def write(self, kept: Collection[str] = ()) -> QuantEntry:
        """Write the quant with the linears named in ``kept`` in the recipe's wider format."""
        recipe, plan, wider = self.recipe, self.plan, set(kept)
        rescaling = None
        if recipe.activations == "float16":
            rescaling = Rescaling.from_ranges(self.reference.ranges, plan.mlp if plan else None)

        def format_of(weight: str) -> Format:
            return recipe.wider if weight.removesuffix(".weight") in wider else recipe.linears

        graph = passes.finished(
            self.traced.clone(), kind=self.checkpoint.kind, pooled_only=self.pooled_only, rescaling=rescaling,
            attention=recipe.attention, format_of=format_of, table=recipe.table,
        )  # fmt: skip
        changes = binding.Changes(recipe.activations, rescaling)
        described = recipe.describe() | (rescaling.describe() if rescaling else {})
        if plan:
            changes = replace(changes, smoothing=plan.smoothing, importance=plan.importance)
            described["smoothing_alpha"] = plan.smoothing.alphas
        graph = binding.bind(graph, self.checkpoint, changes)
        return artifact.write_graph(graph, recipe, described, self.folder, kept_wider=sorted(wider), progress=self.progress)


def make_quant(maker: Maker, manifest: Manifest, judge: Judge | None, say: Callable[[str], None]) -> None:
    """Write the quant into the private folder and its entry, with the measured fidelity, into the manifest.

    Args:
        maker: what writes it.
        manifest: gains or replaces the entry; kept on the disk too, because the measuring process reads it there.
        judge: None: written once and not measured.
        say: told of every round.

    Raises:
        FidelityError: after the last round it is below its floor.
    """
    name, plan = maker.recipe.quant.name, maker.plan
    kept: list[str] = []
    path: list[dict[str, Any]] = []
    while True:
        entry = maker.write(kept)
        manifest.quants[name] = entry
        write_synced(maker.folder / MANIFEST_NAME, manifest.to_json())
        if judge is None:
            return
        result = judge.measure(maker.folder, name)
        if plan is None:
            break
        floor, aim = judge.floor(name), maker.recipe.target if maker.checkpoint.kind == "embedding" else {}
        target = {key: max(floor.get(key, 0.0), aim.get(key, 0.0)) for key in floor | aim}
        figures = {key: result[key] for key in HEADLINES[maker.checkpoint.kind]}
        path.append({"kept_wider": len(kept)} | figures)
        shown = ", ".join(f"{key} {value:.6f}" for key, value in figures.items())
        say(f"{name}: {shown} with {len(kept)} of {len(plan.narrow)} linears wider")
        if reached(result, target) or len(path) > ROUNDS or len(kept) == len(plan.narrow):
            entry.recipe["rounds"] = path
            break
        kept = widened(plan, kept, result, target)
    entry.fidelity = judge.verdict(result, name)
    write_synced(maker.folder / MANIFEST_NAME, manifest.to_json())
