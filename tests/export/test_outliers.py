"""Checkpoints with outliers: evidence only if onnxruntime's own quantize_dynamic fails on them and 8-bit blocks do not."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tests.conftest import SHARED
from tests.support import fake_quantization, onnxruntime_quantizers
from tests.support.checkpoints import MINI, write_checkpoint, write_full_checkpoint
from tests.support.fake_quantization import Figures, Measured
from tests.support.outliers import is_evidence, make_outliers, quietest_channel, roughen
from tests.support.spikes import OF_06B
from tests.support.stored_weights import StoredWeights
from tests.support.triggers import choose_triggers

from q3_export import export_model
from q3_export.checkpoint import open_checkpoint
from q3_export.probes import read_probes
from q3_runtime.golden import Golden
from q3_runtime.manifest import Manifest


@pytest.fixture(scope="session")
def healthy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """At this embedding std six layers are as sensitive as the published weights; 28 layers are at 1.5."""
    return write_checkpoint(tmp_path_factory.mktemp("healthy") / "Healthy-Embedding", MINI, embedding_std=0.5)


@pytest.fixture(scope="session")
def outliers(healthy: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """mini with outliers is in tests/parity/test_quants.py."""
    return make_outliers(healthy, tmp_path_factory.mktemp("outliers") / "Outlier-Embedding")


@pytest.fixture(scope="session")
def exported(outliers: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_model(outliers, quant="fp32", out=tmp_path_factory.mktemp("exported") / "outliers-onnx")


def by_onnxruntime(exported: Path, home: Path) -> dict[str, Figures]:
    """What onnxruntime's own quantizers leave of an exported folder's vectors."""
    quantizers = {
        "quantize_dynamic": onnxruntime_quantizers.dynamic,
        "8-bit blocks": onnxruntime_quantizers.blocks(8),
        "4-bit blocks": onnxruntime_quantizers.blocks(4),
    }
    found = {
        name: onnxruntime_quantizers.figures(onnxruntime_quantizers.requantize(exported, home / name, quantizer))
        for name, quantizer in quantizers.items()
    }
    print(f"\n{exported.name}: " + ", ".join(f"{name} {figures}" for name, figures in found.items()))
    return found


def test_the_noise_gain_of_the_healthy_checkpoint_is_that_of_the_published_weights(healthy: Path) -> None:
    found = fake_quantization.figures(healthy)
    print(f"\nhealthy: {', '.join(f'{name} {figures}' for name, figures in found.items())}")
    assert found["8-bit"].mean >= 0.9995
    assert found["8-bit"].min >= 0.999
    assert found["4-bit"].mean >= 0.94


def test_quantize_dynamic_fails_and_8_bit_blocks_do_not(exported: Path, tmp_path: Path) -> None:
    found = by_onnxruntime(exported, tmp_path)
    assert is_evidence(found["quantize_dynamic"], found["8-bit blocks"])


def test_the_fp32_export_keeps_its_floor_and_separates_texts(exported: Path) -> None:
    fidelity = Manifest.read(exported).quants["fp32"].fidelity
    assert fidelity["probes"] == 128
    assert fidelity["min"] >= 0.99999
    vectors = Golden.read(exported).vectors
    assert (vectors @ vectors.T)[~np.eye(len(vectors), dtype=bool)].mean() <= 0.4


def test_one_scale_per_token_is_enough(outliers: Path) -> None:
    """Else the outliers would lie within the rows, and the published weights' do not."""
    token = Measured(outliers).figures("token")
    print(f"\none scale per token, plain: {token}")
    assert token.mean >= 0.99
    assert token.min >= 0.98


def test_most_probes_spike_and_their_last_token_never_does(healthy: Path) -> None:
    triggers = choose_triggers(healthy)
    probes = read_probes(None, open_checkpoint(healthy))
    print(f"\n{triggers.fires:.0%} of the probes spike, {triggers.inside:.2%} of the tokens inside")
    assert triggers.fires >= 0.75
    assert triggers.inside <= 0.01
    assert not {probe.ids[-1] for probe in probes} & set(triggers.ids)
    assert {probe.ids[0] for probe in probes if probe.kind == "query"} <= set(triggers.ids)


def test_inverse_smoothing_changes_no_vector_by_a_bit(healthy: Path, tmp_path: Path) -> None:
    rough = Path(shutil.copytree(healthy, tmp_path / "rough"))
    weights = StoredWeights(rough)
    roughen(weights, 16, OF_06B, 0)
    weights.save()
    changed = load_file(rough / "model.safetensors")
    assert sum(not torch.equal(tensor, changed[name]) for name, tensor in load_file(healthy / "model.safetensors").items()) > 50
    ids = [probe.ids for probe in read_probes(None, open_checkpoint(healthy)) if len(probe.ids) <= 64]
    assert torch.equal(Measured(rough, ids).vectors, Measured(healthy, ids).vectors)


def test_same_seed_same_weights_whatever_the_shards_and_names(tmp_path: Path) -> None:
    first, again, other = (
        StoredWeights(make_outliers(write_checkpoint(tmp_path / f"source-{name}", **layout), tmp_path / name, seed=seed))
        for name, seed, layout in (("a", 1, {}), ("b", 1, {"prefix": "model.", "shards": 3}), ("c", 2, {}))
    )
    assert all(torch.equal(tensor, again[name]) for name, tensor in first.tensors.items())
    assert not all(torch.equal(tensor, other[name]) for name, tensor in first.tensors.items())
    index = json.loads((tmp_path / "b/model.safetensors.index.json").read_text("utf-8"))["weight_map"]
    assert {name: file for file in set(index.values()) for name in load_file(tmp_path / "b" / file)} == index


def test_the_spike_takes_the_channels_that_are_used_least(healthy: Path) -> None:
    weights = StoredWeights(healthy)
    for name in weights.named("o_proj.weight", "down_proj.weight"):
        weights[name][[40, 41]] *= 0.5
    assert quietest_channel(weights) == 40


@pytest.mark.full("quant")
def test_at_the_full_shape_quantize_dynamic_fails_and_8_bit_blocks_do_not(real_tokenizer: Path, tmp_path: Path) -> None:
    """On short probes: a pass over all of them takes minutes for each of the graphs."""
    source = write_full_checkpoint("0.6B", tmp_path, SHARED)
    target = make_outliers(source, tmp_path / "Outlier-0.6B", gamma=4)
    probes = [probe for probe in read_probes(None, open_checkpoint(source)) if 4 <= len(probe.ids) <= 64][::4]
    lines = [json.dumps(vars(probe)) for probe in probes]
    (tmp_path / "probes.jsonl").write_text("\n".join(lines), "utf-8")
    exported = export_model(target, quant="fp32", out=tmp_path / "out", probes=tmp_path / "probes.jsonl")
    found = by_onnxruntime(exported, tmp_path)
    assert is_evidence(found["quantize_dynamic"], found["8-bit blocks"])
