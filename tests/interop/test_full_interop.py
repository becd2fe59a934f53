"""Every loader that the README names, in its own environment, on the folders as they were exported; writes docs/loaders.md."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from tests.conftest import ROOT
from tests.support.environments import Environment, environment
from tests.support.foreign import export_with_optimum, export_with_wrong_prompt
from tests.support.node import run_script
from tests.support.peers import MIN_COSINE, QUANTS, TEXTS, lowest_cosine, run_unset
from tests.support.tei_rules import ONNXRUNTIME, problems

from q3_export import export_model
from q3_export.recipes import TEI
from q3_runtime import Embedder, Reranker
from q3_runtime.doctor import diagnose
from q3_runtime.quants import QUANTS as TABLE

pytestmark = pytest.mark.full("interop")

MAX_ODDS_DELTA = 1e-3
"""Log-odds of a reranker: the largest difference that padding and batches may make."""
DOCUMENT = ROOT / "docs/loaders.md"
MARKS = "<!-- loaders -->", "<!-- /loaders -->"
HEAD = f"""# Loaders

`scripts/test --full interop` wrote this file. It installs each tool into an environment of its own and lets it load a folder
that `q3-export --quant {",".join(QUANTS)}` made of `models/mini`, as it came out. The vectors are compared with those of
`q3_runtime` for the same quant, over queries and documents of one to some hundred tokens in one batch. Below a cosine of
{MIN_COSINE} the run fails. The reranker has random weights; its log-odds may differ by {MAX_ODDS_DELTA}. `build/interop` keeps
the versions of all that was installed.

On a CPU that loses sums of 8-bit products (AVX2 and AVX-512 without VNNI) `q3_runtime` has int8 computed precisely. These tools
have not, unless they take `SessionOptions` with `add_session_config_entry("session.x64quantprecision", "1")`: load q8 there.

| tool | version | loads | quants | lowest cosine to ours |
|---|---|---|---|---|
"""
PAIRS = [
    ("How do whales sleep?", "Half of a whale's brain sleeps at a time."),
    ("How do whales sleep?", "Whales sing. " * 30),
    ("x", ""),
    ("唐朝的都城在哪里？", "def f(x):\n    return x + 1"),
]


@dataclass(frozen=True)
class Row:
    """What one tool did with the folder. ``nearness`` is a cosine, or words where there are no vectors."""

    tool: str
    version: str
    loads: str
    quants: Sequence[str]
    nearness: float | str

    @property
    def measured(self) -> str:
        """The nearness, written."""
        return self.nearness if isinstance(self.nearness, str) else f"{self.nearness:.7f}"

    def short(self, name: str) -> str:
        """As the README has it, under its name among ROWS."""
        named = name if name.startswith(self.tool) else f"{self.tool} {name}"
        return f"| {named} | {self.version} | {', '.join(self.quants)} | {self.measured} |"

    def __str__(self) -> str:
        return f"| {self.tool} | {self.version} | {self.loads} | {', '.join(self.quants)} | {self.measured} |"


ROWS = {
    "sentence-transformers": '`SentenceTransformer(DIR, backend="onnx", model_kwargs={"file_name": FILE})`',
    "CrossEncoder": '`CrossEncoder(DIR, backend="onnx", model_kwargs={"file_name": FILE})`, a reranker\'s folder',
    "ORTModelForFeatureExtraction": "`ORTModelForFeatureExtraction`: `last_hidden_state`, pooled by the caller",
    "ORTModelForCustomTasks": "`ORTModelForCustomTasks`: `sentence_embedding` too",
    "fastembed in the graph": '`add_custom_model(…, pooling=PoolingType.DISABLED, output_name="sentence_embedding")`',
    "fastembed last token": "`add_custom_model(…, pooling=PoolingType.LAST_TOKEN)`",
    "transformers.js pipeline": '`pipeline("feature-extraction")`, pooling `last_token`',
    "transformers.js sentence_embedding": "`AutoModel`, output `sentence_embedding`",
    "onnxruntime": "the lines in the folder's README.md",
    "text-embeddings-inference": "a folder whose graph is `onnx/model.onnx`; the rules of its ONNX loader, not the server",
}
"""What is loaded by each, in the order of the table; the last test wants a row of every one."""


@pytest.fixture(scope="module")
def rows() -> dict[str, Row]:
    """The table, filled by the tests that passed."""
    return {}


@pytest.fixture(scope="module")
def optimum() -> Environment:
    return environment("interop-optimum")


@pytest.fixture(scope="module")
def fastembed() -> Environment:
    return environment("interop-fastembed")


@pytest.fixture(scope="module")
def reranker(reranker_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Only compared with itself, so its fidelity is not measured."""
    return export_model(reranker_checkpoint, quant=QUANTS, out=tmp_path_factory.mktemp("exports") / "onnx", no_verify=True)


