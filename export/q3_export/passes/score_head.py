"""The hidden state of each text's last token → logit(yes) − logit(no).

    last_hidden_state [batch, 1, D] → Squeeze → MatMul(two rows of the head, [D, 2]) → yes − no → logits [batch, 1]

Two rows of the vocabulary are all that a reranker's head is asked for; the others, 151,667 of a published model, are never
multiplied nor stored. The rows stay float32 in every quant.
"""

import onnx_ir as ir
from onnx_ir.tape import Tape

from q3_export.passes.constants import integers, tensor

HEAD = "score_head.weight"
"""[D, 2]: yes, no. Filled by :mod:`q3_export.binding`."""


def score_head(model: ir.Model) -> ir.Model:
    """See the module. Comes after ``last_layer_one_token``."""
    graph, tape = model.graph, Tape(model.graph)
    hidden = graph.outputs[0]
    assert hidden.shape is not None
    batch, _, dims = hidden.shape
    head = ir.Value(name=HEAD, type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape([dims, 2]))
    graph.initializers[HEAD] = head
    pooled = tape.op("Squeeze", [hidden, integers(model, "pool_axis", 1)])
    yes_less_no = tensor(model, "yes_less_no", ir.tensor([[1.0], [-1.0]], dtype=ir.DataType.FLOAT))
    logits = tape.op("MatMul", [tape.op("MatMul", [pooled, head]), yes_less_no])
    logits.name, logits.type, logits.shape = "logits", ir.TensorType(ir.DataType.FLOAT), ir.Shape([batch, 1])
    graph.outputs[:] = [logits]
    return model
