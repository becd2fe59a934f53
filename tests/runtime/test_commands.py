"""The command q3, as it is typed: what it prints, where, and what it exits with."""

import fcntl
import io
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import termios
import time
import warnings
from argparse import ArgumentParser, Namespace
from pathlib import Path

import numpy as np
import pytest

from q3_export.cli import main as export_main
from q3_runtime import Embedder, fidelity
from q3_runtime.cli import main, parse_args
from q3_runtime.command_line import run_safely
from q3_runtime.golden import Golden
from q3_runtime.vector_fidelity import measure

LINES = [
    "The capital of China is Beijing.",
    "",
    "Gravity bends light.",
    "   ",
    "def add(a, b): return a + b",
    "Ein Satz über Wale.",
]
FIGURES = {
    "probes", "mean", "p5", "min", "by_group", "by_dim", "top10_overlap", "spearman", "batch_invariance", "batch_max_delta",
    "self_check", "floor", "failures", "worst", "provider",
}  # fmt: skip
SIGNALS = [
    (signal.SIGTERM, 143, "q3: terminated; nothing half-written was left behind\n"),
    (signal.SIGINT, 130, "\nq3: interrupted; nothing half-written was left behind\n"),
]
linux = pytest.mark.skipif(sys.platform != "linux", reason="needs Linux")


@pytest.fixture(scope="module")
def model(folder: Path) -> Embedder:
    return Embedder(folder)


@pytest.fixture
def copy(folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(folder, tmp_path / "copy"))


@pytest.fixture
def passages(tmp_path: Path) -> Path:
    path = tmp_path / "passages.txt"
    path.write_text("\n".join(LINES) + "\n", encoding="utf-8")
    return path


def q3(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """Standard output of a call in this process that must succeed without a word on standard error."""
    code = main([str(argument) for argument in arguments])
    out, err = capsys.readouterr()
    assert (code, err) == (0, "")
    return out


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str]:
    """Exit code and message of a call in this process that must fail with one line and no output."""
    code = main([str(argument) for argument in arguments])
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert err.endswith("\n")
    assert "Traceback" not in err
    return code, err


def type_in(monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content), encoding="utf-8"))


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "q3_runtime.cli", *map(str, arguments)]


