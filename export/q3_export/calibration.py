"""How large activations get over the calibration texts: what fp16 needs to know."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from transformers.models.qwen3.modeling_qwen3 import Qwen3DecoderLayer


@dataclass
class ActivationRanges:
    """Largest absolute values, filled while the reference runs over the rows that are calibration texts.

    Args:
        first_row: rows before it, the probes, are not looked at: they judge.
    """

    first_row: int
    residual: float = 0.0
    """Of the hidden states between the layers' parts."""
    mlp: list[float] = field(default_factory=list)
    """Of the input of each layer's down_proj: silu(gate) · up."""
    row: int = 0
    """The row that runs now."""

    @contextmanager
    def watching(self, layer: "Qwen3DecoderLayer") -> Iterator[None]:
        """Look at one decoder layer while it runs."""
        self.mlp.append(0.0)

        def residual(_: torch.nn.Module, inputs: tuple[Any, ...]) -> None:
            self.residual = max(self.residual, self._largest(inputs[0]))

        def mlp(_: torch.nn.Module, inputs: tuple[Any, ...]) -> None:
            self.mlp[-1] = max(self.mlp[-1], self._largest(inputs[0]))

        def output(_: torch.nn.Module, __: tuple[Any, ...], states: torch.Tensor) -> None:
            self.residual = max(self.residual, self._largest(states))

        handles = [
            layer.input_layernorm.register_forward_pre_hook(residual),
            layer.post_attention_layernorm.register_forward_pre_hook(residual),
            layer.mlp.down_proj.register_forward_pre_hook(mlp),
            layer.register_forward_hook(output),
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _largest(self, values: torch.Tensor) -> float:
        return float(values.abs().max()) if self.row >= self.first_row else 0.0
