"""q3 doctor: our folders are well, and each fault that strangers' folders have is named."""

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from tests.support.onnxruntime_quantizers import dynamic, requantize
from tests.support.signing import set_entry

from q3_runtime.cli import main
from q3_runtime.doctor import Diagnosis, diagnose, diagnosis
from q3_runtime.doctor import graph as graph_module
from q3_runtime.prompts import OFFICIAL_PROMPTS
from q3_runtime.quants import QUANTS

PROMPTS, POOLING, TOKENIZER = "config_sentence_transformers.json", "1_Pooling/config.json", "tokenizer_config.json"


@pytest.fixture
def foreign(folder: Path, tmp_path: Path) -> Path:
    """A copy of the tiny export without its manifest, for a test to spoil."""
    copy = shutil.copytree(folder, tmp_path / "foreign")
    (copy / "q3.json").unlink()
    return copy


def edit(path: Path, change: Callable[[Any], object]) -> None:
    content = json.loads(path.read_text("utf-8"))
    change(content)
    path.write_text(json.dumps(content), "utf-8")


def edit_graph(folder: Path, change: Callable[[onnx.GraphProto], object]) -> None:
    model = onnx.load(folder / "onnx/model.onnx", load_external_data=False)
    change(model.graph)
    onnx.save(model, folder / "onnx/model.onnx")


def problems(found: Diagnosis) -> dict[str, str]:
    return {finding.check: f"{finding.text}; {finding.remedy}" for finding in found.problems}


def obstacles(found: Diagnosis, tool: str) -> list[str]:
    return next(verdict.obstacles for verdict in found.loaders if verdict.tool == tool)


def loads(found: Diagnosis) -> dict[str, bool]:
    return {verdict.tool: verdict.loads for verdict in found.loaders}


@pytest.mark.parametrize("quant", ["fp32", "int8", "q8", "q4"])
def test_nothing_is_wrong_with_an_export(mini_folder: Path, quant: str) -> None:
    found = diagnose(mini_folder, quant)
    assert found.problems == []
    assert found.graph == QUANTS[quant].onnx_file
    measured = {finding.check for finding in found.findings if "cosine" in finding.text}
    assert measured >= {"pooling in the graph", "padding on the left", "padding on the right", "neighbours"}
    expected = dict.fromkeys(("q3-onnx", "sentence-transformers", "optimum", "fastembed", "transformers.js"), True)
    assert loads(found) == expected | {"TEI": False}
    assert obstacles(found, "TEI")[-1].startswith("a graph for onnxruntime 1.")


def test_nothing_is_wrong_with_a_reranker(reranker_folder: Path) -> None:
    found = diagnose(reranker_folder, "int8")
    assert (found.kind, found.problems) == ("reranker", [])
    assert loads(found) == {"q3-onnx": True, "sentence-transformers": True}


def test_a_mask_with_a_hole_is_measured_and_ours_does_not_take_it(folder: Path) -> None:
    (hole,) = [finding for finding in diagnose(folder).findings if finding.check == "holes in the mask"]
    assert hole.level == "note"
    assert "moves the outcome" in hole.text
    assert "mask padding only" in hole.remedy


def test_a_prompt_with_a_space_after_query_is_named(foreign: Path) -> None:
    edit(foreign / PROMPTS, lambda content: content["prompts"].update(query=OFFICIAL_PROMPTS["query"] + " "))
    found = problems(diagnose(foreign))
    assert list(found) == ["prompt"]
    assert 'it ends in "Query: ", expected "Query:"' in found["prompt"]


@pytest.mark.parametrize(
    ("prompts", "said"),
    [
        ({}, "no prompt for queries"),
        ({"query": "query: "}, '"query: ", expected the form'),
        ({"query": OFFICIAL_PROMPTS["query"], "document": "passage: "}, 'documents get "passage: "'),
    ],
)
def test_other_prompts_are_named(foreign: Path, prompts: dict[str, str], said: str) -> None:
    edit(foreign / PROMPTS, lambda content: content.update(prompts=prompts))
    assert said in problems(diagnose(foreign))["prompt"]


