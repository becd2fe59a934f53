"""What text-embeddings-inference would say of a folder, by its source; test_full_interop.py loads one as it does."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import TensorProto, helper
from tests.support.tei_rules import problems

from q3_export import export_model


@pytest.fixture(scope="module")
def laid_out(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_model(checkpoint, quant="fp32", layout="tei", out=tmp_path_factory.mktemp("tei") / "tiny-onnx")


@pytest.fixture
def copy(laid_out: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(laid_out, tmp_path / "copy"))


def test_an_export_with_its_layout_is_served(laid_out: Path) -> None:
    assert problems(laid_out) == []


def test_a_graph_that_has_attention_for_short_texts_is_too_new_for_it(folder: Path) -> None:
    (found,) = problems(folder)
    assert found.startswith("GroupQueryAttention with 1 output needs onnxruntime 1.28, it has 1.22.0")


def test_a_folder_without_its_file_is_not(copy: Path) -> None:
    (copy / "onnx/model.onnx").rename(copy / "onnx/model_fp32.onnx")
    assert problems(copy) == ["no model.onnx and no onnx/model.onnx (backends/ort/src/lib.rs, OrtBackend::new)"]


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("config.json", {"eos_token_id": [1, 2]}, r"eos_token_id is \[1, 2\], expected a whole number"),
        ("config.json", {"hidden_size": None}, "hidden_size is mandatory"),
        ("config.json", {"max_position_embeddings": None}, "max_position_embeddings is mandatory"),
        ("config.json", {"architectures": ["Qwen3ForSequenceClassification"]}, "served as a classifier"),
        ("1_Pooling/config.json", {"pooling_mode_cls_token": None}, "pooling_mode_cls_token is mandatory"),
        ("1_Pooling/config.json", {"pooling_mode_mean_tokens": True}, "pooling is pooling_mode_mean_tokens, expected"),
        ("tokenizer_config.json", {"padding_side": "middle"}, "padding_side is 'middle', expected left or right"),
        ("sentence_bert_config.json", {"transformer_task": "feature-extraction"}, "max_seq_length is mandatory"),
        ("config_sentence_transformers.json", {"prompts": {"query": 1}}, "a prompt is no text"),
    ],
)
def test_a_side_file_that_it_cannot_read_is_named(copy: Path, file: str, change: dict[str, Any], message: str) -> None:
    path = copy / file
    content = json.loads(path.read_text("utf-8")) if path.exists() else {}
    path.write_text(json.dumps(content | change), "utf-8")
    (found,) = problems(copy)
    assert re.search(message, found)


@pytest.mark.parametrize(
    ("side", "value", "message"),
    [
        ("input", helper.make_tensor_value_info("use_cache", TensorProto.BOOL, [1]), "input use_cache is never fed"),
        (
            "input",
            helper.make_tensor_value_info("past_key_values.0.key", TensorProto.FLOAT, ["b", 2, "past", 64]),
            "has heads of 64, fed with 32",
        ),
        ("output", helper.make_tensor_value_info("sentence_embedding", TensorProto.FLOAT16, ["b", 64]), "is float16 of rank 2"),
        ("output", helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["b", 64]), "outputs are embedding, expected"),
    ],
)
def test_a_graph_that_it_cannot_feed_or_read_is_named(copy: Path, side: str, value: Any, message: str) -> None:
    model = onnx.load(copy / "onnx/model.onnx", load_external_data=False)
    values = getattr(model.graph, side)
    if side == "output":
        del values[:]
    values.append(value)
    onnx.save(model, copy / "onnx/model.onnx")
    (found,) = problems(copy)
    assert message in found
