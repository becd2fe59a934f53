"""Config → graph: transformers' own Qwen3 model, traced without weights.

The model is built of fake tensors, which have shapes and no data, so tracing 28 layers needs no weight and little memory.
Every initializer carries the name its tensor has in the checkpoint; :mod:`q3_export.binding` puts the data there.

The traced graph takes right-padded rows that start at position 0:

    input_ids [batch, sequence] int64, seqlens_k [batch] int32 (last real position) → last_hidden_state [batch, sequence, D]

What a user feeds, padding on either side and a mask, is arranged by the passes.
"""

import json
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from types import MethodType
from typing import Any

import onnx_ir as ir
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import Qwen3Config, Qwen3Model
from transformers.masking_utils import AttentionMaskInterface
from transformers.modeling_utils import AttentionInterface
from transformers.models.qwen3 import modeling_qwen3

OPSET = 21
IR_VERSION = 10
FUSED = "q3_fused"


def trace(config: Qwen3Config) -> ir.Model:
    """The graph of the model's hidden states, its weights named and not yet there.

    Attention with its rotary embedding and every RMSNorm come out as one operator each. Equal configs are traced once in a
    process; what is returned is the caller's to change.
    """
    return _traced(json.dumps(config.to_dict() | {"use_cache": False}, sort_keys=True)).clone()


@lru_cache(maxsize=4)
def _traced(stated: str) -> ir.Model:
    """Seconds for a small model and a minute for a large one. ``stated``: a config as JSON."""
    config = Qwen3Config.from_dict(json.loads(stated))
    config._attn_implementation = FUSED
    fake = FakeTensorMode(allow_non_fake_inputs=True)
    with fake, fused_operators(), _quiet():
        model = Qwen3Model(config).eval()
        for module in model.modules():
            if isinstance(module, modeling_qwen3.Qwen3RMSNorm):
                module.forward = MethodType(_rms_norm, module)
        inputs = (torch.zeros(2, 7, dtype=torch.int64), torch.zeros(2, dtype=torch.int32))
        batch, sequence = torch.export.Dim("batch"), torch.export.Dim("sequence")
        program = torch.onnx.export(
            _HiddenStates(model).eval(),
            inputs,
            dynamo=True,
            optimize=False,  # would try to fold weights that are not there
            verbose=False,
            opset_version=OPSET,
            input_names=["input_ids", "seqlens_k"],
            output_names=["last_hidden_state"],
            dynamic_shapes=({0: batch, 1: sequence}, {0: batch}),
        )
    assert program is not None
    traced = program.model
    traced.ir_version = IR_VERSION
    for weight in list(traced.graph.initializers.values()):
        weight.const_value = None  # the fake tensor
        weight.name = str(weight.name).removeprefix("model.")
    return traced


class _HiddenStates(torch.nn.Module):
    """Names the two inputs, and hands what the fused attention needs through the model as keyword arguments."""

    def __init__(self, model: Qwen3Model) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: torch.Tensor, seqlens_k: torch.Tensor) -> torch.Tensor:
        sequence = input_ids.shape[1]
        positions = torch.arange(sequence)[None]
        cos, sin = self.model.rotary_emb(torch.zeros((), dtype=torch.float32), positions)  # [1, T, head_dim], halves equal
        half = cos.shape[-1] // 2
        states: torch.Tensor = self.model(
            input_ids=input_ids,
            position_ids=positions,
            use_cache=False,
            seqlens_k=seqlens_k,
            total_sequence_length=torch.ops.aten.scalar_tensor(sequence, dtype=torch.int32),
            cos_cache=cos[0, :, :half],
            sin_cache=sin[0, :, :half],
        ).last_hidden_state
        return states


@contextmanager
def fused_operators() -> Iterator[None]:
    """While tracing: rotary embedding happens inside the attention operator, and no mask is built."""
    rotary = modeling_qwen3.apply_rotary_pos_emb
    AttentionInterface.register(FUSED, _attention)
    AttentionMaskInterface.register(FUSED, lambda *_, **__: None)
    modeling_qwen3.apply_rotary_pos_emb = lambda q, k, *_: (q, k)
    try:
        yield
    finally:
        modeling_qwen3.apply_rotary_pos_emb = rotary


def _attention(
    _module: torch.nn.Module,
    query: torch.Tensor,  # [B, H, T, head_dim]
    key: torch.Tensor,  # [B, KV, T, head_dim]
    value: torch.Tensor,
    _attention_mask: None,
    scaling: float,
    *,
    seqlens_k: torch.Tensor,
    total_sequence_length: torch.Tensor,
    cos_cache: torch.Tensor,
    sin_cache: torch.Tensor,
    **_unused: Any,
) -> tuple[torch.Tensor, None]:
    """com.microsoft.GroupQueryAttention: causal, with rotary embedding.

    Present keys and values are declared because onnxruntime's tiled kernel needs them; nobody fetches them.
    """
    B, H, T, head_dim = query.shape
    KV = key.shape[1]

    def packed(x: torch.Tensor, heads: int) -> torch.Tensor:
        return x.transpose(1, 2).reshape(B, T, heads * head_dim)

    attended, _, _ = torch.onnx.ops.symbolic_multi_out(
        "com.microsoft::GroupQueryAttention",
        (
            packed(query, H),
            packed(key, KV),
            packed(value, KV),
            None,
            None,
            seqlens_k,
            total_sequence_length,
            cos_cache,
            sin_cache,
        ),
        {"num_heads": H, "kv_num_heads": KV, "scale": float(scaling), "do_rotary": 1},
        dtypes=(query.dtype,) * 3,
        shapes=((B, T, H * head_dim), (B, KV, T, head_dim), (B, KV, T, head_dim)),
        version=1,
    )
    return attended.reshape(B, T, H, head_dim), None


def _rms_norm(self: modeling_qwen3.Qwen3RMSNorm, hidden_states: torch.Tensor) -> torch.Tensor:
    """Onnxruntime's SimplifiedLayerNormalization: x · rsqrt(mean(x²) + ε) · weight, in float32."""
    return torch.onnx.ops.symbolic(
        "SimplifiedLayerNormalization",
        (hidden_states, self.weight),
        {"axis": -1, "epsilon": float(self.variance_epsilon), "stash_type": 1},
        dtype=hidden_states.dtype,
        shape=hidden_states.shape,
        version=1,
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """The exporter warns of things that are meant to be so (fake tensors, no optimization)."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
