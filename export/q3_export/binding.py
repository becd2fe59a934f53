"""A graph without data + a checkpoint + what changes on the way → a graph whose weights are read when they are written."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import BinaryIO

import onnx_ir as ir
import torch

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
PIECE = 1 << 24
"""Values that are read and changed at a time, 67 MB as float32."""
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

    def apply(self, name: str, tensor: torch.Tensor, first_row: int = 0) -> torch.Tensor:
        """The tensor, or its rows from ``first_row`` on, smoothed and rescaled."""
        tensor = self.smoothing.apply(name, tensor, first_row)
        factor = self.rescaling.factor(name) if self.rescaling else 1.0
        return tensor if factor == 1 else tensor.to(torch.float32) * factor


class StreamedTensor(ir.LazyTensor):
    """Rows that are made as they are written: memory holds one piece of them. ``pieces`` starts over at every call."""

    def __init__(self, pieces: Callable[[], Iterator[torch.Tensor]], dtype: ir.DataType, shape: ir.Shape, name: str) -> None:
        super().__init__(self._whole, dtype, shape, name=name)
        self._pieces = pieces

    def tofile(self, file: BinaryIO) -> None:
        """Write the bytes, in order."""
        for piece in self._pieces():
            file.write(piece.contiguous().numpy().data)

    def _whole(self) -> ir.TensorProtocol:
        return ir.Tensor(torch.cat(list(self._pieces())).numpy(), name=self.name)


def bind(model: ir.Model, checkpoint: Checkpoint, changes: Changes) -> ir.Model:
    """Give every initializer without data a tensor that is read, changed, quantized and transposed when it is written.

    Nothing is kept, so memory holds a linear, or a piece of the token embeddings, at a time.
    """
    weights = _Weights(checkpoint, changes)
    for name, weight in model.graph.initializers.items():
        if weight.const_value is not None:
            continue
        if name == INV_FREQ:
            from transformers.models.qwen3.modeling_qwen3 import Qwen3RotaryEmbedding

            weight.const_value = ir.tensor(Qwen3RotaryEmbedding(checkpoint.config).inv_freq.numpy(), name=name)
            continue
        if name == HEAD:
            weight.const_value = ir.Tensor(checkpoint.head().T.contiguous().numpy(), name=name)
            continue
        assert weight.shape is not None
        assert weight.dtype is not None
        content: Stored | None = weight.meta.get(STORED)
        if content:
            pieces = partial(weights.numbers if content.part == "numbers" else weights.scales, content)
        else:
            pieces = partial(weights.floats, name, transposed=TRANSPOSED in weight.meta)
        weight.const_value = StreamedTensor(pieces, weight.dtype, ir.Shape(list(weight.shape)), name)
    return model


class _Weights:
    """A checkpoint's tensors, changed, in pieces of some rows."""

    def __init__(self, checkpoint: Checkpoint, changes: Changes) -> None:
        self.checkpoint, self.changes = checkpoint, changes
        self._scales: dict[str, torch.Tensor] = {}
        """Of the weight whose numbers were written last: they come next in the graph."""

    def floats(self, name: str, *, transposed: bool) -> Iterator[torch.Tensor]:
        """As they are, [N, K] or whole as [K, N]."""
        dtype = DTYPES[self.changes.dtype][0]
        pieces = (rows.to(dtype) for rows in self._rows(name))
        return iter([torch.cat(list(pieces)).T]) if transposed else pieces

    def numbers(self, content: Stored) -> Iterator[torch.Tensor]:
        """Packed blocks, row after row; of a weight with a scale per channel all as [K, N], for MatMulIntegerToFloat."""
        self._scales.clear()
        scales, columns = [], []
        for numbers, row_scales in self._quantized(content):
            scales.append(row_scales)
            if content.form.block:
                piece = packed(numbers, content.form)
                yield piece.flatten(1)[:, : self.checkpoint.dims * content.form.bits // 8] if content.source == TABLE else piece
            else:
                columns.append(numbers[:, 0].T)
        if columns:
            yield torch.cat(columns, dim=1)
        self._scales[content.source] = torch.cat(scales)

    def scales(self, content: Stored) -> Iterator[torch.Tensor]:
        """[N, K / block], or [N]."""
        known = self._scales.pop(content.source, None)
        scales = torch.cat([scales for _, scales in self._quantized(content)]) if known is None else known
        yield scales.to(DTYPES[self.changes.dtype][0]) if content.form.block else scales[:, 0]

    def _quantized(self, content: Stored) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        importance = self.changes.importance.get(content.source.removesuffix(".weight"))
        return (quantized(rows.to(torch.float32), content.form, importance) for rows in self._rows(content.source))

    def _rows(self, name: str) -> Iterator[torch.Tensor]:
        tensor, first_row = self.checkpoint.tensor(name), 0
        for rows in torch.split(tensor, max(1, PIECE // tensor[0].numel())):
            yield self.changes.apply(name, rows, first_row)
            first_row += len(rows)
