"""Rounded weights, against onnxruntime's own kernels and against the plainest way to round."""

import numpy as np
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from q3_export.passes.quantized_linears import ZERO_POINT
from q3_export.quantize.formats import BLOCKS4, BLOCKS8, INT8, TABLE8, Format
from q3_export.quantize.rounding import CHUNK, as_computed, error, packed, quantized, restored
from q3_runtime.saturation import precise_entry

M, N, K = 5, 48, 96


def weights(rows: int = N, columns: int = K, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed)) / columns**0.5


def run(node: object, feeds: dict[str, np.ndarray], constants: dict[str, np.ndarray]) -> np.ndarray:
    """One operator in onnxruntime."""
    types = {"float32": TensorProto.FLOAT, "uint8": TensorProto.UINT8, "int8": TensorProto.INT8, "int64": TensorProto.INT64}
    tensors = [helper.make_tensor(k, types[str(v.dtype)], v.shape, v.tobytes(), raw=True) for k, v in constants.items()]
    inputs = [helper.make_tensor_value_info(k, types[str(v.dtype)], v.shape) for k, v in feeds.items()]
    graph = helper.make_graph([node], "g", inputs, [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)], tensors)
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString()
    options = onnxruntime.SessionOptions()
    for name, value in precise_entry(onnxruntime).items():
        options.add_session_config_entry(name, value)
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"]).run(None, feeds)[0]


@pytest.mark.parametrize("form", [BLOCKS8, BLOCKS4], ids=lambda form: form.name)
def test_matmulnbits_computes_with_the_weights_and_activations_we_judge_by(form: Format) -> None:
    activations, weight = torch.randn(M, K), weights()
    numbers, scales = quantized(weight, form)
    attributes = {"K": K, "N": N, "bits": form.bits, "block_size": form.block, "accuracy_level": 4}
    node = helper.make_node("MatMulNBits", ["x", "numbers", "scales"], ["y"], domain="com.microsoft", **attributes)
    found = run(node, {"x": activations.numpy()}, {"numbers": packed(numbers, form).numpy(), "scales": scales.numpy()})
    expected = as_computed(activations, form) @ restored(numbers, scales, K).T
    assert np.abs(found - expected.numpy()).max() <= 2e-3 * float(expected.abs().max())


def test_the_product_per_token_is_exact_integer_arithmetic() -> None:
    activations, weight = torch.randn(M, K) * torch.tensor([1, 1e-3, 1e3, 50, 0.0])[:, None], weights()
    numbers, scales = quantized(weight, INT8)
    token_scales = activations.abs().amax(1, keepdim=True).clamp_min(1e-12) / 127
    rounded = ((activations / token_scales).round() + ZERO_POINT).to(torch.uint8)
    names = ["x", "numbers", "token_scales", "scales", "zero"]
    node = helper.make_node("MatMulIntegerToFloat", names, ["y"], domain="com.microsoft")
    constants = {"numbers": numbers[:, 0].T.contiguous().numpy(), "scales": scales[:, 0].numpy()}
    constants["zero"] = np.array(ZERO_POINT, np.uint8)
    found = run(node, {"x": rounded.numpy(), "token_scales": token_scales.numpy()}, constants)
    expected = as_computed(activations.double(), INT8) @ restored(numbers, scales.double(), K).T
    assert np.allclose(found, expected.numpy(), rtol=1e-5, atol=1e-5 * token_scales.numpy())


@pytest.mark.parametrize("form", [TABLE8, BLOCKS8, BLOCKS4], ids=lambda form: form.name)
def test_gatherblockquantized_reads_the_table_we_wrote(form: Format) -> None:
    table, ids = weights(64, 256), np.array([[0, 63, 7]])
    numbers, scales = quantized(table, form)
    attributes = {"gather_axis": 0, "quantize_axis": 1, "block_size": form.block, "bits": form.bits}
    node = helper.make_node("GatherBlockQuantized", ["numbers", "ids", "scales"], ["y"], domain="com.microsoft", **attributes)
    constants = {"numbers": packed(numbers, form).flatten(1).numpy(), "scales": scales.numpy()}
    found = run(node, {"ids": ids}, constants)
    assert np.abs(found[0] - restored(numbers, scales, 256)[ids[0]].numpy()).max() <= 1e-7


@settings(max_examples=100, deadline=None)
@given(
    st.integers(1, 5), st.integers(1, 130), st.integers(0, 2**31), st.floats(-12, 12), st.sampled_from([INT8, BLOCKS8, TABLE8])
)
def test_8_bits_are_never_further_off_than_half_a_step(rows: int, columns: int, seed: int, size: float, form: Format) -> None:
    weight = weights(rows, columns, seed) * 10.0**size
    numbers, scales = quantized(weight, form)
    steps = scales[..., None].expand_as(numbers).flatten(1)[:, :columns]
    off = (restored(numbers, scales, columns) - weight).abs()
    assert bool((off <= steps * 0.5001).all())
    assert int(numbers.min()) >= -127


def test_4_bits_are_searched_and_beat_the_nearest_value() -> None:
    weight = weights(256, 512)
    blocks = weight.reshape(256, -1, 32)
    peak = blocks.gather(-1, blocks.abs().argmax(-1, keepdim=True)) / -8
    nearest = ((blocks / peak).round().clamp(-8, 7) * peak).flatten(1)
    ours = restored(*quantized(weight, BLOCKS4), 512)
    assert float((ours - weight).square().sum()) < 0.92 * float((nearest - weight).square().sum())


def test_channels_that_matter_are_kept_better() -> None:
    weight, importance = weights(256, 512), torch.ones(512)
    importance[::32] = 100
    plain, weighted = restored(*quantized(weight, BLOCKS4), 512), restored(*quantized(weight, BLOCKS4, importance), 512)
    loud = lambda found: float((found - weight)[:, ::32].square().sum())  # noqa: E731
    assert loud(weighted) < 0.5 * loud(plain)


@pytest.mark.parametrize("form", [INT8, BLOCKS8, BLOCKS4, TABLE8], ids=lambda form: form.name)
def test_zeros_and_lone_values_survive(form: Format) -> None:
    weight = torch.zeros(2, 64)
    weight[1, 40] = -3.5
    found = restored(*quantized(weight, form), 64)
    assert torch.equal(found[0], torch.zeros(64))
    assert abs(float(found[1, 40]) + 3.5) < 1e-6
    assert float(found.abs().sum()) == pytest.approx(3.5)


def test_the_error_of_one_massive_token_does_not_hide_the_others() -> None:
    activations, weight = torch.randn(64, K), weights()

    def lost() -> float:
        return error(as_computed(activations, BLOCKS4), weight, activations @ weight.T, BLOCKS4, torch.ones(K))

    ordinary = lost()
    activations[0] *= 1e4
    assert lost() == pytest.approx(ordinary, rel=0.01)


@pytest.mark.parametrize("form", [INT8, BLOCKS8, BLOCKS4], ids=lambda form: form.name)
def test_a_row_does_not_depend_on_the_rows_it_is_rounded_with(form: Format) -> None:
    """Large weights are rounded some rows at a time."""
    weight, importance = torch.randn(3, CHUNK // 2) * 0.02, torch.rand(CHUNK // 2) + 0.1
    numbers, scales = quantized(weight, form, importance)
    for row in range(3):
        alone = quantized(weight[row : row + 1], form, importance)
        assert torch.equal(numbers[row], alone[0][0])
        assert torch.equal(scales[row], alone[1][0])
