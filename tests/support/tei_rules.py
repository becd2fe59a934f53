"""What text-embeddings-inference 1.9.3 asks of a local folder before its ONNX backend serves it, read from its source.

Source: huggingface/text-embeddings-inference, commit 0d124dc9773be6ac5a9a57d8439aba9bbbf33273. The server is not run here.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx
from onnx import TensorProto
from tokenizers import Tokenizer

ROUTER, BACKEND, ORT = "router/src/lib.rs", "backends/src/lib.rs", "backends/ort/src/lib.rs"
ONNXRUNTIME = "1.22.0"
"""Cargo.lock pins ort 2.0.0-rc.10, whose build script takes this version of ONNX Runtime."""
LIMIT_NAMES = ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
"""core/src/download.rs: sentence_*_config.json, of which the first that is there limits the length."""


def problems(folder: Path) -> list[str]:
    """Why it would not be served, or not as an embedding model with last-token pooling; each with the file that says so."""
    graph_file = _graph_file(folder)
    if graph_file is None:
        found = [f"no model.onnx and no onnx/model.onnx ({ORT}, OrtBackend::new)"]
    else:
        model = onnx.load(graph_file, load_external_data=False)
        prefix = graph_file.parent.relative_to(folder)
        found = [*_external_data(model, prefix), *_inputs(model, folder), *_outputs(model), *_operators(model)]
    return [*_config(folder), *_pooling(folder), *_tokenizer(folder), *_lengths(folder), *_prompts(folder), *found]


def _graph_file(folder: Path) -> Path | None:
    return next((folder / name for name in ("model.onnx", "onnx/model.onnx") if (folder / name).is_file()), None)


def _external_data(model: onnx.ModelProto, prefix: Path) -> Iterator[str]:
    """From the hub it downloads only what begins with the name of the graph."""
    entries = (entry for tensor in model.graph.initializer for entry in tensor.external_data)
    for location in sorted({entry.value for entry in entries if entry.key == "location"}):
        if not (prefix / location).as_posix().startswith(("model.onnx", "onnx/model.onnx")):
            yield f"weights in {location}, expected model.onnx_data ({BACKEND}, download_onnx)"


def _inputs(model: onnx.ModelProto, folder: Path) -> Iterator[str]:
    """Each input has to be one that it feeds; it always feeds the first two."""
    tensors = {value.name: value.type.tensor_type for value in model.graph.input}
    where = f"({ORT}, prepare_ort_inputs)"
    for name in ("input_ids", "attention_mask"):
        if name not in tensors:
            yield f"no input {name} {where}"
    for name, tensor in tensors.items():
        caches = name.startswith("past_key_values.")
        if not caches and name not in ("input_ids", "attention_mask", "token_type_ids", "position_ids"):
            yield f"input {name} is never fed {where}"
            continue
        wanted = (TensorProto.FLOAT, 4) if caches else (TensorProto.INT64, 2)
        if (tensor.elem_type, len(tensor.shape.dim)) != wanted:
            yield f"input {name} is {_described(tensor)}, expected {_name(*wanted)} {where}"
        elif caches:
            config = _read(folder / "config.json")
            size = config["hidden_size"] // (config.get("num_key_value_heads") or config["num_hidden_layers"])
            if tensor.shape.dim[3].dim_value not in (0, size):  # 0: not said
                yield f"input {name} has heads of {tensor.shape.dim[3].dim_value}, fed with {size} ({ORT}, prepare_inputs)"


def _outputs(model: onnx.ModelProto) -> Iterator[str]:
    """The first of these that is there is taken; the first is already pooled."""
    tensors = {value.name: value.type.tensor_type for value in model.graph.output}
    for name, rank in (("sentence_embedding", 2), ("last_hidden_state", 3), ("token_embeddings", 3)):
        if name in tensors:
            if (tensors[name].elem_type, len(tensors[name].shape.dim)) != (TensorProto.FLOAT, rank):
                wanted = _name(TensorProto.FLOAT, rank)
                yield f"output {name} is {_described(tensors[name])}, expected {wanted} ({ORT}, embed)"
            return
    yield f"outputs are {', '.join(tensors)}, expected sentence_embedding, last_hidden_state or token_embeddings ({ORT}, embed)"


def _operators(model: onnx.ModelProto) -> Iterator[str]:
    """What ONNX Runtime 1.22.0 refuses, seen by loading every quant with it."""
    found = set()
    for node in _nodes(model.graph):
        bits = {attribute.name: attribute.i for attribute in node.attribute}.get("bits")
        if (node.op_type == "GatherBlockQuantized" and bits) or (node.op_type == "MatMulNBits" and bits == 8):
            found.add(f"{node.op_type} of {bits} bits needs onnxruntime 1.23")
        if node.op_type == "GroupQueryAttention" and len(node.output) < 3:
            found.add(f"{node.op_type} with {len(node.output)} output needs onnxruntime 1.28")
    for needed in sorted(found):
        yield f"{needed}, it has {ONNXRUNTIME} (Cargo.lock, ort 2.0.0-rc.10)"


def _nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """Those of branches too."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            yield from _nodes(attribute.g)