def test_sentence_transformers(optimum: Environment, mini_folder: Path, rows: dict[str, Row]) -> None:
    cosines = {}
    for quant in QUANTS:
        theirs = optimum.run("sentence_transformers_vectors.py", mini_folder, TABLE[quant].onnx_file, given=TEXTS)
        cosines[quant] = lowest_cosine(mini_folder, quant, theirs)
    assert min(cosines.values()) >= MIN_COSINE, cosines
    version = f"{optimum.version('sentence-transformers')}, optimum-onnx {optimum.version('optimum-onnx')}"
    add(rows, "sentence-transformers", "sentence-transformers", version, QUANTS, min(cosines.values()))


def test_cross_encoder(optimum: Environment, reranker: Path, rows: dict[str, Row]) -> None:
    deltas = {}
    for quant in QUANTS:
        theirs = optimum.run("card_scores.py", reranker, TABLE[quant].onnx_file, given=PAIRS)
        with Reranker(reranker, quant=quant) as model:
            bodies = [model.template.fill(*pair) for pair in PAIRS]
            ours = run_unset(model, model.tokenizer.encode(bodies))[:, 0]
        deltas[quant] = float(np.abs(np.array(theirs) - ours).max())
    assert max(deltas.values()) <= MAX_ODDS_DELTA, deltas
    words = f"log-odds differ by {max(deltas.values()):.0e}" if any(deltas.values()) else "equal log-odds"
    add(rows, "CrossEncoder", "sentence-transformers", optimum.version("sentence-transformers"), QUANTS, words)


def test_optimum(optimum: Environment, mini_folder: Path, rows: dict[str, Row]) -> None:
    cosines: dict[str, dict[str, float]] = {}
    for quant in QUANTS:
        found = optimum.run("optimum_vectors.py", mini_folder, TABLE[quant].onnx_file, given=TEXTS)
        for name, theirs in found.items():
            cosines.setdefault(name, {})[quant] = lowest_cosine(mini_folder, quant, theirs)
    for name, of_quants in cosines.items():
        assert min(of_quants.values()) >= MIN_COSINE, cosines
        add(rows, name, "optimum-onnx", optimum.version("optimum-onnx"), QUANTS, min(of_quants.values()))


@pytest.mark.parametrize("pooling", ["in the graph", "last token"])
def test_fastembed(fastembed: Environment, mini_folder: Path, rows: dict[str, Row], pooling: str) -> None:
    cosines = {}
    for quant in QUANTS:
        theirs = fastembed.run("fastembed_vectors.py", mini_folder, TABLE[quant].onnx_file, pooling, given=TEXTS)
        cosines[quant] = lowest_cosine(mini_folder, quant, theirs)
    assert min(cosines.values()) >= MIN_COSINE, cosines
    add(rows, f"fastembed {pooling}", "fastembed", fastembed.version("fastembed"), QUANTS, min(cosines.values()))


def test_transformers_js(mini_folder: Path, rows: dict[str, Row]) -> None:
    """Where Node.js is missing this fails: it is a long proof."""
    assert shutil.which("node"), "node is not installed; see CONTRIBUTING.md"
    prompts = json.loads((mini_folder / "config_sentence_transformers.json").read_text("utf-8"))["prompts"]
    texts = [prompts[kind] + text for kind in TEXTS for text in TEXTS[kind]]
    found = run_script(ROOT / "tests/interop/node/embed.mjs", {"folder": str(mini_folder), "texts": texts, "quants": QUANTS})
    for output in ("pipeline", "sentence_embedding"):
        cosines = {}
        for quant in QUANTS:
            theirs = iter(found["vectors"][quant][output])
            given = {kind: [next(theirs) for _ in TEXTS[kind]] for kind in TEXTS}
            cosines[quant] = lowest_cosine(mini_folder, quant, given)
        assert min(cosines.values()) >= MIN_COSINE, cosines
        version = found["versions"]["transformers"]
        add(rows, f"transformers.js {output}", "transformers.js", version, QUANTS, min(cosines.values()))


def test_onnxruntime_alone(mini_folder: Path, rows: dict[str, Row]) -> None:
    plain = environment("interop-onnxruntime")
    cosines = {}
    for quant in QUANTS:
        theirs = plain.run("card_vectors.py", mini_folder, TABLE[quant].onnx_file, "InferenceSession(", given=TEXTS)
        cosines[quant] = lowest_cosine(mini_folder, quant, theirs)
    assert min(cosines.values()) >= MIN_COSINE, cosines
    add(rows, "onnxruntime", "onnxruntime", plain.version("onnxruntime"), QUANTS, min(cosines.values()))


@pytest.mark.parametrize(("tool", "group"), [("SentenceTransformer(", "optimum"), ("TextEmbedding(", "fastembed")])
def test_the_lines_of_the_card_do_what_they_say(mini_folder: Path, tool: str, group: str) -> None:
    peer = environment(f"interop-{group}")
    theirs = peer.run("card_vectors.py", mini_folder, TABLE["int8"].onnx_file, tool, given=TEXTS)
    assert lowest_cosine(mini_folder, "int8", theirs) >= MIN_COSINE