def environment(**variables: str) -> dict[str, str]:
    """This one, but with the buffering that a user's Python has."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"} | variables


def run(*arguments: object, **options: object) -> subprocess.CompletedProcess[str]:
    options = {
        "stdout": subprocess.PIPE,
        "stderr": subprocess.PIPE,
        "stdin": subprocess.DEVNULL,
        "env": environment(),
    } | options
    return subprocess.run(command(*arguments), check=False, encoding="utf-8", timeout=100, **options)


def rows(out: str) -> list[dict]:
    return [json.loads(line) for line in out.splitlines()]


def vectors(out: str) -> np.ndarray:
    return np.array([row["embedding"] for row in rows(out)], dtype=np.float32)


# embed


def test_embed_prints_a_line_of_json_for_each_argument(folder, model, capsys):
    texts = ["Hello", "Zwei „Wörter“\n", ""]
    out = q3(capsys, "embed", folder, *texts)
    assert out.count("\n") == 3
    assert [(row["index"], row["text"]) for row in rows(out)] == list(enumerate(texts))
    np.testing.assert_array_equal(vectors(out), model.encode(texts))
    assert "„" in out


@pytest.mark.parametrize(
    ("content", "texts"),
    [
        (b"one\ntwo\n", ["one", "two"]),
        (b"one\r\ntwo\r\n", ["one", "two"]),
        (b"one\n\ntwo", ["one", "", "two"]),
        (b"\xef\xbb\xbfone\n", ["one"]),
        (b"a\rb\x0bc\xc2\x85d\xe2\x80\xa8e\n", ["a\rb\x0bc\x85d\u2028e"]),
        (b"NUL\x00inside\n", ["NUL\0inside"]),
        ("Größe 漢字 🐋\n".encode(), ["Größe 漢字 🐋"]),
        (b"\n", [""]),
        (b"", []),
    ],
)
def test_embed_takes_a_text_from_each_line_of_standard_input(folder, model, capsys, monkeypatch, content, texts):
    type_in(monkeypatch, content)
    out = q3(capsys, "embed", folder)
    assert [json.loads(line)["text"] for line in out.split("\n")[:-1]] == texts
    found = np.array([json.loads(line)["embedding"] for line in out.split("\n")[:-1]], dtype=np.float32).reshape(-1, 64)
    np.testing.assert_array_equal(found, model.encode(texts))


@pytest.mark.parametrize("arguments", [["-"], ["--dim", "32", "-"], ["-", "--dim", "32"]])
def test_for_embed_a_dash_alone_is_standard_input(folder, capsys, monkeypatch, arguments):
    type_in(monkeypatch, b"one\ntwo\n")
    assert [row["text"] for row in rows(q3(capsys, "embed", folder, *arguments))] == ["one", "two"]


def test_a_dash_among_texts_is_a_text(folder, capsys):
    assert [row["text"] for row in rows(q3(capsys, "embed", folder, "one", "-"))] == ["one", "-"]


def test_embed_refuses_lines_that_are_not_utf_8(folder, capsys, monkeypatch):
    type_in(monkeypatch, b"fine\nM\xfcnchen\n")
    code, message = refused(capsys, "embed", folder)
    assert code == 3
    assert "standard input: not UTF-8 at byte 6, expected" in message


def test_embed_refuses_an_argument_that_is_not_utf_8(folder):
    done = run("embed", folder, os.fsdecode(b"M\xfcnchen"))
    assert (done.returncode, done.stdout) == (3, "")
    assert "text 0 has a lone surrogate U+DCFC at character 1" in done.stderr


def test_embed_writes_an_array(folder, model, capsys, tmp_path):
    assert q3(capsys, "embed", folder, "a", "another text", "--out", tmp_path / "x.npy") == ""
    found = np.load(tmp_path / "x.npy", allow_pickle=False)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, model.encode(["a", "another text"]))
    assert [path.name for path in tmp_path.iterdir()] == ["x.npy"]


def test_embed_writes_an_array_for_no_texts_too(folder, capsys, monkeypatch, tmp_path):
    type_in(monkeypatch, b"")
    q3(capsys, "embed", folder, "--out", tmp_path / "x.npy", "--dim", "32")
    assert np.load(tmp_path / "x.npy").shape == (0, 32)


@pytest.mark.parametrize(
    ("options", "keywords"),
    [
        (["--dim", "32"], {"dim": 32}),
        (["--prompt", "query"], {"prompt_name": "query"}),
        (["--prompt", "document"], {"prompt_name": "document"}),
        (["--instruction", "Find {this}"], {"instruction": "Find {this}"}),
        (["--instruction", "Find", "--dim", "48"], {"instruction": "Find", "dim": 48}),
        (["--quant", "fp32", "--provider", "cpu", "--threads", "1"], {}),
    ],
)
def test_embed_takes_the_options_of_encode(folder, model, capsys, options, keywords):
    found = vectors(q3(capsys, "embed", folder, "What?", "a", *options))
    np.testing.assert_allclose(found, model.encode(["What?", "a"], **keywords), rtol=0, atol=1e-6)


def test_embed_warns_in_one_line_of_a_text_that_was_cut(folder, capsys):
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        code = main(["embed", str(folder), "gravity " * 3000])
    out, err = capsys.readouterr()
    assert code == 0
    assert len(rows(out)) == 1
    assert err.count("\n") == 1
    assert err.startswith("q3: warning: 1 of 1 texts had more than 2048 tokens and were cut")


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--dim", "31"], 3, "dim is 31, expected a whole number from 32 to 64"),
        (["--prompt", "nothing"], 3, "no prompt is called 'nothing', this model has document, query"),
        (["--quant", "int8"], 2, "quant 'int8' is not in this folder, it has fp32"),
        (["--provider", "nothing"], 7, "provider 'nothing' is not in this onnxruntime, it has"),
        (["--threads", "0"], 2, "threads is 0, expected a whole number from 1"),
        (["--out", "x.txt"], 2, "expected a name ending in .npy"),
        (["--out", "/no/such/folder/x.npy"], 5, "/no/such/folder/x.npy"),
    ],
)
def test_embed_refuses_what_cannot_be_in_one_line(folder, capsys, arguments, code, words):
    found, message = refused(capsys, "embed", folder, "text", *arguments)
    assert found == code
    assert message.startswith("q3: error")
    assert words in message


@pytest.mark.parametrize("arguments", [["--dim", "x"], ["--prompt", "query", "--instruction", "x"], ["--nothing"]])
def test_arguments_that_cannot_be_parsed_exit_2(folder, capsys, arguments):
    with pytest.raises(SystemExit) as caught:
        main(["embed", str(folder), "text", *arguments])
    assert caught.value.code == 2
    assert capsys.readouterr().out == ""


def test_a_place_that_cannot_be_written_is_named_before_the_work(capsys, tmp_path):
    """The model is not even looked for."""
    (tmp_path / "folder.npy").mkdir()
    cases = {tmp_path / "folder.npy": "a folder, expected a file or nothing", tmp_path / "none/x.npy": "no such folder"}
    if sys.platform == "linux":
        cases[Path("/sys/x.npy")] = "cannot be written"  # for root neither
    for out, words in cases.items():
        code, message = refused(capsys, "embed", tmp_path / "missing", "text", "--out", out)
        assert code == 5
        assert f"--out {out}: {words}" in message
    assert [path.name for path in tmp_path.iterdir()] == ["folder.npy"]


@linux
def test_a_disk_that_fills_up_leaves_neither_half_an_array_nor_the_old_one_damaged(folder, tmp_path):
    import resource

    def small_files() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))

    np.save(tmp_path / "x.npy", np.ones(3))
    before = (tmp_path / "x.npy").read_bytes()
    done = run("embed", folder, *"abcdefgh", "--out", tmp_path / "x.npy", preexec_fn=small_files)
    assert done.returncode == 5
    assert done.stderr.count("\n") == 1
    assert "E_IO" in done.stderr
    assert (tmp_path / "x.npy").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["x.npy"]


# search


def test_search_ranks_as_the_similarities_do(folder, model, capsys, passages):
    found = json.loads(q3(capsys, "search", folder, passages, "--query", "Where is Beijing?", "--json", "--top", "9"))
    texts = [line for line in LINES if line.strip()]
    queries, documents = model.encode_query(["Where is Beijing?"]), model.encode_document(texts)
    scores = {text: float(queries[0] @ vector) for text, vector in zip(texts, documents, strict=True)}
    assert [row["text"] for row in found] == sorted(texts, key=lambda text: -scores[text])
    assert [row["line"] for row in found] == [LINES.index(row["text"]) + 1 for row in found]
    np.testing.assert_allclose([row["score"] for row in found], [scores[row["text"]] for row in found], rtol=0, atol=1e-6)


def test_search_prints_score_line_and_text(folder, capsys, passages):
    options = ("search", folder, passages, "--query", "whales")
    best = json.loads(q3(capsys, *options, "--json"))
    assert q3(capsys, *options) == "".join(f"{row['score']:6.3f}  {row['line']:>5}  {row['text']}\n" for row in best)
    assert q3(capsys, *options, "--top", "2").count("\n") == 2


def test_search_takes_an_instruction_and_a_dimension(folder, model, capsys, passages):
    options = ("search", folder, passages, "--query", "whales", "--json", "--top", "1")
    (best,) = json.loads(q3(capsys, *options, "--instruction", "Find an animal", "--dim", "32"))
    query = model.encode_query("whales", instruction="Find an animal", dim=32)
    assert best["score"] == pytest.approx(float(query @ model.encode_document(best["text"], dim=32)), abs=1e-6)


@pytest.mark.parametrize("content", ["\ufeffone\r\ntwo\r\n", "one\ntwo", "one\n\n \ntwo\n"])
def test_search_reads_files_of_every_platform_and_standard_input(folder, capsys, monkeypatch, tmp_path, content):
    (tmp_path / "a.txt").write_bytes(content.encode())
    expected = json.loads(q3(capsys, "search", folder, tmp_path / "a.txt", "--query", "two", "--json"))
    assert {row["text"] for row in expected} == {"one", "two"}
    type_in(monkeypatch, content.encode())
    assert json.loads(q3(capsys, "search", folder, "-", "--query", "two", "--json")) == expected


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"M\xfcnchen\n", "not UTF-8 at byte 1, expected"),
        (b"\xef\xbb\xbfab\xff\n", "not UTF-8 at byte 5, expected"),
        ("two bytes".encode("utf-16"), "not UTF-8 at byte 0, expected"),
        (b"", "no lines with text, expected one passage a line"),
        (b"\n  \n\r\n", "no lines with text, expected one passage a line"),
    ],
)
def test_search_refuses_a_file_without_passages(folder, capsys, tmp_path, content, words):
    (tmp_path / "a.txt").write_bytes(content)
    code, message = refused(capsys, "search", folder, tmp_path / "a.txt", "--query", "x")
    assert code == 3
    assert f"{tmp_path / 'a.txt'}: {words}" in message


@pytest.mark.parametrize("top", [0, -1])
def test_search_for_the_best_none_is_refused(folder, capsys, passages, top):
    code, message = refused(capsys, "search", folder, passages, "--query", "x", "--top", top)
    assert code == 2
    assert f"--top is {top}, expected at least 1" in message


@pytest.mark.parametrize("verb", [["search", "-"], ["rerank", "a document"]], ids=["search", "rerank"])
@pytest.mark.parametrize("option", ["query", "instruction"])
def test_a_query_or_an_instruction_that_is_not_utf_8_is_named_before_the_work(capsys, tmp_path, verb, option):
    """The model is not even looked for; it was said of text 0, after all lines had been embedded."""
    words = {"query": "What?"} | {option: os.fsdecode(b"M\xfcnchen")}
    options = [word for name, text in words.items() for word in (f"--{name}", text)]
    code, message = refused(capsys, verb[0], tmp_path / "missing", *verb[1:], *options)
    assert code == 3
    assert f"--{option}: not UTF-8 at character 1, expected text in UTF-8; " in message


# info


def test_info_shows_what_the_folder_holds(folder, model, capsys):
    out = q3(capsys, "info", folder)
    assert "Tiny-Embedding (embedding), sha256 " in out
    assert "64 dimensions, can be cut to 32, 64; texts of up to 2048 tokens" in out
    assert f"prompt      query: {json.dumps(model.prompts['query'])}\n" in out
    assert "fp32 (default here): 1.8 MB, cosine mean 1.000000, min " in out
    assert "CPUExecutionProvider" in out
    for name in ("torch", "transformers", "onnxruntime"):
        assert f"{name} {model.manifest.made_with[name]}" in out


def test_info_gives_the_manifest_and_the_choice_as_json(folder, model, capsys):
    found = json.loads(q3(capsys, "info", folder, "--json"))
    assert found.pop("default") == {"quant": model.quant, "provider": model.provider}
    assert "CPUExecutionProvider" in found.pop("providers")
    assert found == json.loads((folder / "q3.json").read_text("utf-8"))


def test_info_says_what_was_not_measured(copy, capsys):
    content = json.loads((copy / "q3.json").read_text("utf-8"))
    content["quants"]["fp32"]["fidelity"] = content["license"] = content["source"]["id"] = None
    (copy / "q3.json").write_text(json.dumps(content), encoding="utf-8")
    out = q3(capsys, "info", copy)
    assert "fp32 (default here): 1.8 MB, not measured, " in out
    assert "not stated by the source" in out


# verify


def test_verify_says_ok_and_what_was_measured(folder, capsys):
    out = q3(capsys, "verify", folder, "--quiet")
    assert out.splitlines()[0].startswith("OK     fp32: cosine to PyTorch fp32 over 128 texts: mean 1.000000, min ")
    assert "as exported" in out


def test_verify_gives_all_figures_as_json(folder, model, capsys):
    from q3_runtime.golden import Golden

    found = json.loads(q3(capsys, "verify", folder, "--json"))
    assert found["folder"] == str(folder)
    assert set(found["quants"]) == {"fp32"}
    figures = found["quants"]["fp32"]
    assert set(figures) >= FIGURES
    assert figures["failures"] == []
    assert len(figures["worst"]) == 3
    again = json.loads(json.dumps(measure(model, Golden.read(folder))[0]))
    assert {name: figures[name] for name in again} == again
    assert figures["min"] >= figures["floor"]["min"]


def test_verify_of_a_damaged_folder_exits_6_and_names_the_file(copy, capsys):
    with (copy / "onnx/model.onnx_data").open("r+b") as file:
        file.seek(1000)
        file.write(b"damage")
    code, message = refused(capsys, "verify", copy)
    assert code == 6
    assert f"{copy / 'onnx/model.onnx_data'}: sha256 " in message


def test_verify_below_the_floor_exits_4_and_says_by_how_much(copy, capsys):
    content = json.loads((copy / "q3.json").read_text("utf-8"))
    content["quants"]["fp32"]["fidelity"]["floor"] = {"min": 1.5}
    (copy / "q3.json").write_text(json.dumps(content), encoding="utf-8")
    code = main(["verify", str(copy), "--quiet"])
    out, err = capsys.readouterr()
    assert code == 4
    assert out.startswith("NOT OK fp32: ")
    assert err.count("\n") == 1
    assert "fp32: min cosine 1.000000 is below 1.5" in err or "fp32: min cosine 0.999999 is below 1.5" in err


def test_verify_of_a_quant_that_is_not_there_exits_2(folder, capsys):
    code, message = refused(capsys, "verify", folder, "--quant", "q4")
    assert code == 2
    assert "it has fp32" in message


# Errors


@pytest.mark.parametrize("verb", [["embed", "text"], ["search", "passages.txt", "--query", "x"], ["info"], ["verify"]])
def test_a_folder_that_is_not_there_is_one_line_and_exit_3(capsys, tmp_path, monkeypatch, verb):
    monkeypatch.chdir(tmp_path)
    Path("passages.txt").write_text("text")
    code, message = refused(capsys, verb[0], tmp_path / "missing", *verb[1:])
    assert code == 3
    assert message.startswith(f"q3: error: {tmp_path / 'missing'}: no such folder, expected one written by q3-export; ")


@pytest.mark.parametrize("verb", [["embed", "text"], ["info"], ["verify"], ["doctor"]], ids=lambda verb: verb[0])
def test_a_file_whose_path_could_be_a_name_on_the_hub_is_a_file(capsys, tmp_path, monkeypatch, verb):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/model.onnx").write_text("")
    code, message = refused(capsys, verb[0], "folder/model.onnx", *verb[1:])
    assert code == 3
    assert "folder/model.onnx: a file, expected a folder" in message


def test_debug_shows_the_traceback_and_then_the_same_line(capsys, tmp_path):
    code, line = refused(capsys, "info", tmp_path)
    assert main(["info", str(tmp_path), "--debug"]) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("Traceback (most recent call last):")
    assert err.endswith(line)


def test_with_json_an_error_is_json_too(capsys, tmp_path):
    code, line = refused(capsys, "info", tmp_path, "--json")
    assert code == 3
    error = json.loads(line)["error"]
    assert error["exit_code"] == 3
    assert "a folder without q3.json" in error["message"]


def test_a_path_that_is_not_utf_8_is_one_line_too(capsys):
    done = run("info", os.fsdecode(b"/tmp/M\xfcnchen"))
    assert done.returncode == 3
    assert done.stderr.startswith("q3: error: /tmp/M\\udcfcnchen: no such folder")
    assert done.stderr.count("\n") == 1


def test_a_home_that_nobody_has_is_one_line_too(capsys):
    code, message = refused(capsys, "info", "~nobody-of-this-name/folder")
    assert code == 3
    assert "~nobody-of-this-name/folder: no such folder" in message


def test_no_verb_and_an_unknown_verb_exit_2(capsys):
    for arguments in ([], ["nothing"]):
        with pytest.raises(SystemExit) as caught:
            main(arguments)
        assert caught.value.code == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert re.fullmatch(r"q3: error: .*; type: q3 --help\n", err)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["embed", "DIR", "hi", "--qaunt", "int8"], "q3 embed: error: unrecognized arguments: --qaunt; type: q3 embed --help"),
        (["embed", "DIR", "hi", "--quan", "int8"], "q3 embed: error: unrecognized arguments: --quan; type: q3 embed --help"),
        (
            ["embed", "DIR", "a", "--dim", "32", "--instrution=find the thing"],
            "q3 embed: error: unrecognized arguments: --instrution=find the thing; type: q3 embed --help",
        ),
        (["serve"], "q3 serve: error: the following arguments are required: --model; type: q3 serve --help"),
        (["embed", "DIR", "--dim", "x"], "q3 embed: error: argument --dim: invalid int value: 'x'; type: q3 embed --help"),
        (
            ["bulk", "run"],
            "q3 bulk run: error: the following arguments are required: DIR, INPUT, --out; type: q3 bulk run --help",
        ),
        (["info", "DIR", "more"], "q3 info: error: unrecognized arguments: more; type: q3 info --help"),
    ],
)
def test_a_wrong_call_is_one_line_that_names_its_verb(capsys, arguments, said):
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert (caught.value.code, capsys.readouterr()) == (2, ("", said + "\n"))


@pytest.mark.parametrize(
    ("arguments", "texts"),
    [
        (["--dim", "32", "- a list item", "b"], ["- a list item", "b"]),
        (["--dim", "32", "--", "-5 degrees"], ["-5 degrees"]),
        (["a", "--dim", "32", "--", "-5", "--", "--quant"], ["a", "-5", "--", "--quant"]),
        (["--", "--verbose"], ["--verbose"]),
    ],
)
def test_texts_that_begin_with_a_dash_are_texts(arguments, texts):
    assert parse_args(["embed", "DIR", *arguments]).texts == texts


# Streams and signals


@pytest.mark.parametrize("arguments", [["embed", "a"], ["info"], ["verify", "--quiet"], ["embed", *["text"] * 500]], ids=len)
def test_a_reader_that_leaves_is_no_error(folder, arguments):
    read, write = os.pipe()
    os.close(read)
    done = run(arguments[0], folder, *arguments[1:], stdout=write)
    os.close(write)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    "arguments", [["embed", "text " * 20_000, "--out", "vectors.npy"], ["verify"]], ids=["embed", "verify"]
)
def test_work_of_which_nobody_hears_any_more_is_done_all_the_same(folder, tmp_path, arguments):
    """A warning, and a progress bar, on a standard error without a reader."""
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        command(arguments[0], folder, *arguments[1:]), stdout=subprocess.PIPE, stderr=write, env=environment(), check=False,
        cwd=tmp_path,
    )  # fmt: skip
    os.close(write)
    assert done.returncode == 0
    assert (tmp_path / "vectors.npy").exists() or b"every file is as exported" in done.stdout


def test_head_gets_its_lines(folder):
    first = subprocess.Popen(
        command("embed", folder, *["text"] * 500),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(),
        encoding="utf-8",
    )
    with first:
        assert json.loads(first.stdout.readline())["index"] == 0
        first.stdout.close()
        assert first.stderr.read() == ""
    assert first.returncode == 0


@linux
@pytest.mark.parametrize("arguments", [["info"], ["embed", *["text"] * 500]], ids=len)
def test_an_output_that_is_full_exits_5(folder, arguments):
    with Path("/dev/full").open("w") as full:
        done = run(arguments[0], folder, *arguments[1:], stdout=full)
    assert done.returncode == 5
    assert done.stderr.count("\n") == 1
    assert "No space left on device" in done.stderr


@pytest.mark.parametrize("closed", [0, 1, 2])
def test_a_stream_that_the_caller_has_closed_is_no_error(folder, closed):
    shell = f'exec "$@" {closed}>&-'
    arguments = command("embed", folder, *([] if closed == 0 else ["text"]))
    done = subprocess.run(["/bin/sh", "-c", shell, "sh", *arguments], capture_output=True, env=environment(), check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    assert (b"embedding" in done.stdout) == (closed == 2)


def interruptible() -> None:
    """A shell's background jobs ignore SIGINT, and so would what they start."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def wait_until_read(pipe: object) -> None:
    """Return when the other side has taken everything out of the pipe."""
    left = bytearray(4)
    while fcntl.ioctl(pipe.fileno(), termios.FIONREAD, left) == 0 and any(left):
        time.sleep(0.01)


