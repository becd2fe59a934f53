"""Powers of two that keep float16 activations in range, exact in float32.

The residual stream runs at 2⁻ᵏ: its writers (embedding, o_proj, down_proj) are scaled, and its readers are RMSNorms, which
divide the scale out again if ε is scaled by its square. silu(gate) · up runs at 2⁻ᵐ: up_proj is scaled, down_proj undoes
it. Published weights need it: an 8B's down_proj input passes 65,504 (llama.cpp issue 26044), a fine-tuned 0.6B's residual
reached 125,067.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from q3_export.calibration import ActivationRanges

MAX_FLOAT16 = 65504.0
MARGIN = 8
"""Room above the largest value that calibration saw."""


@dataclass(frozen=True)
class Rescaling:
    """``residual_shift`` is k; ``up_shifts`` has an m for each layer."""

    residual_shift: int
    up_shifts: tuple[int, ...]

    @classmethod
    def from_ranges(cls, ranges: ActivationRanges, mlp: Sequence[float] | None = None) -> "Rescaling":
        """The smallest shifts that leave the margin. ``mlp`` replaces the ranges' own where something is folded into it."""
        return cls(_shift(ranges.residual), tuple(_shift(largest) for largest in (mlp or ranges.mlp)))

    @property
    def norm_epsilon(self) -> float:
        """Factor of ε in the norms that read the residual."""
        return 4.0**-self.residual_shift

    def factor(self, name: str) -> float:
        """What a tensor of the checkpoint is multiplied by, a power of two.

        Example: with k = 1 and m = 3 in layer 0, ``layers.0.mlp.down_proj.weight`` → 2³ · 2⁻¹ = 4.
        """
        parts = name.split(".")
        module = parts[-2]
        up = self.up_shifts[int(parts[1])] if module in ("up_proj", "down_proj") else 0
        residual = self.residual_shift if module in ("embed_tokens", "o_proj", "down_proj") else 0
        return 2.0 ** ((up if module == "down_proj" else -up) - residual)

    def describe(self) -> dict[str, object]:
        """What goes into the manifest: shifts that are not 0."""
        ups = {f"layers.{layer}.mlp.up_proj": shift for layer, shift in enumerate(self.up_shifts) if shift}
        return {"residual_shift": self.residual_shift, "up_shifts": ups}


def _shift(largest: float) -> int:
    return max(0, math.ceil(math.log2(largest * MARGIN / MAX_FLOAT16))) if largest > 0 else 0
