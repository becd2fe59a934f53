"""Each text's attention is computed in the way that is faster at its length.

onnxruntime's plain attention holds all scores of a batch, T × T for each head. Its tiled attention, which it takes where
present keys and values are declared as outputs, holds a few: it is what long texts need, and up to some 1,024 tokens it is
slower, from 8 to 512 tokens 1.2 to 2.3 times (docs/benchmarks.md). The two differ in the last bits, of which activations in 8
bits make more. So which one a text gets depends on its own length, never on that of its neighbours:

    Before: GroupQueryAttention(q, k, v)
    After:  T at most SHORT_TOKENS:  plain(q, k, v)
            no text so short:        tiled(q, k, v)
            some texts:              tiled(q, k, v), and in those texts' rows plain(their first SHORT_TOKENS)

Each is a graph within the graph, so that present keys and values, which nobody reads, are freed with their layer.
"""

from collections.abc import Sequence

import onnx_ir as ir
from onnx_ir.tape import Tape

from q3_export.passes.constants import integers, tensor
from q3_runtime.memory import SHORT_TOKENS

PAST_KEYS, SEQLENS_K, TOTAL_LENGTH = 3, 5, 6
"""Inputs of GroupQueryAttention. Seqlens_k [B] is each text's length less one, the total length T; both int32."""


def attention_by_length(model: ir.Model) -> ir.Model:
    """See the module. An attention with keys and values from before computes one token a text, and stays as it is."""
    attentions = [node for node in model.graph if node.op_type == "GroupQueryAttention" and node.inputs[PAST_KEYS] is None]
    if not attentions:
        return model
    short = _ShortTexts(model, attentions[0])
    for attention in attentions:
        states = attention.outputs[0]
        plain, tiled, mixed, longer = (
            ir.Graph((), (), nodes=(), name=f"{states.name}_{way}") for way in ("plain", "tiled", "mixed", "longer")
        )
        _end(plain, _attend(plain, attention, attention.inputs))
        _end(tiled, _attend(tiled, attention, attention.inputs, tiled=True))
        _end(mixed, short.put_into(_attend(mixed, attention, attention.inputs, tiled=True), mixed, attention))
        _end(longer, _either(longer, short.are_there, mixed, tiled))
        chosen = _either(model.graph, short.are_all, plain, longer)
        chosen.type, chosen.shape = states.type, states.shape
        states.replace_all_uses_with(chosen)
    return model


class _ShortTexts:
    """Of a batch: which they are, computed once for all layers."""

    def __init__(self, model: ir.Model, attention: ir.Node) -> None:
        tape = Tape(model.graph)
        lengths, longest = attention.inputs[SEQLENS_K], attention.inputs[TOTAL_LENGTH]
        zero, zeros = integers(model, "first_position", 0), integers(model, "rows_before", 0, 0, 0, 0)
        self.starts, self.ends, self.axes = zero, integers(model, "short_end", SHORT_TOKENS), integers(model, "token_axis", 1)
        self.tokens = tensor(model, "short_tokens", ir.tensor(SHORT_TOKENS, dtype=ir.DataType.INT32))
        self.are_all = tape.op("LessOrEqual", [longest, self.tokens])
        self.are_there = tape.op("Less", [tape.op("ReduceMin", [lengths], {"keepdims": 0}), self.tokens])
        self.rows = tape.op("Squeeze", [tape.op("NonZero", [tape.op("Less", [lengths, self.tokens])]), zero])  # [S]
        self.places = tape.op("Unsqueeze", [self.rows, self.axes])  # [S, 1]
        self.lengths = tape.op("Gather", [lengths, self.rows])
        rest = tape.op("Cast", [tape.op("Sub", [longest, self.tokens])], {"to": ir.DataType.INT64})
        self.padding = tape.op("Concat", [zeros, tape.op("Unsqueeze", [rest, zero]), zero], {"axis": 0})

    def put_into(self, states: ir.Value, graph: ir.Graph, attention: ir.Node) -> ir.Value:
        """``states`` [B, T, H · head_dim] with the short texts' rows computed by plain attention over their own tokens."""
        tape = Tape(graph)
        cut = [
            tape.op("Slice", [tape.op("Gather", [values, self.rows]), self.starts, self.ends, self.axes])
            for values in attention.inputs[:3]
        ]
        inputs = [*cut, *attention.inputs[3:5], self.lengths, self.tokens, *attention.inputs[7:]]
        found = tape.op("Pad", [_attend(graph, attention, inputs), self.padding])
        return tape.op("ScatterND", [states, self.places, found])


def _attend(graph: ir.Graph, attention: ir.Node, inputs: Sequence[ir.Value | None], *, tiled: bool = False) -> ir.Value:
    """The states of an operator like ``attention``; with present keys and values it is the tiled one."""
    return Tape(graph).op_multi_out(
        attention.op_type, inputs, attention.attributes, num_outputs=3 if tiled else 1, domain=attention.domain, version=1
    )[0]


def _either(graph: ir.Graph, condition: ir.Value, then: ir.Graph, otherwise: ir.Graph) -> ir.Value:
    return Tape(graph).op("If", [condition], {"then_branch": then, "else_branch": otherwise})


def _end(graph: ir.Graph, output: ir.Value) -> None:
    """Make it the graph's result; what is within gets names that no other graph has."""
    output.type = ir.TensorType(ir.DataType.FLOAT)
    graph.outputs.append(output)
    for number, node in enumerate(graph):
        node.name = f"{graph.name}_{number}"
        for place, value in enumerate(node.outputs):
            value.name = f"{node.name}_{place}"