def start_embedding(folder: Path, tmp_path: Path) -> subprocess.Popen[str]:
    """A command that has read more texts than it can embed in a short time, and embeds them."""
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    arguments = command("embed", folder, "--out", tmp_path / "x.npy")
    process = subprocess.Popen(arguments, **pipes, env=environment(), encoding="utf-8", preexec_fn=interruptible)
    process.stdin.write("gravity bends light, and more of it\n" * 200_000)
    process.stdin.flush()
    wait_until_read(process.stdin)
    process.stdin.close()
    process.stdin = None  # communicate() need not flush it
    time.sleep(0.5)
    assert process.poll() is None
    return process


@linux
@pytest.mark.parametrize(("number", "code", "line"), SIGNALS)
def test_a_signal_while_embedding_ends_it_with_one_line_and_leaves_nothing(folder, tmp_path, number, code, line):
    process = start_embedding(folder, tmp_path)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (code, "", line)
    assert list(tmp_path.iterdir()) == []


def seconds_of(process: subprocess.Popen) -> float:
    """Processor time of a process that runs."""
    fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def seconds_of_ended() -> float:
    """Processor time of all processes that were started here and have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


@linux
@pytest.mark.parametrize(("number", "code", "line"), SIGNALS)
def test_a_signal_does_not_wait_for_the_end_of_a_long_text(copy, number, code, line):
    """Seconds are those of the processor: other work on the machine does not count."""
    tokens = 20_000
    manifest = json.loads((copy / "q3.json").read_text("utf-8"))
    (copy / "q3.json").write_text(json.dumps(manifest | {"max_tokens": tokens}), encoding="utf-8")
    started = time.process_time()
    Embedder(copy).run([np.zeros(tokens, dtype=np.int64)])
    whole = time.process_time() - started
    started = seconds_of_ended()
    assert run("embed", copy, "a").returncode == 0
    start_up = seconds_of_ended() - started

    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    started = seconds_of_ended()
    with subprocess.Popen(command("embed", copy), **pipes, env=environment(), preexec_fn=interruptible) as process:
        process.stdin.write(b"gravity " * tokens)
        process.stdin.close()
        process.stdin = None
        while seconds_of(process) < start_up + whole / 5:
            time.sleep(0.01)
        process.send_signal(number)
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err.decode()) == (code, b"", line)
    assert seconds_of_ended() - started < start_up + 0.7 * whole


@pytest.mark.parametrize(("number", "code", "line"), SIGNALS)
def test_a_signal_of_which_c_code_makes_another_error_is_still_a_signal(capsys, number, code, line):
    """safetensors and PyTorch do, where it arrives while they call Python: "could not determine the shape of object"."""

    def run(_: Namespace) -> int:
        try:
            os.kill(os.getpid(), number)
            time.sleep(10)
        except BaseException:
            raise ValueError("could not determine the shape of object") from None
        return 0

    assert run_safely("q3", run, Namespace()) == code
    assert capsys.readouterr().err == line


@pytest.mark.parametrize(("program", "command_main"), [("q3", main), ("q3-export", export_main)])
def test_ctrl_c_before_the_arguments_are_understood_is_one_line_too(capsys, monkeypatch, program, command_main):
    monkeypatch.setattr(ArgumentParser, "parse_known_args", lambda *_: os.kill(os.getpid(), signal.SIGINT))
    assert command_main(["--version"]) == 130
    assert capsys.readouterr().err == f"\n{program}: interrupted; nothing half-written was left behind\n"


@linux
@pytest.mark.parametrize(("number", "code", "line"), SIGNALS)
def test_a_signal_while_onnxruntime_is_imported_is_no_broken_installation(folder, tmp_path, number, code, line):
    """An extension that is interrupted while it starts fails with an ImportError."""
    interrupted = f"""
