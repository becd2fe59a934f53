"""Which linears stay wider: those that save most for a byte, as many as the measured fidelity asks for."""

from collections.abc import Collection
from typing import Any

from q3_export.quantize.sensitivity import Plan

ROUNDS = 3


def reached(figures: dict[str, Any], target: dict[str, float]) -> bool:
    """Whether mean and min are where they shall be."""
    return all(figures[name] >= goal for name, goal in target.items())


def widened(plan: Plan, kept: Collection[str], figures: dict[str, Any], target: dict[str, float]) -> list[str]:
    """Names of the linears to store in the wider format in the next round, those of this round included.

    1 − cosine of a vector is half its squared relative error, and to first order the errors of the linears add up in it. So
    the error that is left must shrink by the same factor as 1 − cosine; linears are widened, those that save most for each of
    their weights first, until the sum says so.

    Args:
        plan: what each linear costs.
        kept: wider already, when ``figures`` were measured.
        figures: ``mean`` and ``min`` over the probes.
        target: of the same names.
    """
    factor = min((1 - goal) / max(1 - figures[name], 1e-9) for name, goal in target.items())
    left = sum(plan.wide[name] if name in kept else plan.narrow[name] for name in plan.narrow)
    allowed, chosen = left * factor, list(kept)
    saved = {name: plan.narrow[name] - plan.wide[name] for name in plan.narrow if name not in kept}
    for name in sorted(saved, key=lambda name: (-saved[name] / plan.weights[name], name)):
        if left <= allowed and len(chosen) > len(kept):
            break
        chosen.append(name)
        left -= saved[name]
    return chosen
