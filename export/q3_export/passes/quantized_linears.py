"""MatMul with a float weight → onnxruntime's operators for weights in fewer bits.

    int8      x → largest of ±x per token / 127 → QuantizeLinear, a scale per token → MatMulIntegerToFloat(q, W int8 [K, N])
    blocks    x → MatMulNBits(x, W [N, K / block, block · bits / 8], scales [N, K / block]), which rounds x by token and block

Linears that read the same values share one quantization. No scale spans two tokens, so a text's vector does not depend on
what else is in the batch. A product is multiplied by its tokens' scales in a Mul, on all threads: MatMulIntegerToFloat, given
them, does it on one (dynamic_quantize_matmul.cc, ScaleOutput). In front of a norm they are left out, which changes no more than
what its ε weighs; those of silu(gate) · up are left to the product with down_proj, whose own are a number per token too.
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
    per_token = _PerToken(model, format_of)
    for node in list(model.graph):
        weight = node.inputs[1] if node.op_type == "MatMul" else None
        if weight is None or TRANSPOSED not in weight.meta:
            continue
        form = format_of(str(weight.name))
        if not form.bits:
            continue
        source, output = node.inputs[0], node.outputs[0]
        assert source is not None
        product = _blocked(model, source, weight, form) if form.block else per_token.product(node, form)
        product.type, product.shape, product.name = output.type, output.shape, output.name
        output.replace_all_uses_with(product, replace_graph_outputs=True)
        model.graph.remove(node, safe=True)
        del model.graph.initializers[str(weight.name)]
    return model


class _PerToken:
    """Products of activations in 8 bits with a scale per token; each activation is rounded once."""

    def __init__(self, model: ir.Model, format_of: Callable[[str], Format]) -> None:
        self.model, self.tape, self.format_of = model, Tape(model.graph), format_of
        self.known: dict[ir.Value, tuple[ir.Value, ir.Value]] = {}
        """Values → what :meth:`_rounded` gives for them."""
        self.lacking: dict[ir.Value, ir.Value] = {}
        """Values → scales of their tokens that they have not been multiplied by."""

    def product(self, node: ir.Node, form: Format) -> ir.Value:
        """What the MatMul ``node`` computes, in ``form``."""
        source, weight = node.inputs
        assert source is not None
        assert weight is not None
        assert weight.shape is not None
        K, N = weight.shape
        assert isinstance(K, int)
        if source not in self.known:
            self.known[source] = self._rounded(source, K)
        rounded, token_scales = self.known[source]
        numbers = stored(self.model, Stored(str(weight.name), form, "numbers"), ir.DataType.INT8, K, N)
        scales = stored(self.model, Stored(str(weight.name), form, "scales"), ir.DataType.FLOAT, N)
        zero = tensor(self.model, "activation_zero_point", ir.tensor(ZERO_POINT, dtype=ir.DataType.UINT8))
        inputs = [rounded, numbers, scalar(self.model, "no_scale", 1.0), scales, zero]
        product = self.tape.op("MatMulIntegerToFloat", inputs, domain="com.microsoft", version=1)
        if source in self.lacking:
            token_scales = self.tape.op("Mul", [token_scales, self.lacking[source]])
        output = node.outputs[0]
        if _is_normed(output):
            return product
        gated = self._rounded_next(output)
        if gated is not None:
            self.lacking[gated] = token_scales
            return product
        return self.tape.op("Mul", [product, token_scales])

    def _rounded_next(self, output: ir.Value) -> ir.Value | None:
        """``output`` times a factor, if a product of this kind, to which the scales can be left, is all that reads that."""
        factor = _only_reader(output, "Mul")
        behind = _only_reader(factor.outputs[0], "MatMul") if factor is not None else None
        if factor is None or behind is None or behind.inputs[1] is None:
            return None
        form = self.format_of(str(behind.inputs[1].name))
        return factor.outputs[0] if form.bits and not form.block else None

    def _rounded(self, values: ir.Value, columns: int) -> tuple[ir.Value, ir.Value]:
        """[B, T, K] float32 with K ``columns`` → [B, T, K] uint8 around 128, and [B, T, 1] float32."""
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


def _is_normed(output: ir.Value) -> bool:
    """Whether all that reads it is an RMSNorm over its heads, as of q_proj's and k_proj's."""
    heads = _only_reader(output, "Reshape")
    return heads is not None and _only_reader(heads.outputs[0], "SimplifiedLayerNormalization") is not None


def _only_reader(value: ir.Value, op_type: str) -> ir.Node | None:
    """The node that reads ``value``, if it is of this type and no other does."""
    readers = [use.node for use in value.uses()]
    return readers[0] if len(readers) == 1 and readers[0].op_type == op_type else None


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
