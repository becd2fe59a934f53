"""float16: powers of two that keep it finite, on checkpoints that spike as the published ones do."""

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.support import spikes
from tests.support.checkpoints import write_checkpoint
from transformers import AutoModel

from q3_export import export_model
from q3_export.calibration import ActivationRanges
from q3_export.checkpoint import open_checkpoint
from q3_export.probes import read_probes, run_reference
from q3_export.rescaling import Rescaling
from q3_runtime.errors import FidelityError
from q3_runtime.manifest import Manifest

SPIKES = {"8B": spikes.OF_8B, "fine-tune": spikes.OF_FINE_TUNE}
FLOOR = 0.999


def spiky(folder: Path, spike: spikes.Spike) -> Path:
    """A tiny checkpoint that spikes for every query: on the first token of the official prompt."""
    write_checkpoint(folder)
    probes = read_probes(None, open_checkpoint(folder))
    return spikes.plant(folder, sorted({probe.ids[0] for probe in probes if probe.kind == "query"}), spike)


@pytest.fixture(scope="module", params=SPIKES)
def checkpoint_that_spikes(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return spiky(tmp_path_factory.mktemp("spikes") / request.param, SPIKES[request.param])


def rescaling_of(folder: Path) -> Rescaling:
    opened = open_checkpoint(folder)
    return Rescaling.from_ranges(run_reference(opened, read_probes(None, opened)).ranges)


def in_half(folder: Path, rescaling: Rescaling) -> tuple[np.ndarray, np.ndarray]:
    """Vectors of the short queries by PyTorch, in float16 with rescaled weights and in float32 as they are."""
    opened = open_checkpoint(folder)
    ids = [probe.ids for probe in read_probes(None, opened) if probe.kind == "query"]
    half, single = (AutoModel.from_pretrained(folder, dtype=dtype).eval() for dtype in (torch.float16, torch.float32))
    weights = {name: (opened.float32(name) * rescaling.factor(name)).half() for name in half.state_dict()}
    half.load_state_dict(weights)
    for module in half.modules():
        if hasattr(module, "variance_epsilon") and module.weight.shape[0] == opened.dims:
            module.variance_epsilon *= rescaling.norm_epsilon
    with torch.inference_mode():
        found = [
            torch.stack([model(torch.tensor([row])).last_hidden_state[0, -1].float() for row in ids])
            for model in (half, single)
        ]
    return found[0].numpy(), found[1].numpy()


def cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)


def test_a_plain_float16_conversion_is_not_finite(checkpoint_that_spikes: Path) -> None:
    plain = Rescaling(0, (0,) * open_checkpoint(checkpoint_that_spikes).layers)
    half, single = in_half(checkpoint_that_spikes, plain)
    assert np.isfinite(single).all()
    assert not np.isfinite(half).all(axis=1).any()


def test_the_rescaled_weights_are_finite_and_right_in_float16_arithmetic(checkpoint_that_spikes: Path) -> None:
    rescaling = rescaling_of(checkpoint_that_spikes)
    assert rescaling.residual_shift or any(rescaling.up_shifts)
    half, single = in_half(checkpoint_that_spikes, rescaling)
    assert cosines(half, single).min() >= FLOOR


def test_its_export_reaches_the_floor_on_all_probes_and_names_the_shifts(checkpoint_that_spikes: Path, tmp_path: Path) -> None:
    out = export_model(checkpoint_that_spikes, quant="fp16", out=tmp_path / "out")
    entry = Manifest.read(out).quants["fp16"]
    assert entry.fidelity["min"] >= FLOOR
    assert entry.fidelity["probes"] == 128
    rescaling = rescaling_of(checkpoint_that_spikes)
    assert entry.recipe["residual_shift"] == rescaling.residual_shift
    assert entry.recipe["up_shifts"] == {
        f"layers.{layer}.mlp.up_proj": shift for layer, shift in enumerate(rescaling.up_shifts) if shift
    }


def test_a_checkpoint_without_spikes_is_not_rescaled_and_reaches_the_floor(checkpoint: Path, tmp_path: Path) -> None:
    out = export_model(checkpoint, quant="fp16", out=tmp_path / "out", pooled_only=True)
    entry = Manifest.read(out).quants["fp16"]
    assert entry.fidelity["min"] >= FLOOR
    assert entry.fidelity["batch_invariance"] >= 0.9999
    assert (entry.recipe["residual_shift"], entry.recipe["up_shifts"]) == (0, {})
    graph = onnx.load(out / "onnx/model_fp16.onnx", load_external_data=False).graph
    weights = [tensor for tensor in graph.initializer if tensor.name.endswith(".weight")]
    assert {tensor.data_type for tensor in weights} == {onnx.TensorProto.FLOAT16}
    assert "SkipSimplifiedLayerNormalization" not in {node.op_type for node in graph.node}  # CUDA sums its squares in float16


def test_a_text_that_overflows_and_that_calibration_did_not_show_exits_4_and_suggests_q8(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "checkpoint")
    opened = open_checkpoint(folder)
    seen = {number for probe in read_probes(None, opened, judging=False) for number in probe.ids}
    trigger = next(probe.ids[0] for probe in read_probes(None, opened) if probe.ids[0] not in seen)
    weights = load_file(folder / "model.safetensors")
    weights["embed_tokens.weight"][trigger, 3] = 2e5  # finite in bf16 and float32, not in float16
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(FidelityError, match=r"fp16: .*not finite.*try another quant, q8 or fp32") as caught:
        export_model(folder, quant="fp16", out=tmp_path / "out")
    assert caught.value.exit_code == 4
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("largest", "shift"), [(0.0, 0), (399, 0), (8_141, 0), (8_189, 1), (14_858, 1), (65_504, 3), (125_067, 4)]
)
def test_shifts_are_the_smallest_that_leave_a_margin_of_eight(largest: float, shift: int) -> None:
    ranges = ActivationRanges(first_row=0, residual=largest, mlp=[1.0, largest])
    rescaling = Rescaling.from_ranges(ranges)
    assert (rescaling.residual_shift, rescaling.up_shifts) == (shift, (0, shift))
    assert largest * 2.0**-shift * 8 <= 65_504


def test_factors_cancel_out() -> None:
    rescaling = Rescaling(residual_shift=2, up_shifts=(0, 3))
    factor = {name: rescaling.factor(f"layers.1.mlp.{name}.weight") for name in ("gate_proj", "up_proj", "down_proj")}
    assert factor == {"gate_proj": 1, "up_proj": 1 / 8, "down_proj": 8 / 4}
    assert rescaling.factor("embed_tokens.weight") == rescaling.factor("layers.0.self_attn.o_proj.weight") == 1 / 4
    assert rescaling.factor("norm.weight") == rescaling.factor("layers.0.self_attn.q_norm.weight") == 1
    assert rescaling.norm_epsilon == 1 / 16


def test_probes_are_not_calibrated_on(checkpoint: Path) -> None:
    opened = open_checkpoint(checkpoint)
    probes = read_probes(None, opened)
    calibration = read_probes(None, opened, judging=False)
    assert not {probe.text for probe in probes} & {probe.text for probe in calibration}
    assert sum(len(probe.ids) for probe in calibration) > 5_000
    both, alone = run_reference(opened, probes), run_reference(opened, probes, run_reference(opened, probes).golden)
    assert both.ranges.residual == alone.ranges.residual
    assert both.ranges.mlp == alone.ranges.mlp
    np.testing.assert_array_equal(both.calibration, alone.calibration)
