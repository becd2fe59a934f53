"""A folder of ours whose files were changed, with a manifest that says so: what a malicious author would publish."""

import json
from collections.abc import Callable
from pathlib import Path

import onnx

from q3_runtime.hash_memory import sha256

GRAPH, DATA = "onnx/model.onnx", "onnx/model.onnx_data"


def sign(folder: Path) -> Path:
    """Write sizes and hashes of the files as they are now into q3.json."""
    path = folder / "q3.json"
    content = json.loads(path.read_text("utf-8"))
    for files in (content["files"], *(entry["files"] for entry in content["quants"].values())):
        for name in files:
            files[name] = {"bytes": (folder / name).stat().st_size, "sha256": sha256(folder / name)}
    path.write_text(json.dumps(content), encoding="utf-8")
    return folder


def with_graph(folder: Path, change: Callable[[onnx.ModelProto], object]) -> Path:
    """The folder with its graph changed, and signed."""
    model = onnx.load(folder / GRAPH, load_external_data=False)
    change(model)
    (folder / GRAPH).write_bytes(model.SerializeToString())
    return sign(folder)


def external(model: onnx.ModelProto) -> onnx.TensorProto:
    """Its first tensor whose bytes are in the data file."""
    return next(tensor for tensor in model.graph.initializer if tensor.data_location == onnx.TensorProto.EXTERNAL)


def set_entry(tensor: onnx.TensorProto, key: str, value: str) -> None:
    """One entry of its external data, changed or added."""
    for entry in tensor.external_data:
        if entry.key == key:
            entry.value = value
            return
    tensor.external_data.add(key=key, value=value)
