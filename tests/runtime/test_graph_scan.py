"""What a graph refers to: read as onnx reads it, and refused before onnxruntime sees it (R3)."""

import contextlib
import shutil
import struct
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from tests.support.signing import DATA, GRAPH, external, set_entry, sign, with_graph

from q3_runtime import Embedder, graph_scan, session
from q3_runtime.errors import IntegrityError
from q3_runtime.graph_scan import External, GraphError, scan, scan_bytes


@pytest.fixture
def copy(folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(folder, tmp_path / "copy"))


@pytest.fixture
def never_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails the test where a graph gets as far as onnxruntime."""

    def opened(path: Path, *_: object) -> None:
        pytest.fail(f"{path} was given to onnxruntime")

    monkeypatch.setattr(session, "load_graph", opened)


def read_by_onnx(path: Path) -> tuple[list[External], set[tuple[str, str]], set[str]]:
    model = onnx.load(path, load_external_data=False)

    def externals(graph: onnx.GraphProto) -> list[External]:
        found = []
        for tensor in graph.initializer:
            if tensor.data_location == TensorProto.EXTERNAL:
                entry = {item.key: item.value for item in tensor.external_data}
                found.append(External(tensor.name, entry["location"], int(entry["offset"]), int(entry["length"])))
        return found

    def nodes(graph: onnx.GraphProto) -> set[tuple[str, str]]:
        below = [a.g for node in graph.node for a in node.attribute if a.type == onnx.AttributeProto.GRAPH]
        return {(node.domain, node.op_type) for node in graph.node}.union(*map(nodes, below))

    return externals(model.graph), nodes(model.graph), {opset.domain for opset in model.opset_import}


def test_every_graph_of_ours_is_read_as_onnx_reads_it_and_in_no_time(mini_folder, reranker_folder):
    graphs = [*mini_folder.glob("onnx/*.onnx"), *reranker_folder.glob("onnx/*.onnx")]
    assert len(graphs) >= 8
    for path in graphs:
        started = time.process_time()
        found = scan(path)
        assert time.process_time() - started < 1
        assert (found.external, found.operators, found.domains) == read_by_onnx(path)
        assert found.rare == set()
        assert len(found.external) > 40
        assert {item.location for item in found.external} == {f"{path.name}_data"}


def entry(key: str, value: str) -> Callable[[onnx.ModelProto], object]:
    return lambda model: set_entry(external(model), key, value)


def everywhere_else(add: Callable[[onnx.ModelProto, TensorProto], object]) -> Callable[[onnx.ModelProto], object]:
    """A tensor that lies in /etc/passwd, at another place than among the initializers."""

    def change(model: onnx.ModelProto) -> None:
        tensor = numpy_helper.from_array(np.zeros(2, np.float32), "t")
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        set_entry(tensor, "location", "/etc/passwd")
        add(model, tensor)

    return change


def in_an_attribute(model: onnx.ModelProto, tensor: TensorProto) -> None:
    model.graph.node.append(helper.make_node("Constant", [], ["c"], value=tensor))


def in_a_list_of_tensors(model: onnx.ModelProto, tensor: TensorProto) -> None:
    node = helper.make_node("Constant", [], ["c"])
    node.attribute.append(helper.make_attribute("values", [tensor]))
    model.graph.node.append(node)


def in_a_subgraph(model: onnx.ModelProto, tensor: TensorProto) -> None:
    graph = helper.make_graph([], "inner", [], [], [tensor])
    model.graph.node.append(helper.make_node("If", ["x"], ["c"], then_branch=graph, else_branch=graph))


def sparse(model: onnx.ModelProto) -> None:
    values, indices = numpy_helper.from_array(np.ones(1, np.float32), "s"), numpy_helper.from_array(np.zeros(1, np.int64), "i")
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, [4]))


def sparse_attribute(model: onnx.ModelProto) -> None:
    values, indices = numpy_helper.from_array(np.ones(1, np.float32), "s"), numpy_helper.from_array(np.zeros(1, np.int64), "i")
    value = helper.make_sparse_tensor(values, indices, [4])
    model.graph.node.append(helper.make_node("Constant", [], ["c"], sparse_value=value))


def function(model: onnx.ModelProto) -> None:
    opset = [helper.make_opsetid("", 21)]
    model.functions.append(helper.make_function("com.microsoft", "MatMulNBits", ["a"], ["b"], [], opset))


def unnamed_input(operator: str) -> Callable[[onnx.ModelProto], object]:
    """With it onnxruntime 1.31 ends the process: found by test_fuzz."""
    return lambda model: model.graph.node.append(helper.make_node(operator, ["input_ids", ""], ["c"]))


ATTACKS = {
    "a path above the folder": (entry("location", "../secret"), "'../secret', which is not a file of this quant"),
    "an absolute path": (entry("location", "/etc/passwd"), "'/etc/passwd', which is not a file"),
    "a path with a detour": (entry("location", "x/../../secret"), "which is not a file of this quant"),
    "a path of Windows": (entry("location", "C:\\secret"), "which is not a file of this quant"),
    "a file that is not listed": (entry("location", "other_data"), "'other_data', which is not a file of this quant"),
    "the graph itself, by another name": (entry("location", "./model.onnx_data"), "which is not a file of this quant"),
    "a place in memory": (entry("location", "*/_ORT_MEM_ADDR_/*"), "which is not a file of this quant"),
    "a line end in the name": (entry("location", "model.onnx_data\n"), "which is not a file of this quant"),
    "no name": (entry("location", ""), "external data without a location"),
    "a name without an end": (entry("location", "a" * 5000), "a name of 5000 bytes"),
    "an offset behind the end": (entry("offset", "999999999999"), "ends at byte"),
    "a negative offset": (entry("offset", "-4"), "offset '-4' in its external data, expected a number"),
    "an offset that is no number": (entry("offset", "0x10"), "expected a number"),
    "digits of another script": (entry("offset", "٣"), "expected a number"),
    "an offset of 40 digits": (entry("offset", "9" * 40), "expected a number"),
    "a length behind the end": (entry("length", "999999999999"), "ends at byte"),
    "an unknown key": (entry("__class__", "x"), "'__class__' in its external data"),
    "a key that stands twice": (
        lambda model: external(model).external_data.add(key="location", value="../secret"),
        "'location' in its external data, expected location, offset and length once",
    ),
    "data without a mark": (lambda model: set_entry(external(model), "basepath", "/etc"), "'basepath' in its external data"),
    "a tensor of a node": (everywhere_else(in_an_attribute), "'/etc/passwd', which is not"),
    "a list of tensors of a node": (everywhere_else(in_a_list_of_tensors), "'/etc/passwd', which is not"),
    "a tensor of a subgraph": (everywhere_else(in_a_subgraph), "'/etc/passwd', which is not"),
    "a sparse tensor": (sparse, "sparse in it"),
    "a sparse tensor of a node": (sparse_attribute, "sparse in it"),
    "an operator of others": (
        lambda model: model.graph.node.append(helper.make_node("Evil", [], ["c"], domain="my.company")),
        "operators of 'my.company'",
    ),
    "operators of others that are only imported": (
        lambda model: model.opset_import.append(helper.make_opsetid("ai.onnx.ml", 3)),
        "operators of 'ai.onnx.ml'",
    ),
    "an operator that is another graph": (function, "function in it"),
    "an operator that names a file": (
        lambda model: model.graph.node.append(helper.make_node("EPContext", [], ["c"], domain="com.microsoft")),
        "operator EPContext",
    ),
    "training": (lambda model: model.training_info.add(), "training in it"),
    "no graph": (lambda model: model.ClearField("graph"), "there is no graph in it"),
}  # fmt: skip
for name in graph_scan.NEEDS_ALL_INPUTS:
    ATTACKS[f"an input of {name} without a name"] = unnamed_input(name), f"an input of {name} has no name"


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_signed_graph_that_refers_to_anything_else_is_refused_before_it_is_opened(attack, copy, never_opened):
    change, message = ATTACKS[attack]
    with_graph(copy, change)
    with pytest.raises(IntegrityError) as caught:
        Embedder(copy)
    assert message in str(caught.value)
    assert str(caught.value).startswith(f"{copy / GRAPH}: ")
    assert str(caught.value).endswith("; export or download the folder again")


def nested(depth: int) -> bytes:
    """A model whose graph has a node whose attribute is a graph, and so on: onnx itself writes no more than 100 levels."""
    graph = b""
    for field in [6, 5, 1] * depth + [7]:
        graph = bytes([field << 3 | 2]) + varint(len(graph)) + graph
    return graph


def varint(number: int) -> bytes:
    return bytes([number & 0x7F | 0x80]) + varint(number >> 7) if number > 0x7F else bytes([number])


NO_GRAPHS = {
    "nothing": (b"", "it is empty"),
    "graphs in graphs": (nested(40), "nested more than 32 deep"),
    "graphs in graphs in graphs": (nested(5000), "nested more than 32 deep"),
    "no graph": (b"\x08\x08", "there is no graph in it"),
    "a zip file": (b"PK\x03\x04 a zip file", "no field of a graph|bytes more|no graph"),
    "cut": (b"\x3a\x05\x0a", "it ends at byte 3, expected 4 bytes more"),
    "an endless number": (b"\x80" * 11, "no end of a number"),
    "an endless length": (b"\x3a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", "bytes more"),
    "a group": (b"\x3b", "no field of a graph"),
    "endless fields": (b"\x3a\x00" * 1_000_001, "more than 1000000 fields"),
}


@pytest.mark.parametrize("case", NO_GRAPHS)
def test_bytes_that_are_no_graph_are_refused_before_they_are_opened(case, copy, never_opened, monkeypatch):
    content, message = NO_GRAPHS[case]
    if case == "endless fields":
        monkeypatch.setattr(graph_scan, "MAX_FIELDS", 1_000_000)
    (copy / GRAPH).write_bytes(content)
    sign(copy)
    with pytest.raises(IntegrityError, match=message):
        Embedder(copy)


def test_a_data_file_that_is_shorter_than_the_graph_says_is_refused_before_it_is_opened(copy, never_opened):
    with (copy / DATA).open("r+b") as file:
        file.truncate(100)
    sign(copy)
    with pytest.raises(IntegrityError, match=r"ends at byte \d+ of model.onnx_data, which has 100"):
        Embedder(copy)


def test_a_field_of_another_wire_type_says_nothing_as_in_protobuf():
    fixed = bytes([7 << 3 | 5]) + struct.pack("<I", 1)
    with pytest.raises(GraphError, match="there is no graph"):
        scan_bytes(fixed)
    assert scan_bytes(fixed + b"\x3a\x00").external == []


@given(st.binary(max_size=400))
def test_any_bytes_are_a_graph_or_a_clear_error(content):
    with contextlib.suppress(GraphError):
        scan_bytes(content)
