"""Scales that move from activations into weights, where the graph computes the same without knowing of it.

    x / s  behind an RMSNorm whose γ is divided by s, W · s in the linears that read it    (q, k, v; gate, up)
    h / t  behind an up_proj whose rows are divided by t, W · t in down_proj               (h = silu(gate) · up)

gate → down is not linear (SiLU), q and k are normalized per head again: nothing can be folded there. SmoothQuant
(arXiv 2211.10438) gives s = max|x|^α / max|W|^(1−α). Here α is looked for, pair by pair, among a few, 0 folding included,
as AWQ (arXiv 2306.00978) does: what counts is the error of the linears behind it, which are quantized for it. So a layer
whose few massive units would ruin down_proj's weights is left alone without a list of such layers.
"""

from dataclasses import dataclass, field

import torch

from q3_export.quantize.formats import Format
from q3_export.quantize.rounding import as_computed, error

ALPHAS = (0.3, 0.5, 0.7)
MAX_SCALE = 256.0
"""Of a channel, against the mean of all."""
ROWS = 3072
"""Outputs of a linear, evenly spaced, on which an α is tried: all that a 0.6B has, and a quarter of an 8B's largest."""
MIN_GAIN = 0.05
"""Share of the error that folding must save to be done at all."""


@dataclass(frozen=True)
class Pair:
    """Where scales leave, and the linears (one input, read by all) where they arrive."""

    giver: str
    """A norm's weight [K], or up_proj's [K, in], whose outputs are divided."""
    takers: tuple[str, ...]


PAIRS = (
    Pair("input_layernorm", ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")),
    Pair("post_attention_layernorm", ("mlp.gate_proj", "mlp.up_proj")),
    Pair("mlp.up_proj", ("mlp.down_proj",)),
)
ALONE = "self_attn.o_proj"
"""The one linear whose input nothing is folded into."""


@dataclass
class Smoothing:
    """Factors by tensor name, ``layers.0.mlp.up_proj.weight`` for one, and the α of every folded pair."""

    rows: dict[str, torch.Tensor] = field(default_factory=dict)
    columns: dict[str, torch.Tensor] = field(default_factory=dict)
    alphas: dict[str, float] = field(default_factory=dict)

    def apply(self, name: str, tensor: torch.Tensor, first_row: int = 0) -> torch.Tensor:
        """The tensor, or its rows from ``first_row`` on, with what is folded in, float32; [K] of a norm, [N, K] of a linear."""
        rows, columns = self.rows.get(name), self.columns.get(name)
        if rows is not None:
            rows = rows[first_row : first_row + len(tensor)]
            tensor = tensor.float() * (rows if tensor.ndim == 1 else rows[:, None])
        return tensor if columns is None else tensor.float() * columns

    def fold(self, layer: int, pair: Pair, scales: torch.Tensor, alpha: float) -> None:
        """Note s of one pair."""
        prefix = f"layers.{layer}."
        self.rows[f"{prefix}{pair.giver}.weight"] = 1 / scales
        for taker in pair.takers:
            self.columns[f"{prefix}{taker}.weight"] = scales
        self.alphas[prefix + pair.giver] = alpha


def best_scales(
    inputs: torch.Tensor, largest: torch.Tensor, weights: list[torch.Tensor], form: Format, importance: torch.Tensor
) -> tuple[float, torch.Tensor]:
    """α and s [K] with which the linears lose least; α 0 and ones where folding does not pay.

    Args:
        inputs: [M, K], a sample of the linears' input.
        largest: [K], the largest |x| of each channel, every token divided by its rms.
        weights: the linears, [N, K] each.
        form: how they will be stored.
        importance: [K], mean square of each input channel.
    """
    columns = torch.stack([weight.abs().amax(0) for weight in weights]).amax(0).clamp_min(1e-8)
    tried = [weight[torch.linspace(0, len(weight) - 1, min(ROWS, len(weight))).long()] for weight in weights]
    exact = [inputs @ weight.T for weight in tried]

    def lost(scales: torch.Tensor) -> float:
        computed = as_computed(inputs / scales, form)
        return sum(
            error(computed, weight * scales, outputs, form, importance / scales**2)
            for weight, outputs in zip(tried, exact, strict=True)
        )

    best = (0.0, torch.ones_like(largest))
    least = lost(best[1])
    for alpha in ALPHAS:
        scales = largest.clamp_min(1e-5) ** alpha / columns ** (1 - alpha)
        scales = (scales / scales.log().mean().exp()).clamp(1 / MAX_SCALE, MAX_SCALE)
        found = lost(scales)
        if found < least * (1 - MIN_GAIN):
            best, least = (alpha, scales), found
    return best
