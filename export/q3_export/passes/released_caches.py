"""Keys and values of every layer are freed when the layer is done.

Before 1.28, onnxruntime wants present keys and values declared as outputs of attention, since then in float32 it tiles
attention only if they are; and it keeps an output that nobody reads until the end of the run: 2 · layers · tokens · KV ·
head_dim floats, 3.8 GB for 16,384 tokens of 0.6B. So their length is read, as the total length that the next layer's
attention asks for, and then they can go.

    Before: Attention 0 → present keys, values        total length → Attention 0, 1, 2 …
    After:  Attention 0 → present keys, values → their length → Attention 1 → …
"""

from itertools import pairwise

import onnx_ir as ir
from onnx_ir.tape import Tape

TOTAL_LENGTH = 6
"""Index of total_sequence_length among the inputs of GroupQueryAttention."""


def released_caches(model: ir.Model) -> ir.Model:
    """See the module."""
    tape = Tape(model.graph)
    attentions = [node for node in model.graph if node.op_type == "GroupQueryAttention"]
    for before, after in pairwise(attentions):
        lengths = [tape.op("Shape", [present], {"start": 2, "end": 3}) for present in before.outputs[1:]]
        total = tape.op("Cast", [tape.op("Squeeze", [tape.op("Max", lengths)])], {"to": ir.DataType.INT32})
        after.replace_input_with(TOTAL_LENGTH, total)
    return model
