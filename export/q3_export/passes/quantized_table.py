"""Gather(table, ids) → GatherBlockQuantized: the token embeddings in 8 or 4 bits, read row by row.

The table is a quarter of a 0.6B; only the rows of the text's tokens are ever turned into floats.
"""

import onnx_ir as ir
from onnx_ir.tape import Tape

from q3_export.passes.quantized_linears import Stored, stored
from q3_export.quantize.formats import Format

TABLE = "embed_tokens.weight"


def quantized_table(model: ir.Model, form: Format) -> ir.Model:
    """See the module. A format without bits leaves the table as it is."""
    if not form.bits:
        return model
    table = model.graph.initializers[TABLE]
    gather = next(iter(table.uses())).node
    assert table.shape is not None
    V, D = table.shape
    assert isinstance(D, int)
    blocks = -(-D // form.block)
    numbers = stored(model, Stored(TABLE, form, "numbers"), ir.DataType.UINT8, V, D * form.bits // 8)
    scales = stored(model, Stored(TABLE, form, "scales"), table.dtype or ir.DataType.FLOAT, V, blocks)
    attributes = {"gather_axis": 0, "quantize_axis": 1, "block_size": form.block, "bits": form.bits}
    inputs = [numbers, gather.inputs[1], scales]
    rows = Tape(model.graph).op("GatherBlockQuantized", inputs, attributes, domain="com.microsoft", version=1)
    old = gather.outputs[0]
    rows.type, rows.shape, rows.name = old.type, old.shape, old.name
    old.replace_all_uses_with(rows)
    model.graph.remove(gather, safe=True)
    del model.graph.initializers[TABLE]
    return model
