"""Parts of the model alone, on this CPU: products in 8 bits as onnxruntime has them, and the rest as PyTorch computes it."""

import time
from collections.abc import Callable
from statistics import median
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import onnxruntime

THREADS = 2
PRODUCT = "MatMulIntegerToFloat"


def session_options() -> "onnxruntime.SessionOptions":
    """As q3_runtime.session has them."""
    import onnxruntime

    from q3_runtime.saturation import precise_entry

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = THREADS
    options.enable_mem_pattern = False
    for name, value in precise_entry(onnxruntime).items():
        options.add_session_config_entry(name, value)
    return options


def product(rows: int, inputs: int, outputs: int) -> float:
    """Seconds of a product of so many rows, alone: the fastest of many."""
    import onnxruntime
    from onnx import TensorProto, helper, numpy_helper

    numbers = np.random.default_rng(1).integers(-127, 128, (inputs, outputs), np.int8)
    model = helper.make_model(
        helper.make_graph(
            [helper.make_node(PRODUCT, ["a", "numbers", "a_scales", "scales", "zero"], ["y"], domain="com.microsoft")],
            "product",
            [helper.make_tensor_value_info("a", TensorProto.UINT8, [rows, inputs])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, [rows, outputs])],
            [
                numpy_helper.from_array(array, name)
                for name, array in {
                    "numbers": numbers,
                    "a_scales": np.float32(1),
                    "scales": np.ones(outputs, np.float32),
                    "zero": np.uint8(128),
                }.items()
            ],
        ),
        opset_imports=[helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)],
        ir_version=10,
    )
    session = onnxruntime.InferenceSession(model.SerializeToString(), session_options(), providers=["CPUExecutionProvider"])
    feeds = {"a": np.random.default_rng(2).integers(0, 256, (rows, inputs), np.uint8)}
    return min(_seconds(lambda: session.run(None, feeds)) for _ in range(20))


def attention(config: dict, B: int, T: int, kind: str) -> float:
    """Seconds of PyTorch's causal attention in all layers: the median of some of one, times their number."""
    import torch

    torch.set_num_threads(THREADS)
    heads, kv_heads, size = config["num_attention_heads"], config["num_key_value_heads"], config["head_dim"]
    query, key, value = (torch.randn(B, count, T, size, dtype=getattr(torch, kind)) for count in (heads, kv_heads, kv_heads))
    run = lambda: torch.nn.functional.scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=True)  # noqa: E731
    run()
    return config["num_hidden_layers"] * median(_seconds(run) for _ in range(5))


def between_products(config: dict, rows: int) -> float:
    """Seconds of all that is neither product nor attention in all layers, each fused by ``torch.compile``.

    Medians of some runs of one layer's, times the number of layers.
    """
    import torch
    from torch.nn.functional import silu

    torch.set_num_threads(THREADS)
    hidden, inner, size = config["hidden_size"], config["intermediate_size"], config["head_dim"]
    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]

    def in_8_bits(states):
        scales = states.abs().amax(-1, keepdim=True) / 127
        return (torch.round(states / scales) + 128).to(torch.uint8), scales

    def normed(states, weight):
        return states * torch.rsqrt(states.square().mean(-1, keepdim=True) + config["rms_norm_eps"]) * weight

    def after_product(residual, out, scales, weight):
        total = residual + out * scales
        return total, *in_8_bits(normed(total, weight))

    def before_attention(query, key, value, scales, query_weight, key_weight):
        return normed(query, query_weight), normed(key, key_weight), value * scales

    def between(gate, up, scales):
        return in_8_bits(silu(gate * scales) * up)

    states, scales, weight = torch.randn(rows, hidden), torch.rand(rows, 1), torch.randn(hidden)
    query, key, value = (torch.randn(rows, count, size) for count in (heads, kv_heads, kv_heads))
    attended, (gate, up), head_weight = torch.randn(rows, heads * size), torch.randn(2, rows, inner), torch.randn(size)
    layer = (  # what is computed, of what, how often
        (after_product, (states, states.clone(), scales, weight), 2),
        (before_attention, (query, key, value, scales[..., None], head_weight, head_weight), 1),
        (in_8_bits, (attended,), 1),
        (between, (gate, up, scales), 1),
    )
    total = 0.0
    for work, given, times in layer:
        compiled = torch.compile(work, dynamic=False)
        compiled(*given)
        total += times * median(_seconds(lambda: compiled(*given)) for _ in range(9))  # noqa: B023  # run in this turn
    return config["num_hidden_layers"] * total


def _seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started
