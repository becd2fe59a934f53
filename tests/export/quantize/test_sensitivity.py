"""What a linear is said to cost is what it does to the vectors when it alone is quantized."""

from pathlib import Path

import numpy as np
import pytest
from tests.conftest import ROOT
from tests.support.checkpoints import MINI, write_checkpoint
from tests.support.fake_quantization import Measured
from tests.support.quality import spearman

from q3_export import reference
from q3_export.checkpoint import open_checkpoint
from q3_export.probes import read_probes
from q3_export.quantize.formats import BLOCKS4, FLOAT
from q3_export.quantize.rounding import as_computed, rounded
from q3_export.quantize.sensitivity import Plan, Sensitivity

FORMS = (BLOCKS4.name, FLOAT.name)


def planned(folder: Path) -> Plan:
    checkpoint = open_checkpoint(folder)
    ids = [probe.ids for probe in read_probes(None, checkpoint, judging=False)[::3]]
    sensitivity = Sensitivity([FORMS], rows=range(len(ids)))
    reference.embed(checkpoint, ids, observers=[sensitivity])
    return sensitivity.plans[FORMS]


def lost(folder: Path, plan: Plan) -> dict[str, float]:
    """Mean 1 − cosine over short probes with one linear quantized: by PyTorch, over the whole model."""
    probes = [probe.ids for probe in read_probes(None, open_checkpoint(folder)) if len(probe.ids) <= 64]
    measured = Measured(folder, probes[::4])
    for name, parameter in measured.model.named_parameters():
        parameter.data = plan.smoothing.apply(name, parameter.data).float()
    found = {}
    for name, importance in plan.importance.items():
        linear = measured.model.get_submodule(name)
        exact = linear.weight.data
        linear.weight.data = rounded(exact, BLOCKS4, importance)
        hook = linear.register_forward_pre_hook(lambda _, args: as_computed(args[0].flatten(0, -2), BLOCKS4).view_as(args[0]))
        found[name] = float((1 - (measured._embed() * measured.vectors).sum(-1)).mean())
        linear.weight.data = exact
        hook.remove()
    return found


@pytest.mark.parametrize("which", ["mini", "random"])
def test_costs_rank_the_linears_as_their_real_losses_do(which: str, tmp_path: Path) -> None:
    """A small embedding scale makes early layers count most, which what a linear loses by itself does not show."""
    folder = ROOT / "models/mini" if which == "mini" else write_checkpoint(tmp_path / "Random", MINI, embedding_std=0.2)
    plan = planned(folder)
    real = lost(folder, plan)
    costs = np.array([plan.narrow[name] for name in real])
    correlation = spearman(costs, np.array(list(real.values())))
    ratio = costs.sum() / 2 / sum(real.values())
    print(f"\n{which}: rank correlation {correlation:.3f}, {ratio:.2f} of the real sum")
    assert correlation >= 0.9
    assert 0.2 <= ratio <= 2