def _config(folder: Path) -> Iterator[str]:
    config = _read(folder / "config.json")
    if config is None:
        yield f"no config.json ({ROUTER}, run)"
        return
    architectures = config.get("architectures")
    if not isinstance(architectures, list) or not isinstance(config.get("model_type"), str):
        yield f"config.json: architectures and model_type are mandatory ({ROUTER}, ModelConfig)"
    elif any(name.endswith("Classification") for name in architectures):
        yield f"config.json: architectures are {architectures}, served as a classifier ({ROUTER}, get_backend_model_type)"
    if not any(_is_whole(config.get(name)) for name in ("max_position_embeddings", "max_trained_positions")):
        yield f"config.json: max_position_embeddings is mandatory ({ROUTER}, run)"
    for name, alias in (("hidden_size", "n_embd"), ("num_hidden_layers", "n_layer")):
        if not _is_whole(config.get(name, config.get(alias))):
            yield f"config.json: {name} is mandatory ({ORT}, Config)"
    for name in ("pad_token_id", "eos_token_id", "num_key_value_heads"):
        if config.get(name) is not None and not _is_whole(config[name]):
            yield f"config.json: {name} is {config[name]!r}, expected a whole number ({ORT}, Config)"


def _pooling(folder: Path) -> Iterator[str]:
    """The booleans of the old form, two of which are mandatory; the first of three that is true counts."""
    pooling = _read(folder / "1_Pooling/config.json")
    if pooling is None:
        yield f"no 1_Pooling/config.json ({ROUTER}, get_backend_model_type)"
        return
    modes = [f"pooling_mode_{mode}" for mode in ("cls_token", "mean_tokens", "lasttoken")]
    for mode in modes[:2]:
        if not isinstance(pooling.get(mode), bool):
            yield f"1_Pooling/config.json: {mode} is mandatory ({ROUTER}, PoolConfig)"
            return
    chosen = next((mode for mode in modes if pooling.get(mode) is True), None)
    if chosen != "pooling_mode_lasttoken":
        yield f"1_Pooling/config.json: pooling is {chosen}, expected pooling_mode_lasttoken ({ROUTER}, Pool::try_from)"


def _tokenizer(folder: Path) -> Iterator[str]:
    try:
        Tokenizer.from_file(str(folder / "tokenizer.json"))
    except Exception as error:  # what tokenizers raises has no narrower class
        yield f"tokenizer.json: {error} ({ROUTER}, run)"
    side = (_read(folder / "tokenizer_config.json") or {}).get("padding_side", "right")
    if side not in ("left", "right"):
        yield f"tokenizer_config.json: padding_side is {side!r}, expected left or right ({ORT}, TokenizerConfig)"


def _lengths(folder: Path) -> Iterator[str]:
    for name in (f"sentence_{name}_config.json" for name in LIMIT_NAMES):
        config = _read(folder / name)
        if config is not None:
            if not _is_whole(config.get("max_seq_length")):
                yield f"{name}: max_seq_length is mandatory ({ROUTER}, STConfig)"
            return


def _prompts(folder: Path) -> Iterator[str]:
    prompts = (_read(folder / "config_sentence_transformers.json") or {}).get("prompts") or {}
    if not all(isinstance(prompt, str) for prompt in prompts.values()):
        yield f"config_sentence_transformers.json: a prompt is no text ({ROUTER}, NewSTConfig)"


def _read(path: Path) -> Any:
    return json.loads(path.read_text("utf-8")) if path.is_file() else None


def _is_whole(value: object) -> bool:
    return type(value) is int and value >= 0


def _described(tensor: Any) -> str:
    return _name(tensor.elem_type, len(tensor.shape.dim))


def _name(elem_type: int, rank: int) -> str:
    return f"{TensorProto.DataType.Name(elem_type).lower()} of rank {rank}"
