"""A graph without data + a checkpoint + what changes on the way → a graph whose weights are read when they are written."""

from dataclasses import dataclass, field
from functools import partial

import onnx_ir as ir
import torch
from transformers.models.qwen3.modeling_qwen3 import Qwen3RotaryEmbedding

from q3_export.checkpoint import Checkpoint
from q3_export.passes.quantized_linears import STORED, Stored
from q3_export.passes.quantized_table import TABLE
from q3_export.passes.score_head import HEAD
from q3_export.passes.transposed_weights import TRANSPOSED
from q3_export.quantize.rounding import packed, quantized
from q3_export.quantize.smoothing import Smoothing
from q3_export.rescaling import Rescaling

INV_FREQ = "rotary_emb.inv_freq"
"""The one initializer that is computed from the config and not in the checkpoint."""


DTYPES = {"float32": (torch.float32, ir.DataType.FLOAT), "float16": (torch.float16, ir.DataType.FLOAT16)}


@dataclass(frozen=True)
class Changes:
    """What is done to a checkpoint's tensors on their way into the graph."""

    dtype: str = "float32"
    """Of weights and scales that are floats."""
    rescaling: Rescaling | None = None
    smoothing: Smoothing = field(default_factory=Smoothing)
    importance: dict[str, torch.Tensor] = field(default_factory=dict)
    """Of the input channels of a linear, by its name without ``.weight``."""

    def apply(self, name: str, tensor: torch.Tensor) -> torch.Tensor:
        """The tensor, smoothed and rescaled."""
        tensor = self.smoothing.apply(name, tensor)
        factor = self.rescaling.factor(name) if self.rescaling else 1.0
        return tensor if factor == 1 else tensor.to(torch.float32) * factor


def bind(model: ir.Model, checkpoint: Checkpoint, changes: Changes) -> ir.Model:
    """Give every initializer without data a lazy tensor: read, change, quantize and transpose happen when it is written.

    Nothing is kept, so memory holds one tensor at a time.
    """
    for name, weight in model.graph.initializers.items():
        if weight.const_value is not None:
            continue
        if name == INV_FREQ:
            weight.const_value = ir.tensor(Qwen3RotaryEmbedding(checkpoint.config).inv_freq.numpy(), name=name)
            continue
        if name == HEAD:
            weight.const_value = ir.Tensor(checkpoint.head().T.contiguous().numpy(), name=name)
            continue
        assert weight.shape is not None
        assert weight.dtype is not None
        read = partial(_stored, weight.meta[STORED]) if STORED in weight.meta else partial(_float, TRANSPOSED in weight.meta)
        weight.const_value = ir.LazyTensor(
            partial(read, name, checkpoint, changes), dtype=weight.dtype, shape=ir.Shape(list(weight.shape)), name=name
        )
    return model


def _float(transposed: bool, name: str, checkpoint: Checkpoint, changes: Changes) -> ir.TensorProtocol:
    tensor = changes.apply(name, checkpoint.tensor(name))
    if transposed:
        tensor = tensor.T
    return ir.Tensor(tensor.to(DTYPES[changes.dtype][0]).contiguous().numpy(), name=name)


def _stored(content: Stored, name: str, checkpoint: Checkpoint, changes: Changes) -> ir.TensorProtocol:
    """One part of a quantized weight. Each part is computed alone: they are written far apart, and rounding is quick."""
    weight = changes.apply(content.source, checkpoint.tensor(content.source)).to(torch.float32)
    importance = changes.importance.get(content.source.removesuffix(".weight"))
    numbers, scales = quantized(weight, content.form, importance)
    if content.part == "scales":
        found = scales.to(DTYPES[changes.dtype][0]) if content.form.block else scales[:, 0]
    elif not content.form.block:
        found = numbers[:, 0].T  # [K, N], as MatMulIntegerToFloat wants it
    else:
        found = packed(numbers, content.form)
        found = found.flatten(1) if content.source == TABLE else found
    return ir.Tensor(found.contiguous().numpy(), name=name)