def test_an_instruction_of_ones_own_is_a_note(foreign: Path) -> None:
    edit(foreign / PROMPTS, lambda content: content["prompts"].update(query="Instruct: Find code\nQuery:"))
    found = diagnose(foreign)
    assert found.problems == []
    assert [finding.level for finding in found.findings if finding.check == "prompt"] == ["note"]


@pytest.mark.parametrize("older", [True, False])
def test_mean_pooling_is_named_and_tools_that_follow_it_get_other_vectors(foreign: Path, older: bool) -> None:
    modes = {"pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True, "pooling_mode_lasttoken": False}
    (foreign / POOLING).write_text(json.dumps(modes if older else {"pooling_mode": "mean"}))
    found = diagnose(foreign)
    assert "expected lasttoken" in problems(found)["pooling"]
    assert not loads(found)["sentence-transformers"]
    assert not loads(found)["TEI"]


def test_no_modules_mean_that_sentence_transformers_takes_the_mean(foreign: Path) -> None:
    (foreign / "modules.json").unlink()
    found = diagnose(foreign)
    assert "takes the mean of all tokens" in problems(found)["pooling"]
    assert not loads(found)["sentence-transformers"]
    assert loads(found)["fastembed"]


def test_padding_on_the_right_is_named(foreign: Path) -> None:
    edit(foreign / TOKENIZER, lambda content: content.pop("padding_side"))
    found = diagnose(foreign)
    assert "right, expected left" in problems(found)["padding side"]
    assert not loads(found)["transformers.js"]


def test_a_tokenizer_that_appends_nothing_is_named(foreign: Path) -> None:
    edit(foreign / "tokenizer.json", lambda content: content.update(post_processor=None))
    assert "every text ends in nothing, expected <|endoftext|>" in problems(diagnose(foreign))["end of text"]


def test_a_tokenizer_on_which_tokenizers_panics_is_a_finding(foreign: Path) -> None:
    edit(foreign / "tokenizer.json", lambda content: content["post_processor"]["processors"][1].update(special_tokens={}))
    assert any("tokenizer.json" in finding.text for finding in diagnose(foreign).problems)


@pytest.mark.parametrize(
    "model",
    [
        {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "[UNK]"},
        {"type": "Unigram", "vocab": [["a", 0.0]], "unk_id": None},
    ],
    ids=lambda model: model["type"],
)
def test_a_tokenizer_that_does_not_know_every_text_is_a_problem_and_the_rest_is_examined(foreign: Path, model: dict) -> None:
    (foreign / "tokenizer.json").write_text(json.dumps({"version": "1.0", "added_tokens": [], "model": model}))
    found = diagnose(foreign)
    assert "cannot encode 'How do whales sleep?'" in problems(found)["tokenizer"]
    assert not any(loads(found).values())


def test_position_ids_and_a_kv_cache_are_named_and_fed(foreign: Path) -> None:
    def add(graph: onnx.GraphProto) -> None:
        graph.input.append(helper.make_tensor_value_info("position_ids", TensorProto.INT64, ["batch", "sequence"]))
        for part in ("key", "value"):
            shape = ["batch", 2, "past", 32]
            graph.input.append(helper.make_tensor_value_info(f"past_key_values.0.{part}", TensorProto.FLOAT, shape))

    edit_graph(foreign, add)
    found = diagnose(foreign)
    texts = [finding.text for finding in found.problems if finding.check == "inputs"]
    assert [text.split(",")[0] for text in texts] == ["2 inputs of a KV cache", "position_ids"]
    assert not loads(found)["fastembed"]
    assert not loads(found)["optimum"]
    assert "neighbours" in {finding.check for finding in found.findings}


def test_heads_of_a_kv_cache_that_tei_would_feed_wrongly_are_named(foreign: Path) -> None:
    edit(foreign / "config.json", lambda content: content.update(num_key_value_heads=4))
    shape = ["batch", 2, "past", 32]
    edit_graph(foreign, lambda graph: graph.input.append(helper.make_tensor_value_info("past_key_values.0.key", 1, shape)))
    assert obstacles(diagnose(foreign), "TEI") == ["a KV cache with heads of 32, it feeds 16"]


def test_an_input_that_nobody_feeds_is_named(foreign: Path) -> None:
    edit_graph(foreign, lambda graph: graph.input.append(helper.make_tensor_value_info("pixels", TensorProto.FLOAT, [1])))
    found = diagnose(foreign)
    assert "pixels: nobody knows what to feed" in problems(found)["inputs"]
    assert not any(can for tool, can in loads(found).items() if tool in ("optimum", "transformers.js", "TEI"))


def test_a_graph_without_its_pooled_output_gets_a_note(foreign: Path) -> None:
    edit_graph(foreign, lambda graph: graph.output.pop())
    found = diagnose(foreign)
    assert found.problems == []
    assert any("no sentence_embedding" in finding.text for finding in found.findings if finding.level == "note")


def test_quantize_dynamic_depends_on_the_neighbours(mini_folder: Path, tmp_path: Path) -> None:
    found = problems(diagnose(requantize(mini_folder, tmp_path / "dynamic", dynamic), "fp32"))
    assert "depends on its neighbours" in found["neighbours"]


def last_position(folder: Path) -> None:
    """A graph whose vectors of tokens are those of their ids, and whose pooled output is the mean of all, padding too."""
    vocab, dims = 4096, 8
    table = numpy_helper.from_array(np.random.default_rng(0).normal(size=(vocab, dims)).astype(np.float32), "table")
    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["last_hidden_state"]),
        helper.make_node("ReduceMean", ["last_hidden_state", "axis"], ["sentence_embedding"], keepdims=0),
    ]
    ids = [helper.make_tensor_value_info(name, TensorProto.INT64, ["B", "T"]) for name in ("input_ids", "attention_mask")]
    outputs = [
        helper.make_tensor_value_info("last_hidden_state", TensorProto.FLOAT, ["B", "T", dims]),
        helper.make_tensor_value_info("sentence_embedding", TensorProto.FLOAT, ["B", dims]),
    ]
    axis = numpy_helper.from_array(np.array([1]), "axis")
    graph = helper.make_graph(nodes, "last", ids, outputs, [table, axis])
    (folder / "onnx/model.onnx_data").unlink()
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), folder / "onnx/model.onnx")