def test_the_lines_of_the_card_for_transformers_js_do_what_they_say(mini_folder: Path, tmp_path: Path) -> None:
    (block,) = re.findall(r"```js\n(.*?)```", (mini_folder / "README.md").read_text("utf-8"), re.DOTALL)
    texts = TEXTS["document"]
    for found, given in {
        '"PARENT"': str(mini_folder.parent),
        '"NAME"': mini_folder.name,
        '"fp32"': "int8",
        '["…"]': texts,
    }.items():
        assert block.count(found) == 1
        block = block.replace(found, json.dumps(given))
    (tmp_path / "card.mjs").write_text(block + "console.log(JSON.stringify(vectors));\n", "utf-8")
    shutil.copy(ROOT / "tests/interop/node/package.json", tmp_path)
    with Embedder(mini_folder, quant="int8") as model:
        ours = run_unset(model, model.tokenizer.encode(texts))
    assert (np.array(run_script(tmp_path / "card.mjs", {})) * ours).sum(-1).min() >= MIN_COSINE


def test_text_embeddings_inference(mini_folder: Path, rows: dict[str, Row], tmp_path: Path) -> None:
    """Its rules, and its own versions of ONNX Runtime and tokenizers, fed as it feeds them."""
    peer = environment("interop-tei")
    assert peer.version("onnxruntime") == ONNXRUNTIME
    cosines = {}
    for quant in TEI:
        folder = export_model("mini", quant=quant, layout="tei", out=tmp_path / quant)
        assert problems(folder) == []
        cosines[quant] = lowest_cosine(folder, quant, peer.run("tei_vectors.py", folder, given=TEXTS))
    assert min(cosines.values()) >= MIN_COSINE, cosines
    version = f"1.9.3, onnxruntime {ONNXRUNTIME}"
    add(rows, "text-embeddings-inference", "text-embeddings-inference", version, list(TEI), min(cosines.values()))


def test_text_embeddings_inference_refuses_what_the_rules_say(mini_folder: Path, tmp_path: Path) -> None:
    without = shutil.copytree(mini_folder, tmp_path / "without", ignore=shutil.ignore_patterns("model.onnx*"))
    assert problems(without) == ["no model.onnx and no onnx/model.onnx (backends/ort/src/lib.rs, OrtBackend::new)"]
    for quant, needed in {"fp32": "1.28", "int8": "1.23", "q8": "1.23", "q4": "1.23"}.items():
        folder = shutil.copytree(mini_folder, tmp_path / quant)
        (folder / "onnx/model.onnx").write_bytes((folder / TABLE[quant].onnx_file).read_bytes())
        assert any(f"needs onnxruntime {needed}" in problem for problem in problems(folder))
        with pytest.raises(AssertionError, match="INVALID_GRAPH"):
            environment("interop-tei").run("tei_vectors.py", folder, given=TEXTS)


def test_a_folder_exported_with_optimum_is_diagnosed(optimum: Environment, tmp_path: Path) -> None:
    found = diagnose(export_with_optimum(optimum, ROOT / "models/mini", tmp_path / "foreign"))
    said = {finding.check: finding.text for finding in found.problems}
    assert said.keys() == {"inputs", "padding side", "prompt", "pooling"}
    assert "position_ids" in said["inputs"]
    assert "takes the mean of all tokens" in said["pooling"]
    loads = {verdict.tool: verdict.loads for verdict in found.loaders}
    assert loads == dict.fromkeys(loads, False) | {"optimum": True}


def test_a_folder_with_a_wrong_prompt_and_mean_pooling_is_diagnosed(optimum: Environment, tmp_path: Path) -> None:
    found = diagnose(export_with_wrong_prompt(optimum, ROOT / "models/mini", tmp_path / "foreign"))
    said = {finding.check: finding.text for finding in found.problems}
    assert 'it ends in "Query: ", expected "Query:"' in said["prompt"]
    assert "mean, expected lasttoken" in said["pooling"]


def test_mteb_langchain_and_llamaindex_take_our_folders() -> None:
    """Their tests, none of which is skipped: this group installs them."""
    files = ["tests/interop/test_mteb.py", "tests/interop/test_frameworks.py"]
    run = subprocess.run([sys.executable, "-m", "pytest", "-q", *files], cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout
    assert "skipped" not in run.stdout


def test_the_table_of_loaders_is_written(rows: dict[str, Row]) -> None:
    """Into its document, and the same rows, without what is typed, between the marks in the README."""
    assert set(rows) == set(ROWS), f"no row of {set(ROWS) - set(rows)}: a test above failed or was left out"
    DOCUMENT.write_text(HEAD + "\n".join(str(rows[name]) for name in ROWS) + "\n", "utf-8")
    table = "\n".join(
        ["| tool | version | loads | cosine to ours |", "|---|---|---|---|", *(rows[name].short(name) for name in ROWS)]
    )
    readme = ROOT / "README.md"
    before, _, rest = readme.read_text("utf-8").partition(MARKS[0])
    readme.write_text(f"{before}{MARKS[0]}\n{table}\n{MARKS[1]}{rest.partition(MARKS[1])[2]}", "utf-8")


def add(rows: dict[str, Row], name: str, tool: str, version: str, quants: Sequence[str], nearness: float | str) -> None:
    rows[name] = Row(tool, version, ROWS[name], quants, nearness)
