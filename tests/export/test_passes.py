"""The exported graph: its contract, and that every pass did its work."""

from collections import Counter
from pathlib import Path

import onnx
import onnx_ir as ir
import pytest
from tests.support.checkpoints import TINY

from q3_export import passes
from q3_export.checkpoint import open_checkpoint
from q3_export.quantize.formats import FLOAT, INT8
from q3_export.rescaling import Rescaling
from q3_export.tracing import trace


@pytest.fixture(scope="module")
def graph(folder: Path) -> onnx.GraphProto:
    return onnx.load(folder / "onnx/model.onnx", load_external_data=False).graph


@pytest.fixture(scope="module")
def operators(graph: onnx.GraphProto) -> Counter[str]:
    return Counter(node.op_type for node in graph.node)


def shape(value: onnx.ValueInfoProto) -> list[str | int]:
    return [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]


def test_inputs_and_outputs_are_those_of_the_contract(graph: onnx.GraphProto) -> None:
    assert {value.name: shape(value) for value in graph.input} == {
        "input_ids": ["batch", "sequence"],
        "attention_mask": ["batch", "sequence"],
    }
    assert [(value.name, shape(value)) for value in graph.output] == [
        ("last_hidden_state", ["batch", "sequence", 64]),
        ("sentence_embedding", ["batch", 64]),
    ]
    types = {value.name: value.type.tensor_type.elem_type for value in [*graph.input, *graph.output]}
    assert types["input_ids"] == types["attention_mask"] == onnx.TensorProto.INT64
    assert types["last_hidden_state"] == types["sentence_embedding"] == onnx.TensorProto.FLOAT


def test_opset_and_ir_version_are_fixed(folder: Path) -> None:
    model = onnx.load(folder / "onnx/model.onnx", load_external_data=False)
    assert {entry.domain: entry.version for entry in model.opset_import} == {"": 21, "com.microsoft": 1}
    assert model.ir_version == 10


def test_attention_and_norms_are_one_operator_each(operators: Counter[str]) -> None:
    layers = TINY.layers
    assert operators["If"] == layers  # attention, by the length of the texts
    assert operators["SkipSimplifiedLayerNormalization"] == 2 * layers  # all but the first have a residual in front
    assert operators["SimplifiedLayerNormalization"] == 1 + 2 * layers  # the first, and q_norm and k_norm
    assert operators["MatMul"] == 7 * layers
    assert not operators.keys() & {"Softmax", "Pow", "ReduceMean", "Transpose", "Expand", "Loop", "GroupQueryAttention"}
    assert operators["Reshape"] == 4 * layers  # q and k, before and after their norms


def test_attention_is_plain_tiled_or_both_and_its_keys_and_values_go_with_it(graph: onnx.GraphProto) -> None:
    """onnxruntime frees an output after its last reader; one without a reader stays as long as the graph runs that it is in."""

    def ways(node: onnx.NodeProto) -> list[list[tuple[str, int]]]:
        """Operators of each innermost graph, and how many outputs they have."""
        branches = [attribute.g for attribute in node.attribute]
        assert all([value.name for value in branch.output] == [branch.node[-1].output[0]] for branch in branches)
        return [
            way
            for branch in branches
            for way in (
                ways(branch.node[0]) if branch.node[0].op_type == "If" else [[(n.op_type, len(n.output)) for n in branch.node]]
            )
        ]

    cut = [(operator, 1) for operator in ("Gather", "Slice")] * 3
    plain, tiled, fit = ("GroupQueryAttention", 1), ("GroupQueryAttention", 3), [("Pad", 1), ("ScatterND", 1)]
    for node in graph.node:
        if node.op_type == "If":
            assert sorted(map(sorted, ways(node))) == sorted(map(sorted, [[plain], [tiled], [tiled, *cut, plain, *fit]]))


def test_in_the_uniform_form_no_layers_keys_and_values_are_kept_until_the_end(checkpoint: Path) -> None:
    traced = trace(open_checkpoint(checkpoint).config)
    graph = ir.to_proto(passes.finished(traced, rescaling=Rescaling(0, (0,) * TINY.layers), attention="uniform")).graph
    read = {name for node in graph.node for name in node.input}
    attentions = [node for node in graph.node if node.op_type == "GroupQueryAttention"]
    assert len(attentions) == TINY.layers
    assert all(name in read for node in attentions[:-1] for name in node.output)


@pytest.mark.parametrize(("wide", "left"), [("", "q k up"), ("down_proj", "q k")])
def test_products_in_8_bits_are_scaled_by_token_unless_a_norm_or_such_a_product_does_it(
    checkpoint: Path, wide: str, left: str
) -> None:
    traced = trace(open_checkpoint(checkpoint).config)
    model = passes.finished(traced, format_of=lambda name: FLOAT if wide and wide in name else INT8)
    products = [node for node in model.graph if node.op_type == "MatMulIntegerToFloat"]
    assert {str(node.inputs[2].name) for node in products} == {"no_scale"}
    unscaled = [
        str(node.inputs[1].name).split(".")[3].removesuffix("_proj")
        for node in products
        if not any(
            use.node.op_type == "Mul" and use.node.inputs[1].producer().op_type in ("Max", "Mul")
            for use in node.outputs[0].uses()
        )
    ]
    assert Counter(unscaled) == dict.fromkeys(left.split(), TINY.layers)


def test_every_weight_is_named_as_in_the_checkpoint_and_external(graph: onnx.GraphProto, checkpoint: Path) -> None:
    expected = set(open_checkpoint(checkpoint).places)
    weights = {tensor.name: tensor for tensor in graph.initializer if tensor.name.endswith(".weight")}
    assert set(weights) == expected
    large = [tensor for tensor in weights.values() if len(tensor.dims) == 2]
    assert all({entry.key: entry.value for entry in tensor.external_data}["location"] == "model.onnx_data" for tensor in large)


def test_nothing_names_the_machine_or_the_tracer(folder: Path) -> None:
    content = (folder / "onnx/model.onnx").read_bytes()
    for trace_of in (b"site-packages", b"/tmp", b"pkg.torch", b".py", b"pytorch"):
        assert trace_of not in content


def test_a_pass_leaves_a_graph_that_has_nothing_to_change_alone(checkpoint: Path) -> None:
    model = passes.constant_reshapes(passes.clean(passes.constant_reshapes(trace(open_checkpoint(checkpoint).config))))
    once = ir.to_proto(passes.skip_norms(model)).SerializeToString()
    assert ir.to_proto(passes.skip_norms(passes.constant_reshapes(model))).SerializeToString() == once


def test_tracing_reads_no_weight_and_leaves_transformers_as_it_was(checkpoint: Path) -> None:
    from transformers.models.qwen3 import modeling_qwen3

    before = modeling_qwen3.apply_rotary_pos_emb
    model = trace(open_checkpoint(checkpoint).config)
    assert all(value.const_value is None for value in model.graph.initializers.values())
    assert modeling_qwen3.apply_rotary_pos_emb is before


def test_what_is_done_to_a_traced_graph_is_not_seen_by_who_traces_it_next(checkpoint: Path) -> None:
    config = open_checkpoint(checkpoint).config
    first = trace(config)
    before = ir.to_proto(first).SerializeToString()
    passes.clean(first)
    first.graph.initializers.clear()
    assert ir.to_proto(trace(config)).SerializeToString() == before