import os, time
try:
    os.kill(os.getpid(), {int(number)})
    time.sleep(10)
except BaseException as error:
    raise ImportError("initialization failed") from error
"""
    (tmp_path / "onnxruntime.py").write_text(interrupted)
    path = os.pathsep.join([str(tmp_path), *filter(None, sys.path)])
    done = run("info", folder, env=environment(PYTHONPATH=path), preexec_fn=interruptible)
    assert (done.returncode, done.stdout, done.stderr) == (code, "", line)


@linux
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_while_waiting_for_standard_input_ends_it_too(folder, number, code):
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    process = subprocess.Popen(command("embed", folder), **pipes, env=environment(), preexec_fn=interruptible)
    with process:
        process.stdin.write(b"a line\n")
        process.stdin.flush()
        wait_until_read(process.stdin)
        time.sleep(1)  # until it waits again: Python handles a signal that comes just before a read behind that read
        process.send_signal(number)
        assert process.wait(60) == code
        assert b"Traceback" not in process.stderr.read()


def test_version_and_help_go_to_standard_output(capsys):
    for option in ("--version", "--help"):
        with pytest.raises(SystemExit) as caught:
            main([option])
        assert not caught.value.code
        out, err = capsys.readouterr()
        assert err == ""
        assert "q3" in out


def test_bench_measures_what_the_model_does_here(capsys, folder, passages):
    figures = json.loads(q3(capsys, "bench", folder, "--file", passages, "--json"))
    assert (figures["mix_texts"], set(figures["tokens_per_second"])) == (4, {"1x128", "8x128", "4x512", "mix"})
    assert min(figures["tokens_per_second"].values()) > 0
    assert 0 < figures["query_p50"] <= figures["query_p95"]
    assert sys.platform != "linux" or 30e6 < figures["memory"] < 2e9
    lines = q3(capsys, "bench", folder).splitlines()
    assert [line.split()[0] for line in lines[:6]] == ["load", "one", "1x128", "8x128", "4x512", "mix"]
    passages.write_text("\n\n", encoding="utf-8")
    assert main(["bench", str(folder), "--file", str(passages)]) == 3
    assert "no lines with text" in capsys.readouterr().err


def test_verify_holds_one_model_at_a_time(mini_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else two quants of an 8B would need the memory of both."""
    opened: list[Embedder] = []

    class Counted(Embedder):
        def __init__(self, *args: object, **options: object) -> None:
            assert [model for model in opened if model._runner._session is not None] == []
            super().__init__(*args, **options)
            opened.append(self)

    monkeypatch.setattr(fidelity, "Embedder", Counted)
    fidelity.verify_folder(mini_folder, golden=few_probes(mini_folder))
    assert len(opened) > 1


