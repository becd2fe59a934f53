"""What a checkpoint loses by each way to quantize its linears: computed in PyTorch, over the probes, in the runtime's batches.

Weights and activations are rounded as onnxruntime rounds them and multiplied in float32. Good for searching and for
bounds; evidence comes from the real graphs (see tests/export/test_outliers.py).
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from tests.support.onnxruntime_quantizers import BLOCK
from torch.nn import functional
from transformers import AutoModel

from q3_export.checkpoint import open_checkpoint
from q3_export.probes import read_probes
from q3_runtime.batching import batches

Rounding = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Figures:
    """Cosines to the same checkpoint in float32."""

    mean: float
    min: float

    def __str__(self) -> str:
        return f"{self.mean:.4f}/{self.min:.4f}"


def symmetric(dims: tuple[int, ...]) -> Rounding:
    """int8 between -127 and 127, one scale over ``dims``."""

    def rounded(x: torch.Tensor) -> torch.Tensor:
        scale = x.abs().amax(dims, keepdim=True).clamp_min(1e-12) / 127
        return (x / scale).round_().mul_(scale)

    return rounded


def asymmetric(x: torch.Tensor) -> torch.Tensor:
    """uint8 with one scale and zero point for the whole tensor, padding included: DynamicQuantizeLinear."""
    low, high = x.min().clamp_max(0), x.max().clamp_min(0)
    scale = ((high - low) / 255).clamp_min(1e-12)
    zero = (-low / scale).round()
    return (x / scale).round_().add_(zero).clamp_(0, 255).sub_(zero).mul_(scale)


def weight_blocks(bits: int) -> Rounding:
    """MatMulNBits, symmetric: a block's largest weight becomes -2^(bits-1)."""
    lowest = -(2 ** (bits - 1))

    def rounded(weight: torch.Tensor) -> torch.Tensor:
        blocks = weight.unflatten(-1, (-1, BLOCK))
        largest = blocks.gather(-1, blocks.abs().argmax(-1, keepdim=True))
        scale = torch.where(largest == 0, 1, largest / lowest)
        return (blocks / scale).round_().clamp_(lowest, -lowest - 1).mul_(scale).flatten(-2)

    return rounded


def activation_blocks(x: torch.Tensor) -> torch.Tensor:
    """MatMulNBits at accuracy_level 4: int8, one scale per row and block."""
    return symmetric((-1,))(x.unflatten(-1, (-1, BLOCK))).flatten(-2)


VARIANTS: dict[str, tuple[Rounding, Rounding]] = {
    "tensor": (symmetric((0, 1)), asymmetric),
    "token": (symmetric((1,)), symmetric((-1,))),
    "8-bit": (weight_blocks(8), activation_blocks),
    "4-bit": (weight_blocks(4), activation_blocks),
}
"""Rounding of weights [out, in] and of activations [B, T, in]. ``tensor`` is onnxruntime's quantize_dynamic."""


class Measured:
    """A checkpoint, loaded once, and its vectors of the probes.

    Args:
        folder: of the checkpoint.
        ids: token ids of the texts; None takes the shipped probes.
    """

    def __init__(self, folder: Path, ids: Sequence[Sequence[int]] | None = None) -> None:
        self.ids = [probe.ids for probe in read_probes(None, open_checkpoint(folder))] if ids is None else ids
        self.model = AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
        self.vectors = self._embed()

    @property
    def pair_cosine(self) -> float:
        """Mean cosine between two texts: how well the checkpoint tells them apart."""
        count = len(self.vectors)
        return float(((self.vectors @ self.vectors.T).sum() - count) / (count * (count - 1)))

    def figures(self, variant: str) -> Figures:
        """Cosines of the texts' vectors under one of :data:`VARIANTS`."""
        with self._quantized(*VARIANTS[variant]):
            cosines = (self._embed() * self.vectors).sum(-1)
        return Figures(float(cosines.mean()), float(cosines.min()))

    @torch.inference_mode()
    def _embed(self) -> torch.Tensor:
        """Unit vectors [N, D]; padded on the right, where a causal model cannot see it."""
        vectors = torch.empty(len(self.ids), self.model.config.hidden_size)
        for rows in batches([len(row) for row in self.ids]):
            padded = torch.nn.utils.rnn.pad_sequence([torch.tensor(self.ids[row]) for row in rows], batch_first=True)
            states = self.model(padded, use_cache=False).last_hidden_state
            vectors[rows] = torch.stack([state[len(self.ids[row]) - 1] for row, state in zip(rows, states, strict=True)])
        return functional.normalize(vectors, dim=-1)

    @contextmanager
    def _quantized(self, weights: Rounding, activations: Rounding) -> Iterator[None]:
        linears = [module for module in self.model.modules() if isinstance(module, torch.nn.Linear)]
        kept = [linear.weight.data for linear in linears]
        handles = [
            linear.register_forward_pre_hook(lambda _, inputs: (activations(inputs[0]), *inputs[1:])) for linear in linears
        ]
        try:
            for linear in linears:
                linear.weight.data = weights(linear.weight.data)
            yield
        finally:
            for linear, weight, handle in zip(linears, kept, handles, strict=True):
                linear.weight.data = weight
                handle.remove()


def figures(folder: Path, ids: Sequence[Sequence[int]] | None = None) -> dict[str, Figures]:
    """Every variant of :data:`VARIANTS` on the probes, or on other texts."""
    measured = Measured(folder, ids)
    return {variant: measured.figures(variant) for variant in VARIANTS}