def test_padding_that_changes_the_vector_and_pooling_that_is_not_the_last_token_are_measured(foreign: Path) -> None:
    last_position(foreign)
    found = problems(diagnose(foreign))
    assert "sentence_embedding is not the last token" in found["pooling in the graph"]
    assert {"padding on the left", "padding on the right"} <= found.keys()
    assert "neighbours" not in found


def graph_of(folder: Path, *, vocab: int = 4096, batch: object = "B", mask: int = TensorProto.INT64, rank: int = 3) -> None:
    """A graph that looks up the vectors of its ids, and has one fault."""
    table = numpy_helper.from_array(np.random.default_rng(0).normal(size=(vocab, 8)).astype(np.float32), "table")
    axis = numpy_helper.from_array(np.array([1]), "axis")
    nodes = [helper.make_node("Gather", ["table", "input_ids"], ["states" if rank == 2 else "last_hidden_state"])]
    if rank == 2:
        nodes.append(helper.make_node("ReduceMean", ["states", "axis"], ["last_hidden_state"], keepdims=0))
    inputs = [
        helper.make_tensor_value_info("input_ids", TensorProto.INT64, [batch, "T"]),
        helper.make_tensor_value_info("attention_mask", mask, [batch, "T"]),
    ]
    output = helper.make_tensor_value_info("last_hidden_state", TensorProto.FLOAT, [batch, 8] if rank == 2 else [batch, "T", 8])
    graph = helper.make_graph(nodes, "faulty", inputs, [output], [table, axis])
    (folder / "onnx/model.onnx_data").unlink()
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), folder / "onnx/model.onnx")