def few_probes(folder: Path) -> Golden:
    golden = Golden.read(folder)
    return Golden(golden.probes[:3], golden.vectors[:3])


def test_the_end_of_memory_is_one_line_with_the_code_of_hardware(capsys: pytest.CaptureFixture[str]) -> None:
    def run_out(_: Namespace) -> int:
        raise MemoryError("malloc of size 5 failed")

    assert run_safely("q3", run_out, Namespace()) == 7
    assert re.fullmatch(r"q3: error\[E_MEMORY\]: not enough memory \(malloc of size 5 failed\); .*\n", capsys.readouterr().err)


@pytest.mark.parametrize("name", ["nothing.txt", "folder", "file.txt/below"])
def test_a_file_of_lines_that_is_none_is_a_wrong_input(folder: Path, tmp_path: Path, capsys, name: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file.txt").write_text("a")
    code, message = refused(capsys, "search", folder, tmp_path / name, "--query", "a")
    assert code == 3
    assert f"{tmp_path / name}: " in message
    assert "expected a file; check the path" in message


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (
            {"config.json": "{}", "model.safetensors": ""},
            "a checkpoint, expected a folder written by q3-export; type: q3-export",
        ),
        ({"model.onnx": ""}, "a folder without q3.json, expected a folder written by q3-export; give another one (q3 doctor"),
        (None, "a file, expected a folder written by q3-export; give the folder"),
    ],
)
def test_what_is_given_in_the_place_of_a_folder_is_named_with_what_to_do(tmp_path: Path, capsys, content, said: str) -> None:
    place = tmp_path / "place"
    if content is None:
        place.write_text("")
    else:
        place.mkdir()
        for name, text in content.items():
            (place / name).write_text(text)
    code, message = refused(capsys, "embed", place, "hi")
    assert code == 3
    assert f"{place}: {said}" in message
