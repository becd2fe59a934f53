"""Checkpoint → folder: what is in it, that it is proved, and that the same inputs give the same bytes."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tokenizers
from safetensors.numpy import load_file
from tests.support.checkpoints import write_checkpoint

from q3_export import export_model
from q3_export.checkpoint import Checkpoint, open_checkpoint
from q3_export.cli import main
from q3_export.recipes import RECIPES
from q3_export.side_files import license_of
from q3_export.verification import judged
from q3_runtime.embedder import Embedder
from q3_runtime.errors import FidelityError, InputError, ModelError, Q3Error, StorageError, UsageError
from q3_runtime.fidelity import failures, worst
from q3_runtime.golden import Golden
from q3_runtime.manifest import Manifest
from q3_runtime.vector_fidelity import measure

FILES = {
    "README.md", "config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "modules.json",
    "1_Pooling/config.json", "config_sentence_transformers.json", "onnx/model.onnx", "onnx/model.onnx_data", "golden.json",
    "golden.safetensors", "q3.json",
}  # fmt: skip


def sha(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def few(tmp_path: Path) -> Path:
    """A short probe file, for exports that are about something else."""
    path = tmp_path / "few.jsonl"
    path.write_text(
        '{"text": "one two three four five six seven", "kind": "query"}\n{"text": "ten", "kind": "document"}\nplain\n'
    )
    return path


def test_the_folder_holds_exactly_the_files_of_the_contract(folder: Path) -> None:
    assert {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()} == FILES
    assert not list(folder.parent.glob(".*"))


def test_every_probe_reaches_the_fp32_floor(folder: Path) -> None:
    fidelity = Manifest.read(folder).quants["fp32"].fidelity
    assert fidelity is not None
    assert fidelity["min"] >= 0.99999
    assert fidelity["batch_max_delta"] <= 1e-5
    assert fidelity["probes"] == 128
    assert set(fidelity["by_group"]) == {"languages", "code", "queries", "documents", "short", "long", "odd"}
    assert set(fidelity["by_dim"]) == {"32", "64"}
    assert fidelity["top10_overlap"] >= 0.99
    assert fidelity["spearman"] >= 0.99999
    assert fidelity["floor"] == {"min": 0.99999}


def test_swapping_two_golden_vectors_fails_the_check(folder: Path) -> None:
    golden = Golden.read(folder)
    vectors = golden.vectors.copy()
    vectors[[40, 80]] = vectors[[80, 40]]
    figures = measure(Embedder(folder, self_check=False, check_hashes=False), Golden(golden.probes, vectors))[0]
    assert failures(figures, {"min": 0.99999}, "fp32")


def test_the_manifest_describes_every_file(folder: Path, checkpoint: Path) -> None:
    manifest = Manifest.read(folder)
    listed = manifest.files | manifest.quants["fp32"].files
    assert set(listed) == FILES - {"README.md", "q3.json"}
    for name, entry in listed.items():
        assert (entry.bytes, entry.sha256) == ((folder / name).stat().st_size, sha(folder / name))
    assert manifest.dims == 64
    assert manifest.mrl_dims == [32, 64]
    assert manifest.max_tokens == 2048
    assert manifest.source["id"] == checkpoint.name
    names = sorted(["config.json", "tokenizer.json", "model.safetensors"])
    lines = "".join(f"{name} {sha(checkpoint / name)}\n" for name in names)
    assert manifest.source["sha256"] == hashlib.sha256(lines.encode()).hexdigest()


def test_side_files_are_what_other_tools_expect(folder: Path, checkpoint: Path) -> None:
    def read(name: str) -> dict:
        return json.loads((folder / name).read_text())

    assert (folder / "tokenizer.json").read_bytes() == (checkpoint / "tokenizer.json").read_bytes()
    assert read("tokenizer_config.json")["padding_side"] == "left"
    assert read("tokenizer_config.json")["model_max_length"] == 2048
    assert read("1_Pooling/config.json")["pooling_mode_lasttoken"] is True
    assert read("1_Pooling/config.json")["word_embedding_dimension"] == 64
    assert [module["path"] for module in read("modules.json")] == ["", "1_Pooling", "2_Normalize"]
    prompt = "Instruct: Given a web search query, retrieve relevant passages that answer the query\nQuery:"
    assert read("config_sentence_transformers.json")["prompts"] == {"query": prompt, "document": ""}
    assert read("config.json")["transformers.js_config"] == {"dtype": "fp32", "use_external_data_format": {"model.onnx": 1}}
    assert read("special_tokens_map.json")["pad_token"] == "<|endoftext|>"


def test_the_card_states_the_measured_fidelity_and_its_python_runs(folder: Path) -> None:
    card = (folder / "README.md").read_text()
    fidelity = Manifest.read(folder).quants["fp32"].fidelity
    assert f"{fidelity['min']:.6f}" in card
    blocks = [block.split("```")[0].replace("DIR", str(folder)) for block in card.split("```python\n")[1:]]
    ours = [block for block in blocks if "q3_runtime" in block or "onnxruntime" in block]
    assert all(len(block.splitlines()) <= 10 for block in ours)
    assert (len(ours), len(blocks)) == (2, 4)  # those of other tools: tests/interop/test_full_interop.py
    found: dict[str, np.ndarray] = {}
    for block in ours:
        exec(block, found)  # the card's own lines
    assert found["scores"].shape == (1, 2)
    np.testing.assert_allclose(found["vector"], Embedder(folder).encode(["…"]), atol=1e-6)


def test_the_card_of_a_pooled_graph_leaves_out_the_tools_that_pool_by_themselves(checkpoint: Path, tmp_path: Path) -> None:
    out = export_model(checkpoint, quant="fp32", out=tmp_path / "out", no_verify=True, pooled_only=True)
    card = (out / "README.md").read_text("utf-8")
    assert "TextEmbedding(" in card
    assert not any(word in card for word in ("SentenceTransformer(", "pipeline("))


def test_the_same_inputs_give_the_same_bytes(folder: Path, checkpoint: Path, tmp_path: Path) -> None:
    again = export_model(checkpoint, quant="fp32", out=tmp_path / "again", no_verify=True)
    for name in ("onnx/model.onnx", "onnx/model.onnx_data", "golden.json", "golden.safetensors"):
        assert sha(again / name) == sha(folder / name)
    assert Manifest.read(again).quants["fp32"].fidelity is None
    assert "not measured" in (again / "README.md").read_text()


def test_another_process_gives_the_same_bytes_of_every_quant(checkpoint: Path, few: Path, tmp_path: Path) -> None:
    """With other hashes of strings, so another order of every set."""
    quants = ",".join(RECIPES)
    one = export_model(checkpoint, quant=quants, out=tmp_path / "one", probes=few)
    two = tmp_path / "two"
    command = [sys.executable, "-m", "q3_export.cli", "--model", str(checkpoint), "--quant", quants, "--out", str(two)]
    command += ["--probes", str(few)]
    subprocess.run(command, check=True, capture_output=True, env=os.environ | {"PYTHONHASHSEED": "7"})
    names = [path.relative_to(one) for path in sorted(one.rglob("*")) if path.is_file()]
    assert names == [path.relative_to(two) for path in sorted(two.rglob("*")) if path.is_file()]
    assert [name for name in names if sha(one / name) != sha(two / name)] == []


def test_sharded_untied_and_prefixed_checkpoints_give_the_same_graph(tmp_path: Path, few: Path) -> None:
    plain = export_model(write_checkpoint(tmp_path / "a"), quant="fp32", out=tmp_path / "a-onnx", probes=few, no_verify=True)
    stored = write_checkpoint(tmp_path / "b", shards=3, tied=False, prefix="model.")
    other = export_model(stored, quant="fp32", out=tmp_path / "b-onnx", probes=few, no_verify=True)
    for name in ("onnx/model.onnx", "onnx/model.onnx_data", "golden.safetensors"):
        assert sha(plain / name) == sha(other / name)


def test_a_floor_that_is_missed_exits_4_names_the_worst_probes_and_leaves_nothing(
    checkpoint: Path, few: Path, tmp_path: Path
) -> None:
    with pytest.raises(FidelityError, match=r"fp16: min cosine .* is below 1; worst: probe \d") as caught:
        export_model(checkpoint, quant="fp16", out=tmp_path / "out", probes=few, min_cosine=1.0)
    assert caught.value.exit_code == 4
    assert sorted(path.name for path in tmp_path.iterdir()) == ["few.jsonl"]


def test_a_lowered_floor_is_written_into_manifest_and_card(checkpoint: Path, few: Path, tmp_path: Path) -> None:
    out = export_model(checkpoint, quant="fp32", out=tmp_path / "out", probes=few, min_cosine=0.9)
    fidelity = Manifest.read(out).quants["fp32"].fidelity
    assert fidelity["floor"] == {"min": 0.9}
    assert fidelity["floor_lowered"] is True
    assert "The floor was lowered by hand for: fp32." in (out / "README.md").read_text()
    assert [probe.text for probe in Golden.read(out).probes][-1] == "plain"
    Embedder(out)


def test_damaged_vectors_are_judged_with_the_probes_named() -> None:
    result = {"min": 0.5, "mean": 0.9, "batch_invariance": 1.0, "batch_max_delta": 0.0, "non_finite": 0}
    result["worst"] = [{"probe": 7, "group": "code", "cosine": 0.5, "text": "x"}]
    with pytest.raises(FidelityError, match=r"probe 7 \(code\) 0.500000 'x'"):
        judged(result, "fp32", {"min": 0.99999})
    result |= {"min": float("nan")}
    with pytest.raises(FidelityError):
        judged(result, "fp32", {"min": 0.99999})


def test_worst_lists_the_furthest_probes_first(folder: Path) -> None:
    golden = Golden.read(folder)
    cosines = np.ones(128, dtype=np.float32)
    cosines[[3, 99]] = 0.2, 0.1
    assert [row["probe"] for row in worst(golden, cosines, "cosine", 2)] == [99, 3]


def test_golden_vectors_are_readable_with_the_safetensors_library(folder: Path) -> None:
    np.testing.assert_array_equal(load_file(folder / "golden.safetensors")["embedding"], Golden.read(folder).vectors)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"quant": "int3"}, UsageError, "quant 'int3' is unknown"),
        ({"quant": "fp32,fp32"}, UsageError, "each must stand once"),
        ({"quant": ""}, UsageError, "unknown"),
        ({"kind": "reranker"}, ModelError, "says embedding, --kind says reranker"),
        ({"probes": "nowhere.txt"}, InputError, "probes cannot be read"),
        ({"calibration": "nowhere.txt"}, InputError, r"nowhere.txt: probes cannot be read"),
        ({"calibration": "/dev/null"}, InputError, "0 probes, expected at least 2"),
        ({"min_cosine": 1.5}, UsageError, "min_cosine is 1.5, expected a number from -1 to 1"),
        ({"min_cosine": float("nan")}, UsageError, "min_cosine is nan"),
        ({"min_cosine": 0.9, "no_verify": True}, UsageError, "measures no cosine; leave out one"),
    ],
)
def test_wrong_arguments_are_refused_before_work(
    checkpoint: Path, tmp_path: Path, options: dict, error: type[Q3Error], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Checkpoint, "check_finite", lambda *_, **__: pytest.fail("work has begun"))
    with pytest.raises(error, match=message):
        export_model(checkpoint, out=tmp_path / "out", **options)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("./0.6B", "no such folder"),
        ("./Someone/Model", "no such folder, .* ORG/NAME on the hub, or one of 0.6B"),
        (__file__, "a file, expected the folder"),
    ],
)
def test_a_model_that_is_not_there_says_what_to_give(tmp_path: Path, model: str, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        export_model(model, quant="fp32", out=tmp_path / "out")


def test_what_is_wrong_whatever_the_model_is_costs_no_download(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], folder: Path
) -> None:
    monkeypatch.setattr("socket.socket.connect", lambda *_: pytest.fail("a connection was opened"))
    for options, error in (({"probes": "nowhere.txt"}, InputError), ({"out": tmp_path / "no/parent"}, StorageError)):
        with pytest.raises(error, match=r"nowhere\.txt|mkdir -p"):
            export_model("4B", **{"out": tmp_path / "out"} | options)
    assert main(["verify", str(tmp_path / "typo"), "--model", "4B"]) == 3
    assert "typo: no such folder" in capsys.readouterr().err
    assert main(["verify", str(folder), "--quant", "q9", "--model", "4B"]) == 2
    assert "quant 'q9' is not in this folder, it has fp32" in capsys.readouterr().err


def test_nothing_in_the_folder_where_it_is_called_is_imported(checkpoint: Path, few: Path, tmp_path: Path) -> None:
    for name in ("numpy", "q3_runtime", "random"):
        (tmp_path / f"{name}.py").write_text(f"open({str(tmp_path / 'executed')!r}, 'w')\n")
    command = [sys.executable, "-P", "-m", "q3_export.cli", "--model", str(checkpoint), "--out", "out", "--probes", str(few)]
    done = subprocess.run([*command, "--quant", "fp32"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "executed").exists()


def test_the_card_of_what_nobody_measured_says_so(checkpoint: Path, few: Path, tmp_path: Path) -> None:
    out = export_model(checkpoint, quant="fp32", out=tmp_path / "out", probes=few, no_verify=True)
    card = (out / "README.md").read_text("utf-8")
    assert "Not measured: made with `--no-verify`." in card
    assert "measured when" not in card


def test_a_kind_that_contradicts_the_key_is_refused_before_anything_is_downloaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("socket.socket.connect", lambda *_: pytest.fail("a connection was opened"))
    with pytest.raises(ModelError, match="reranker-4B: its kind is reranker, --kind says embedding"):
        export_model("reranker-4B", kind="embedding", out=tmp_path / "out")


def test_probes_of_the_wrong_form_are_refused(checkpoint: Path, tmp_path: Path) -> None:
    path = tmp_path / "probes.jsonl"
    for line, message in (
        ('{"text": 5}', "expected kind query or document"),
        ('{"text": "a", "kind": "x"}', "kind 'x'"),
        ("{", "line 1"),
    ):
        path.write_text(line + "\nother\n")
        with pytest.raises(InputError, match=message):
            export_model(checkpoint, quant="fp32", out=tmp_path / "out", probes=path)


def test_verification_in_its_own_process_reports_a_folder_that_cannot_be_loaded(folder: Path, tmp_path: Path) -> None:
    from q3_export.verification import measure_in_child

    broken = shutil.copytree(folder, tmp_path / "broken")
    (broken / "onnx/model.onnx_data").unlink()
    with pytest.raises(Q3Error, match="missing") as caught:
        measure_in_child(broken, "fp32")
    assert caught.value.exit_code == 6


def test_export_verify_compares_with_pytorch_computed_now(folder: Path, checkpoint: Path, tmp_path: Path, capsys) -> None:
    assert main(["verify", str(folder), "--model", str(checkpoint)]) == 0
    assert capsys.readouterr().out.startswith("OK     fp32: cosine to PyTorch fp32 over 128 texts")
    other = write_checkpoint(tmp_path / "other", seed=1)
    assert main(["verify", str(folder), "--model", str(other)]) == 3
    assert "made from another checkpoint" in capsys.readouterr().err


def test_dims_and_length_limit_follow_the_config(checkpoint: Path) -> None:
    opened = open_checkpoint(checkpoint)
    assert (opened.dims, opened.layers, opened.max_tokens) == (64, 3, 2048)


# Fine-tunes as others save them


@pytest.fixture
def tuned(checkpoint: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(checkpoint, tmp_path / "Tuned"))


def exported(tuned: Path, few: Path, tmp_path: Path, **options: object) -> Path:
    return export_model(tuned, quant="q8", out=tmp_path / "out", probes=few, calibration=few, no_verify=True, **options)


def test_special_tokens_as_transformers_5_lists_them_are_written_as_4_reads_them(
    tuned: Path, few: Path, tmp_path: Path
) -> None:
    """sentence-transformers 5 and optimum-onnx, which load the folder, are held to transformers 4."""
    config = json.loads((tuned / "tokenizer_config.json").read_text("utf-8"))
    config.pop("additional_special_tokens", None)
    (tuned / "tokenizer_config.json").write_text(json.dumps(config | {"extra_special_tokens": ["<|im_start|>", "<|im_end|>"]}))
    (tuned / "special_tokens_map.json").unlink(missing_ok=True)
    out = exported(tuned, few, tmp_path)
    found = json.loads((out / "tokenizer_config.json").read_text("utf-8"))
    assert found["additional_special_tokens"] == ["<|im_start|>", "<|im_end|>"]
    assert "extra_special_tokens" not in found
    assert json.loads((out / "special_tokens_map.json").read_text())["additional_special_tokens"] == [
        "<|im_start|>",
        "<|im_end|>",
    ]


def test_a_padding_that_a_call_left_in_the_tokenizer_is_not_passed_on(tuned: Path, few: Path, tmp_path: Path) -> None:
    before = json.loads((tuned / "tokenizer.json").read_text("utf-8"))
    tokenizer = tokenizers.Tokenizer.from_file(str(tuned / "tokenizer.json"))
    tokenizer.enable_padding(length=64)
    tokenizer.enable_truncation(32)
    tokenizer.save(str(tuned / "tokenizer.json"))
    found = json.loads((exported(tuned, few, tmp_path) / "tokenizer.json").read_text("utf-8"))
    assert (found["padding"], found["truncation"]) == (None, None)
    assert found["model"] == before["model"]


def test_modules_without_normalize_get_it_as_the_graph_has_it(tuned: Path, few: Path, tmp_path: Path) -> None:
    modules = json.loads((tuned / "modules.json").read_text("utf-8"))
    (tuned / "modules.json").write_text(json.dumps([module for module in modules if module["path"] != "2_Normalize"]))
    found = json.loads((exported(tuned, few, tmp_path) / "modules.json").read_text("utf-8"))
    assert [module["path"] for module in found] == ["", "1_Pooling", "2_Normalize"]


@pytest.mark.parametrize(
    ("prompts", "said"),
    [
        ({"query": "Instruct: x\nQuery:", "document": ""},
         "In front of queries goes `Instruct: x\\nQuery:`, in front of documents nothing; there is no space after `Query:`."),
        ({"query": "Q: ", "document": "D: "}, "In front of queries goes `Q: `, in front of documents `D: `."),
        ({}, "Nothing is put in front of queries or documents."),
    ],
)  # fmt: skip
def test_the_card_says_what_is_put_in_front(tuned: Path, few: Path, tmp_path: Path, prompts: dict[str, str], said: str) -> None:
    (tuned / "config_sentence_transformers.json").write_text(json.dumps({"prompts": prompts}), "utf-8")
    assert said in (exported(tuned, few, tmp_path) / "README.md").read_text("utf-8").split("\n")


def test_too_few_calibration_texts_give_no_ranges_and_it_is_said(checkpoint: Path, few: Path, tmp_path: Path, capsys) -> None:
    """int8 vectors with the ranges of two texts had a mean cosine of .8."""
    out = exported(checkpoint, few, tmp_path, progress=True)
    assert Manifest.read(out).output_ranges == {}
    assert "no int8 or uint8 vectors with this folder: 3 calibration texts do not show their ranges" in capsys.readouterr().err


def test_two_probes_are_enough_for_a_manifest_that_others_can_read(checkpoint: Path, tmp_path: Path) -> None:
    """Of one pair no rank correlation can be computed; NaN is not JSON."""
    two = tmp_path / "two.txt"
    two.write_text("one\nanother text\n")
    out = export_model(checkpoint, quant="q8", out=tmp_path / "out", probes=two, calibration=two)
    assert Manifest.read(out).quants["q8"].fidelity["spearman"] == 1.0
    assert "NaN" not in (out / "q3.json").read_text("utf-8")


def test_windows_is_said_to_be_no_place_for_the_exporter(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setattr(sys, "platform", "win32")
    assert main(["--model", "0.6B"]) == 2
    assert "q3-export runs on Linux and macOS, found Windows; run it in WSL" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("head", "named"),
    [
        ("license: apache-2.0", "apache-2.0"), ("license: 'mit'", "mit"), ("license:\n- mit\n- other", "mit"),
        ("license:\n  - mit", "mit"), ("license:\nlanguage: en", None), ("license: null", None), ("language: en", None),
    ],
)  # fmt: skip
def test_the_licence_is_the_one_that_the_card_names(tmp_path: Path, head: str, named: str | None) -> None:
    (tmp_path / "README.md").write_text(f"---\n{head}\n---\n# A model\n")
    assert license_of(tmp_path) == named


def test_a_quant_that_joins_leaves_the_folder_the_name_that_it_was_made_with(tuned: Path, few: Path, tmp_path: Path) -> None:
    (tuned / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
    out = exported(tuned, few, tmp_path)
    tuned.rename(tmp_path / "Renamed")
    (tmp_path / "Renamed/README.md").unlink()
    export_model(tmp_path / "Renamed", quant="q4", out=out, probes=few, calibration=few, no_verify=True)
    manifest = Manifest.read(out)
    assert (list(manifest.quants), manifest.source["id"], manifest.license) == (["q8", "q4"], "Tuned", "apache-2.0")
