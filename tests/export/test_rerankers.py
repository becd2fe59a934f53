"""Exports of rerankers: what they refuse, what the folder holds, and how it is proved."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM

from q3_export import export_model, published, reference
from q3_export.chat_template import chat_template
from q3_export.checkpoint import open_checkpoint
from q3_export.cli import main
from q3_export.side_files import answer_ids, has_other_template
from q3_export.specs import SPECS
from q3_runtime import Embedder, Reranker
from q3_runtime.errors import FidelityError, InputError, ModelError, Q3Error, UsageError
from q3_runtime.golden import Golden
from q3_runtime.manifest import Manifest

REPO = "Qwen/Qwen3-Reranker-0.6B"
PAIRS = (
    {"query": "red planet", "document": "Mars is called the Red Planet.", "group": "space"},
    {"query": "red planet", "document": "Bread."},
    {"query": "how to bake bread", "document": "Knead the dough, let it rise, and bake it for forty minutes."},
    {"query": "how to bake bread", "document": ""},
)


@pytest.fixture
def few(tmp_path: Path) -> Path:
    """A short file of pairs, for exports that are about something else."""
    path = tmp_path / "few.jsonl"
    path.write_text("\n".join(map(json.dumps, PAIRS)), "utf-8")
    return path


@pytest.fixture
def copy(reranker_checkpoint: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(reranker_checkpoint, tmp_path / "copy"))


def write_logit_score(folder: Path, yes: int, no: int) -> None:
    """modules.json and 1_LogitScore as the published rerankers have them."""
    modules = [
        {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
        {"idx": 1, "name": "1", "path": "1_LogitScore", "type": "sentence_transformers.cross_encoder.modules.LogitScore"},
    ]
    (folder / "modules.json").write_text(json.dumps(modules), "utf-8")
    (folder / "1_LogitScore").mkdir(exist_ok=True)
    stated = {"true_token_id": yes, "false_token_id": no, "module_input_name": "causal_logits"}
    (folder / "1_LogitScore/config.json").write_text(json.dumps(stated), "utf-8")


# What is refused


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"kind": "embedding"}, ModelError, "appends nothing, so this is a reranker model, expected: embedding; check --kind"),
        (
            {"min_cosine": 0.9},
            UsageError,
            "min_cosine 0.9 for a reranker, whose scores are judged by their ranks; leave it out",
        ),
        ({"probes": "nowhere.jsonl"}, InputError, "probes cannot be read"),
        ({"layout": "tei", "quant": "fp32"}, UsageError, "layout tei for a reranker, .* leave it out"),
    ],
)
def test_wrong_arguments_are_refused_before_work(
    reranker_checkpoint: Path, tmp_path: Path, options: dict, error: type[Q3Error], message: str
) -> None:
    with pytest.raises(error, match=message):
        export_model(reranker_checkpoint, out=tmp_path / "out", **options)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("plain text", 'line 1: .*expected {"query": "…", "document": "…"}'),
        ('{"query": "a"}', "line 1: document is NoneType, expected str"),
        ('{"query": 3, "document": "b"}', "line 1: query is int, expected str"),
        ("[1]", "line 1: a list"),
    ],
)
def test_pairs_of_the_wrong_form_are_refused(reranker_checkpoint: Path, tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "pairs.jsonl"
    path.write_text(f"{line}\n{json.dumps(PAIRS[0])}\n", "utf-8")
    with pytest.raises(InputError, match=message):
        export_model(reranker_checkpoint, quant="fp32", out=tmp_path / "out", probes=path)
    assert [item.name for item in tmp_path.iterdir()] == ["pairs.jsonl"]


def test_a_checkpoint_whose_score_module_names_other_tokens_is_refused(copy: Path, tmp_path: Path) -> None:
    write_logit_score(copy, 5, 6)
    with pytest.raises(ModelError, match=r"true and false are 5 and 6, expected \d+ \(yes\) and \d+ \(no\)"):
        export_model(copy, quant="fp32", out=tmp_path / "out")


def test_a_tokenizer_without_yes_as_one_token_is_refused(copy: Path, tmp_path: Path) -> None:
    content = json.loads((copy / "tokenizer.json").read_text("utf-8"))
    content["model"]["merges"] = [merge for merge in content["model"]["merges"] if "".join(merge).replace(" ", "") != "yes"]
    (copy / "tokenizer.json").write_text(json.dumps(content), "utf-8")
    with pytest.raises(ModelError, match=r"'yes' is .*, expected one token"):
        export_model(copy, quant="fp32", out=tmp_path / "out")


def test_an_untied_checkpoint_without_a_head_is_refused(copy: Path, tmp_path: Path) -> None:
    config = json.loads((copy / "config.json").read_text("utf-8"))
    (copy / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": False}), "utf-8")
    with pytest.raises(ModelError, match=r"there is no lm_head.weight"):
        export_model(copy, quant="fp32", out=tmp_path / "out")


# What the folder holds


def test_a_head_of_its_own_counts_where_the_config_ties_it_as_for_transformers(copy: Path) -> None:
    assert json.loads((copy / "config.json").read_text("utf-8"))["tie_word_embeddings"] is True
    tensors = load_file(copy / "model.safetensors")
    name = next(name for name in tensors if name.endswith("embed_tokens.weight"))
    save_file(tensors | {"lm_head.weight": tensors[name] * 2 + 1}, copy / "model.safetensors", metadata={"format": "pt"})
    loaded = AutoModelForCausalLM.from_pretrained(copy, dtype=torch.float32)
    expected = loaded.lm_head.weight[list(answer_ids(copy))]
    assert torch.equal(open_checkpoint(copy).head(), expected)


def test_the_folder_says_what_it_is(copy: Path, few: Path, tmp_path: Path) -> None:
    opened = open_checkpoint(copy)
    write_logit_score(copy, *_answers(copy))
    words = json.loads((copy / "tokenizer_config.json").read_text("utf-8"))
    (copy / "tokenizer_config.json").write_text(json.dumps(words | {"chat_template": "that of a chat"}), "utf-8")
    out = export_model(copy, quant="fp32", out=tmp_path / "out", probes=few)
    manifest = Manifest.read(out)
    assert (manifest.kind, manifest.mrl_dims, manifest.prompts) == ("reranker", [], opened.prompts)
    assert manifest.output_ranges == {}
    assert manifest.quants["fp32"].outputs == ["logits"]
    assert [module["path"] for module in json.loads((out / "modules.json").read_text("utf-8"))] == [""]
    assert json.loads((out / "sentence_bert_config.json").read_text("utf-8"))["transformer_task"] == "sequence-classification"
    assert "chat_template" not in json.loads((out / "tokenizer_config.json").read_text("utf-8"))
    assert not any((out / name).exists() for name in ("1_LogitScore", "1_Pooling"))
    card = (out / "README.md").read_text("utf-8")
    assert "pipeline_tag: text-ranking" in card
    assert "Scores against PyTorch in float32" in card
    assert {probe.group for probe in Golden.read(out, "reranker").probes} == {"space", "own"}


def test_a_quant_is_added_to_a_folder_with_its_golden_scores(reranker_checkpoint: Path, few: Path, tmp_path: Path) -> None:
    out = export_model(reranker_checkpoint, quant="fp32", out=tmp_path / "out", probes=few)
    golden = (out / "golden.safetensors").read_bytes()
    export_model(reranker_checkpoint, quant="q8", out=out, probes=few)
    assert list(Manifest.read(out).quants) == ["fp32", "q8"]
    assert (out / "golden.safetensors").read_bytes() == golden
    with Reranker(out, quant="q8") as model:
        assert model.score([("a", "b")]).shape == (1,)


def test_the_same_inputs_give_the_same_bytes(reranker_checkpoint: Path, few: Path, tmp_path: Path) -> None:
    one, two = (export_model(reranker_checkpoint, quant="q8", out=tmp_path / name, probes=few) for name in ("one", "two"))
    for name in ("onnx/model_quantized.onnx", "onnx/model_quantized.onnx_data", "golden.json", "golden.safetensors"):
        assert (one / name).read_bytes() == (two / name).read_bytes()


@pytest.mark.parametrize("quant", ["int8", "q4"])
def test_an_embedding_model_without_hidden_states_is_exported_in_fewer_bits(
    checkpoint: Path, tmp_path: Path, quant: str
) -> None:
    """The last layer then computes one token: the shape of its activations was lost on the way, and the export broke."""
    whole, pooled = (
        export_model(checkpoint, quant=quant, out=tmp_path / name, pooled_only=only, no_verify=True)
        for name, only in (("whole", False), ("pooled", True))
    )
    graph = onnx.load(pooled / Manifest.read(pooled).quants[quant].onnx_file, load_external_data=False).graph
    assert [output.name for output in graph.output] == ["sentence_embedding"]
    texts = ["a", "a longer text about whales and bread", "x " * 50]
    with Embedder(whole, quant=quant, self_check=False) as one, Embedder(pooled, quant=quant, self_check=False) as two:
        assert (one.encode(texts) * two.encode(texts)).sum(-1).min() >= 0.9999


# How it is proved


OTHER_WORDS = """{{ messages | selectattr("role", "eq", 'document') | map(attribute="content") | first }} is it so?"""


@pytest.mark.parametrize("file", ["chat_template.jinja", "tokenizer_config.json"])
def test_a_checkpoint_that_is_asked_in_other_words_is_said_to_be_one(copy: Path, file: str) -> None:
    assert not has_other_template(copy)
    content = json.loads((copy / "tokenizer_config.json").read_text("utf-8"))
    if file == "chat_template.jinja":
        (copy / file).write_text(OTHER_WORDS, "utf-8")
    else:
        (copy / file).write_text(json.dumps(content | {"chat_template": OTHER_WORDS}), "utf-8")
    assert has_other_template(copy)
    (copy / "chat_template.jinja").write_text(chat_template(open_checkpoint(copy).prompts), "utf-8")
    assert not has_other_template(copy)


def test_the_export_says_that_its_words_are_not_taken(copy: Path, few: Path, tmp_path: Path, capsys) -> None:
    (copy / "chat_template.jinja").write_text(OTHER_WORDS, "utf-8")
    export_model(copy, quant="fp32", out=tmp_path / "out", probes=few, calibration=few, no_verify=True, progress=True)
    assert "q3-export: the checkpoint's own chat template is not taken" in capsys.readouterr().err


def test_pairs_are_cut_where_the_checkpoint_cuts_them(copy: Path) -> None:
    edited = json.loads((copy / "tokenizer_config.json").read_text("utf-8")) | {"model_max_length": 512}
    (copy / "tokenizer_config.json").write_text(json.dumps(edited), "utf-8")
    assert open_checkpoint(copy).max_tokens == 512


def test_the_command_prints_the_rank_correlation(reranker_checkpoint: Path, few: Path, tmp_path: Path, capsys) -> None:
    arguments = [
        "--model",
        str(reranker_checkpoint),
        "--quant",
        "fp32,q8",
        "--probes",
        str(few),
        "--out",
        str(tmp_path / "out"),
    ]
    assert main(arguments) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("OK     fp32: scores")
    assert "over 4 pairs" in lines[0]
    assert lines[1].startswith("OK     q8: scores")
    assert lines[2] == str(tmp_path / "out")


def test_export_verify_compares_with_pytorch_computed_now(
    reranker_checkpoint: Path, reranker_folder: Path, folder: Path, capsys
) -> None:
    arguments = ["verify", str(reranker_folder), "--model", str(reranker_checkpoint), "--quant", "q8"]
    assert main(arguments) == 0
    assert capsys.readouterr().out.startswith("OK     q8: scores")
    assert main(["verify", str(folder), "--model", str(reranker_checkpoint)]) == 3
    assert "made from another checkpoint" in capsys.readouterr().err


def test_scores_of_another_sign_exit_4_name_pairs_and_leave_nothing(
    reranker_checkpoint: Path, few: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = reference.last_states
    monkeypatch.setattr(reference, "last_states", lambda *args, **options: -right(*args, **options))
    with pytest.raises(FidelityError, match=r"largest difference of a score .* is above 0.0001") as caught:
        export_model(reranker_checkpoint, quant="fp32", out=tmp_path / "out", probes=few)
    assert caught.value.exit_code == 4
    assert "'red planet\\n<Document>: Bread.'" in str(caught.value)
    assert [item.name for item in tmp_path.iterdir()] == ["few.jsonl"]


@pytest.fixture
def planted(reranker_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> dict:
    """Figures in the form of the shipped ones, for the small checkpoint, as if it were 0.6B at its pinned revision."""
    checkpoint = replace(open_checkpoint(reranker_checkpoint), id=REPO, revision=SPECS["reranker-0.6B"].revision)
    monkeypatch.setattr("q3_export.pipeline.open_checkpoint", lambda *_, **__: checkpoint)
    entry = published.load()[REPO]
    ids = published.PublishedScores(**entry).ids(checkpoint)
    entry["log_odds"] = reference.log_odds(checkpoint, ids)[:, 0].tolist()
    monkeypatch.setattr(published, "load", lambda: {REPO: entry})
    return entry


def test_right_published_scores_pass_and_are_printed(planted: dict, few: Path, tmp_path: Path, capsys) -> None:
    export_model("reranker-0.6B", quant="fp32", out=tmp_path / "out", probes=few, progress=True)
    said = capsys.readouterr().err
    for name in ("PyTorch float32", "fp32"):
        assert f"published figures, {name}: largest difference of the log-odds 0.000" in said


def test_wrong_published_scores_exit_4_and_leave_nothing(planted: dict, few: Path, tmp_path: Path) -> None:
    planted["log_odds"][2] += 0.06
    with pytest.raises(FidelityError, match="these are not the published weights: download them again") as caught:
        export_model("reranker-0.6B", quant="fp32", out=tmp_path / "out", probes=few)
    assert caught.value.exit_code == 4
    assert [item.name for item in tmp_path.iterdir()] == ["few.jsonl"]


def test_the_shipped_scores_have_their_source() -> None:
    entry = published.PublishedScores(**published.load()[REPO])
    assert "sentence-transformers" in entry.log_odds_source
    assert len(entry.log_odds) == len(entry.documents) == 4


def test_the_shipped_pairs_are_200_of_many_kinds(reranker_folder: Path) -> None:
    golden = Golden.read(reranker_folder, "reranker")
    assert len({(probe.text, probe.group) for probe in golden.probes}) == 200
    assert len({probe.group for probe in golden.probes}) >= 5
    assert np.isfinite(golden.vectors).all()


def _answers(folder: Path) -> tuple[int, int]:
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    return tokenizer.token_to_id("yes"), tokenizer.token_to_id("no")
