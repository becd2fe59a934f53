"""MatMul with a float weight → onnxruntime's operators for weights in fewer bits.

    int8      x → largest of ±x per token / 127 → QuantizeLinear, a scale per token → MatMulIntegerToFloat(q, W int8 [K, N])
    blocks    x → MatMulNBits(x, W [N, K / block, block · bits / 8], scales [N, K / block]), which rounds x by token and block

Linears that read the same values share one quantization. No scale spans two tokens, so a text's vector does not depend on
what else is in the batch. MatMulIntegerToFloat takes a scale per row although its documentation speaks of columns: a scale
whose last dimension is 1 is broadcast over the output (dynamic_quantize_matmul.cc, FixupScaleTensor).
"""

from collections.abc import Callable
from dataclasses import dataclass

import onnx_ir as ir
from onnx_ir.tape import Tape

from q3_export.passes.constants import integers, scalar, tensor
from q3_export.passes.transposed_weights import TRANSPOSED
from q3_export.quantize.formats import Format

STORED = "q3.stored"
"""Key in the ``meta`` of an initializer whose data a :class:`Stored` describes."""
ZERO_POINT = 128
ACCURACY_LEVEL = 4
"""MatMulNBits computes in int8; without it 8-bit weights are dequantized at every call."""
SMALLEST = 1e-12


@dataclass(frozen=True)
class Stored:
    """One of the two tensors that a quantized weight becomes."""

    source: str
    """Name of the weight in the checkpoint."""
    form: Format
    part: str
    """``numbers`` or ``scales``."""


def quantized_linears(model: ir.Model, format_of: Callable[[str], Format]) -> ir.Model:
    """Replace every MatMul whose weight has a format with bits.

    Args:
        model: weights named and transposed (see transposed_weights), data not yet there.
        format_of: weight name → its format.
    """
    shared = _SharedActivations(model)
    for node in list(model.graph):
        weight = node.inputs[1] if node.op_type == "MatMul" else None
        if weight is None or TRANSPOSED not in weight.meta:
            continue
        form = format_of(str(weight.name))
        if not form.bits:
            continue
        source, output = node.inputs[0], node.outputs[0]
        assert source is not None
        product = _blocked(model, source, weight, form) if form.block else _per_token(model, shared, source, weight, form)
        product.type, product.shape, product.name = output.type, output.shape, output.name
        output.replace_all_uses_with(product, replace_graph_outputs=True)
        model.graph.remove(node, safe=True)
        del model.graph.initializers[str(weight.name)]
    return model


class _SharedActivations:
    """Values → their 8-bit form and the scales of its tokens, made once."""

    def __init__(self, model: ir.Model) -> None:
        self.model, self.tape = model, Tape(model.graph)
        self.known: dict[ir.Value, tuple[ir.Value, ir.Value]] = {}

    def of(self, values: ir.Value, columns: int) -> tuple[ir.Value, ir.Value]:
        """[B, T, K] float32 with K ``columns`` → [B, T, K] uint8 around 128, and [B, T, 1] float32."""
        if values not in self.known:
            self.known[values] = self._quantize(values, columns)
        return self.known[values]

    def _quantize(self, values: ir.Value, columns: int) -> tuple[ir.Value, ir.Value]:
        model, op = self.model, self.tape.op
        axis = integers(model, "last_axis", -1)
        above, below = (op(reduce, [values, axis], {"keepdims": 1}) for reduce in ("ReduceMax", "ReduceMin"))  # Abs would write
        by_above = op("Mul", [above, scalar(model, "per_127", 1 / 127)])
        by_below = op("Mul", [below, scalar(model, "per_minus_127", -1 / 127)])
        scales = op("Max", [by_above, by_below, scalar(model, "smallest_scale", SMALLEST)])
        by_token = op("Reshape", [scales, integers(model, "flat", -1)])
        zeros = op("ConstantOfShape", [op("Shape", [by_token])], {"value": ir.tensor([ZERO_POINT], dtype=ir.DataType.UINT8)})
        flat = op("Reshape", [values, integers(model, f"rows_of_{columns}", -1, columns)])
        rounded = op("QuantizeLinear", [flat, by_token, zeros], {"axis": 0})
        return op("Reshape", [rounded, op("Shape", [values])]), scales


def _per_token(model: ir.Model, shared: _SharedActivations, source: ir.Value, weight: ir.Value, form: Format) -> ir.Value:
    assert weight.shape is not None
    K, N = weight.shape
    assert isinstance(K, int)
    rounded, token_scales = shared.of(source, K)
    numbers = stored(model, Stored(str(weight.name), form, "numbers"), ir.DataType.INT8, K, N)
    scales = stored(model, Stored(str(weight.name), form, "scales"), ir.DataType.FLOAT, N)
    zero = tensor(model, "activation_zero_point", ir.tensor(ZERO_POINT, dtype=ir.DataType.UINT8))
    inputs = [rounded, numbers, token_scales, scales, zero]
    return Tape(model.graph).op("MatMulIntegerToFloat", inputs, domain="com.microsoft", version=1)


def _blocked(model: ir.Model, source: ir.Value, weight: ir.Value, form: Format) -> ir.Value:
    assert weight.shape is not None
    K, N = weight.shape
    assert isinstance(K, int)
    assert isinstance(N, int)
    blocks, name = -(-K // form.block), str(weight.name)
    numbers = stored(model, Stored(name, form, "numbers"), ir.DataType.UINT8, N, blocks, form.block * form.bits // 8)
    scales = stored(model, Stored(name, form, "scales"), weight.dtype or ir.DataType.FLOAT, N, blocks)
    attributes = {"K": K, "N": N, "bits": form.bits, "block_size": form.block, "accuracy_level": ACCURACY_LEVEL}
    return Tape(model.graph).op("MatMulNBits", [source, numbers, scales], attributes, domain="com.microsoft", version=1)


def stored(model: ir.Model, content: Stored, dtype: ir.DataType, *shape: int | ir.SymbolicDim) -> ir.Value:
    """An initializer that :mod:`q3_export.binding` fills."""
    name = content.source.removesuffix("weight") + content.part
    value = ir.Value(name=name, type=ir.TensorType(dtype), shape=ir.Shape(shape))
    value.meta[STORED] = content
    model.graph.initializers[name] = value
    return value