@pytest.mark.parametrize(
    ("fault", "check", "said"),
    [
        ({"batch": 1}, "running", "3 texts of"),
        ({"vocab": 10}, "running", "out of data bounds"),
        ({"mask": TensorProto.BOOL}, "running", "input attention_mask bool [B, T], expected int64"),
        ({"rank": 2}, "shape of the output", "last_hidden_state float [B, 8], expected 3 dimensions"),
    ],
)
def test_a_graph_that_cannot_be_run_is_a_finding_and_nobody_loads_it(foreign: Path, fault: dict, check: str, said: str) -> None:
    graph_of(foreign, **fault)
    found = diagnose(foreign)
    assert said in problems(found)[check]
    assert not any(loads(found).values())


def test_padding_on_the_side_that_another_family_does_not_use_is_a_note(foreign: Path) -> None:
    last_position(foreign)
    edit(foreign / "config.json", lambda content: content.update(model_type="bert"))
    edit(foreign / TOKENIZER, lambda content: content.update(padding_side="right"))
    levels = {finding.check: finding.level for finding in diagnose(foreign).findings}
    assert (levels["padding on the left"], levels["padding on the right"]) == ("note", "problem")


def test_a_reranker_is_known_by_its_graph_and_measured_by_its_log_odds(reranker_folder: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(reranker_folder, tmp_path / "copy")
    for name in ("q3.json", "config_sentence_transformers.json", "modules.json"):
        (copy / name).unlink()
    found = diagnose(copy, "fp32")
    assert (found.kind, found.problems) == ("reranker", [])
    assert any("difference of the log-odds" in finding.text for finding in found.findings)
    assert not loads(found)["sentence-transformers"]


def test_a_file_that_is_not_what_was_exported_is_a_problem_for_our_runtime(folder: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(folder, tmp_path / "copy")
    edit(copy / "config.json", lambda content: content.update(note="edited"))
    found = diagnose(copy)
    assert "config.json" in problems(found)["integrity"]
    assert loads(found) == dict.fromkeys(loads(found), True) | {"q3-onnx": False, "TEI": False}


def test_without_a_tokenizer_nothing_is_measured_and_that_is_said(foreign: Path) -> None:
    (foreign / "tokenizer.json").unlink()
    found = diagnose(foreign)
    assert list(problems(found)) == ["tokenizer"]
    assert any(finding.check == "measured" and finding.text.startswith("nothing") for finding in found.findings)
    assert not any(loads(found).values())


def test_what_a_strangers_file_says_stays_on_its_line(foreign: Path, capsys: pytest.CaptureFixture[str]) -> None:
    edit(foreign / "config.json", lambda content: content.update(model_type="x\n\x1b[32mno problems"))
    main(["doctor", str(foreign)])
    said = capsys.readouterr().out
    assert "\x1b" not in said
    assert "x\\n\\x1b[32mno problems" in said


def test_weights_under_a_name_that_transformers_js_does_not_look_for_are_named(foreign: Path) -> None:
    def rename(graph: onnx.GraphProto) -> None:
        for tensor in graph.initializer:
            for entry in tensor.external_data:
                if entry.key == "location":
                    entry.value = "model.onnx.data"

    edit_graph(foreign, rename)
    (foreign / "onnx/model.onnx_data").rename(foreign / "onnx/model.onnx.data")
    (theirs,) = [verdict for verdict in diagnose(foreign).loaders if verdict.tool == "transformers.js"]
    assert theirs.obstacles == ["weights in model.onnx.data, it looks for model.onnx_data"]


@pytest.mark.parametrize("name", ["config.json", "modules.json", POOLING, PROMPTS, TOKENIZER, "tokenizer.json", "q3.json"])
@pytest.mark.parametrize("content", ["", "{", "[]", "[" * 100_000, '{"a": 1, "a": 2}', "\x00"])
def test_a_damaged_file_is_a_finding_and_never_a_traceback(foreign: Path, name: str, content: str) -> None:
    (foreign / name).write_text(content)
    found = diagnose(foreign)
    assert found.problems or name in ("config.json", "q3.json")
    if content != "[]":
        assert any(name in finding.text for finding in found.problems)


@pytest.mark.parametrize("name", ["onnx/model.onnx", "onnx/model.onnx_data", "tokenizer.json"])
def test_a_pointer_of_git_lfs_is_said_to_be_one(foreign: Path, name: str) -> None:
    (foreign / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:6f\nsize 3\n")
    said = problems(diagnose(foreign))["files"]
    assert said.startswith(f"{name} cannot be read: a pointer of Git LFS, ")


@pytest.mark.skipif(sys.platform != "linux", reason="a file that nobody can read, not even root")
def test_a_file_of_no_interest_that_cannot_be_read_is_none(foreign: Path) -> None:
    (foreign / "onnx/other").symlink_to("/proc/self/mem")
    assert "files" not in problems(diagnose(foreign))


@pytest.mark.parametrize("content", [b"", b"not a graph"])
def test_bytes_that_are_no_graph_are_a_finding(foreign: Path, content: bytes) -> None:
    (foreign / "onnx/model.onnx").write_bytes(content)
    found = diagnose(foreign)
    assert "onnx/model.onnx is none" in problems(found)["graph"]
    assert found.loaders == []


def test_a_graph_that_is_missing_is_a_finding(mini_folder: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(mini_folder, tmp_path / "copy")
    (copy / "onnx/model_int8.onnx").unlink()
    found = diagnose(copy, "int8")
    assert "onnx/model_int8.onnx is missing" in problems(found)["graph"]
    assert main(["doctor", str(copy), "--quant", "int8"]) == 3


def test_states_of_another_length_than_the_text_are_a_finding(foreign: Path) -> None:
    """The graph says [batch, sequence, D] and gives the last token's state alone."""

    def last_only(graph: onnx.GraphProto) -> None:
        output = next(each for each in graph.output if each.name == "last_hidden_state")
        maker = next(node for node in graph.node if output.name in node.output)
        maker.output[list(maker.output).index(output.name)] = "all_states"
        for name, value in (("from", [-1]), ("to", [2**31]), ("axis", [1])):
            graph.initializer.append(numpy_helper.from_array(np.array(value, np.int64), name))
        graph.node.append(helper.make_node("Slice", ["all_states", "from", "to", "axis"], [output.name]))
        del graph.output[:]
        graph.output.append(output)

    edit_graph(foreign, last_only)
    assert "last_hidden_state is [1, 1, 64], expected" in problems(diagnose(foreign))["running"]


def test_a_graph_that_onnxruntime_does_not_load_is_a_finding(foreign: Path) -> None:
    edit_graph(foreign, lambda graph: graph.node[0].input.__setitem__(0, "nowhere"))
    found = diagnose(foreign)
    assert "cannot run" in problems(found)["graph"]
    assert found.loaders == []


def weights_elsewhere(graph: onnx.GraphProto) -> None:
    set_entry(next(tensor for tensor in graph.initializer if tensor.external_data), "location", "../../secret")


def a_file_to_run(graph: onnx.GraphProto) -> None:
    graph.node.append(helper.make_node("EPContext", [], ["c"], domain="com.microsoft"))


@pytest.mark.parametrize(("change", "said"), [(weights_elsewhere, "'../../secret'"), (a_file_to_run, "EPContext")])
def test_a_graph_that_reaches_out_of_its_folder_is_named_and_not_loaded(
    foreign: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[onnx.GraphProto], object], said: str
) -> None:
    monkeypatch.setattr(diagnosis, "Graph", lambda path: pytest.fail(f"{path} was given to onnxruntime"))
    edit_graph(foreign, change)
    found = diagnose(foreign)
    assert said in problems(found)["references"]
    assert found.loaders == []


def endless(graph: onnx.GraphProto) -> None:
    """The output by way of a loop that does not end."""
    bools = [helper.make_tensor_value_info(name, TensorProto.BOOL, []) for name in ("go", "on")]
    turn = helper.make_tensor_value_info("turn", TensorProto.INT64, [])
    body = helper.make_graph([helper.make_node("Identity", ["go"], ["on"])], "body", [turn, bools[0]], [bools[1]])
    output = graph.output[0].name
    for node in graph.node:
        node.output[:] = ["before" if name == output else name for name in node.output]
    condition = helper.make_tensor("yes", TensorProto.BOOL, [], [True])
    body.output.append(helper.make_tensor_value_info("same", TensorProto.FLOAT, None))
    body.input.append(helper.make_tensor_value_info("carried", TensorProto.FLOAT, None))
    body.node.append(helper.make_node("Identity", ["carried"], ["same"]))
    graph.initializer.append(condition)
    graph.node.append(helper.make_node("Loop", ["", "yes", "before"], [output], body=body))


def test_a_graph_that_does_not_come_to_an_end_is_stopped(foreign: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graph_module, "MAX_SECONDS", 1)
    edit_graph(foreign, endless)
    assert "not done after 1 s" in problems(diagnose(foreign))["running"]


def test_the_rules_of_qwen3_are_not_applied_to_others(foreign: Path) -> None:
    edit(foreign / "config.json", lambda content: content.update(model_type="bert"))
    (foreign / POOLING).write_text(json.dumps({"pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True}))
    found = diagnose(foreign)
    assert found.problems == []
    assert any("model_type is bert" in finding.text for finding in found.findings)


def test_the_command_says_it_in_words_and_as_json(foreign: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", str(folder)]) == 0
    said = capsys.readouterr().out
    assert "no problems" in said
    assert "yes     fastembed" in said
    (foreign / "special_tokens_map.json").unlink()
    edit(foreign / PROMPTS, lambda content: content["prompts"].update(query=OFFICIAL_PROMPTS["query"] + " "))
    assert main(["doctor", str(foreign)]) == 3
    said = capsys.readouterr().out
    assert "PROBLEM prompt: it ends in" in said
    assert "NO      fastembed: no special_tokens_map.json" in said
    assert said.rstrip().endswith("1 problem")
    assert main(["doctor", str(foreign), "--json"]) == 3
    found = json.loads(capsys.readouterr().out)
    assert found["loaders"]["fastembed"] == {"loads": False, "obstacles": ["no special_tokens_map.json"]}
    assert [entry["check"] for entry in found["findings"] if entry["level"] == "problem"] == ["prompt"]


def test_what_is_no_folder_with_a_graph_is_refused(tmp_path: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", str(tmp_path / "absent")]) == 3
    assert "no such folder" in capsys.readouterr().err
    assert main(["doctor", str(tmp_path)]) == 3
    assert "no .onnx file in it" in capsys.readouterr().err
    assert main(["doctor", str(folder), "--quant", "q4"]) == 2
    assert "quant 'q4' is not in" in capsys.readouterr().err


def test_special_tokens_as_transformers_5_lists_them_are_named_for_tools_that_have_4(foreign: Path) -> None:
    edit(foreign / TOKENIZER, lambda content: content.update(extra_special_tokens=["<|im_start|>"]))
    found = diagnose(foreign)
    for tool in ("sentence-transformers", "optimum"):
        assert any("extra_special_tokens in tokenizer_config.json is a list" in each for each in obstacles(found, tool))
    assert obstacles(found, "fastembed") == []


def test_a_strangers_snapshot_in_the_hubs_cache_is_examined_as_it_is(foreign: Path, tmp_path: Path) -> None:
    place = tmp_path / "hub/models--Stranger--Model/snapshots/abc"
    place.parent.mkdir(parents=True)
    foreign.rename(place)
    assert diagnose(place).problems == []
