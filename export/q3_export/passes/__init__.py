"""Graph → graph, one file a pass. Each takes an ``onnx_ir.Model``, changes it and returns it.

No pass looks at a weight: initializers have names and shapes here, and get their data from :mod:`q3_export.binding`.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

import onnx_ir as ir

from q3_export.passes.attention_by_length import attention_by_length
from q3_export.passes.canonical_padding import canonical_padding
from q3_export.passes.cleaning import clean, finish
from q3_export.passes.constant_reshapes import constant_reshapes
from q3_export.passes.half_precision import half_precision
from q3_export.passes.last_layer_one_token import last_layer_one_token
from q3_export.passes.last_token_pooling import last_token_pooling
from q3_export.passes.quantized_linears import quantized_linears
from q3_export.passes.quantized_table import quantized_table
from q3_export.passes.released_caches import released_caches
from q3_export.passes.score_head import score_head
from q3_export.passes.skip_norms import skip_norms
from q3_export.passes.transposed_weights import transposed_weights
from q3_export.quantize.formats import FLOAT, Format

if TYPE_CHECKING:
    from q3_export.rescaling import Rescaling


ENDS = {"embedding": last_token_pooling, "reranker": score_head}
"""Kind of a model → what follows its hidden states."""
ATTENTIONS = {"by_length": attention_by_length, "uniform": released_caches}
"""Name of a form → what makes it of attentions with present keys and values as outputs."""


def finished(
    model: ir.Model,
    *,
    kind: str = "embedding",
    pooled_only: bool = False,
    rescaling: "Rescaling | None" = None,
    attention: str = "by_length",
    format_of: Callable[[str], Format] = lambda _: FLOAT,
    table: Format = FLOAT,
) -> ir.Model:
    """The traced hidden states → the graph of the folder's contract.

    Args:
        model: as :func:`q3_export.tracing.trace` gives it.
        kind: ``embedding`` or ``reranker``, which gives scores only.
        pooled_only: drop the output ``last_hidden_state`` and let the last layer compute one token a text.
        rescaling: makes it a float16 graph; the weights bound to it must be rescaled likewise.
        attention: one of ATTENTIONS.
        format_of: the name of a linear's weight → how it is stored.
        table: how the token embeddings are stored.
    """
    for each in (constant_reshapes, clean, constant_reshapes, transposed_weights):
        model = each(model)
    model = skip_norms(model) if rescaling is None else half_precision(model, rescaling.norm_epsilon)
    if pooled_only or kind == "reranker":
        model = last_layer_one_token(model)
    model = quantized_table(quantized_linears(model, format_of), table)
    for each in (ATTENTIONS[attention], ENDS[kind], canonical_padding, finish):
        model = each(model)
    return model
