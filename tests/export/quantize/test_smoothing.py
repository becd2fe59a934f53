"""What is folded leaves the function as it was."""

import pytest
import torch
from transformers import Qwen3Config
from transformers.models.qwen3.modeling_qwen3 import Qwen3DecoderLayer, Qwen3RotaryEmbedding

from q3_export.quantize.formats import BLOCKS8, INT8, Format
from q3_export.quantize.sensitivity import Sensitivity
from q3_export.quantize.smoothing import PAIRS

LOUD = 7


@pytest.fixture
def layer() -> Qwen3DecoderLayer:
    torch.manual_seed(0)
    config = Qwen3Config(
        hidden_size=64, intermediate_size=192, num_attention_heads=4, num_key_value_heads=2, head_dim=32, num_hidden_layers=1,
        vocab_size=100,
    )  # fmt: skip
    config._attn_implementation = "sdpa"
    made = Qwen3DecoderLayer(config, 0).eval().requires_grad_(False)
    for norm in (made.input_layernorm, made.post_attention_layernorm):
        norm.weight.mul_(1 + 0.1 * torch.randn(64))
        norm.weight[LOUD] = 12  # a persistent channel
    made.mlp.up_proj.weight[3] *= 15
    return made


def watched(layer: Qwen3DecoderLayer, form: Format, size_of_first: float = 1.0) -> tuple[Sensitivity, torch.Tensor]:
    rotary = Qwen3RotaryEmbedding(layer.self_attn.config)
    sensitivity = Sensitivity([(form.name, "float")], rows=range(1, 9))
    texts = [torch.randn(1, 20, 64, generator=torch.Generator().manual_seed(row)) for row in range(9)]
    texts[0] *= size_of_first
    with torch.inference_mode(), sensitivity.watching(layer):
        for row, text in enumerate(texts):
            sensitivity.row = row
            layer(text, attention_mask=None, position_embeddings=rotary(text, torch.arange(20)[None]))
    return sensitivity, texts[0]


def output(layer: Qwen3DecoderLayer, text: torch.Tensor) -> torch.Tensor:
    rotary = Qwen3RotaryEmbedding(layer.self_attn.config)
    with torch.inference_mode():
        return layer(text, attention_mask=None, position_embeddings=rotary(text, torch.arange(20)[None]))


def test_a_smoothed_layer_computes_what_it_did(layer: Qwen3DecoderLayer) -> None:
    sensitivity, text = watched(layer, INT8)
    smoothing = sensitivity.plans["int8", "float"].smoothing
    assert smoothing.alphas
    before = output(layer, text)
    for name, parameter in layer.named_parameters():
        parameter.copy_(smoothing.apply(f"layers.0.{name}", parameter))
    assert float((output(layer, text) - before).abs().max()) <= 1e-5 * float(before.abs().max())


def test_a_loud_channel_is_quieted_and_its_linears_lose_less(layer: Qwen3DecoderLayer) -> None:
    sensitivity, _ = watched(layer, INT8)
    plan = sensitivity.plans["int8", "float"]
    scales = plan.smoothing.columns["layers.0.mlp.gate_proj.weight"]
    assert int(scales.argmax()) == LOUD
    assert torch.equal(scales, plan.smoothing.columns["layers.0.mlp.up_proj.weight"])
    assert set(plan.narrow) == {f"layers.0.{name}" for pair in PAIRS for name in pair.takers} | {"layers.0.self_attn.o_proj"}
    assert all(plan.wide[name] == 0 for name in plan.wide)
    assert all(cost > 0 for cost in plan.narrow.values())


def test_what_brings_nothing_is_not_folded(layer: Qwen3DecoderLayer) -> None:
    for norm in (layer.input_layernorm, layer.post_attention_layernorm):
        norm.weight.fill_(1)
    layer.mlp.up_proj.weight[3] /= 15
    sensitivity, _ = watched(layer, BLOCKS8)
    assert not sensitivity.plans["blocks8", "float"].smoothing.alphas


def test_the_texts_that_judge_are_not_looked_at(layer: Qwen3DecoderLayer) -> None:
    first, _ = watched(layer, INT8)
    second, _ = watched(layer, INT8, size_of_first=100.0)
    assert first.plans["int8", "float"].narrow == second.plans["int8", "float"].narrow
