"""The page in examples/web, as scripts/web serves it, in headless Chromium."""

import contextlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
import tokenizers
from playwright.sync_api import Browser, Playwright, expect, sync_playwright
from tests.conftest import ROOT
from tests.support.node import program
from tests.support.web_page import PATIENCE, Site, Visit, in_manifest, launched, with_content, without

from q3_runtime import Embedder

SHOTS = ROOT / "build/web-shots"
NOTES = (ROOT / "examples/notes.txt").read_text("utf-8").splitlines()
ANSWERS = {"Can I deduct gifts": "A donation", "What killed": "The Black Death", "Wann muss": "Für einen"}
BY_BLOCKS = {"q8": "model_quantized.onnx", "q4": "model_q4.onnx"}
SIDE_FILES = ("tokenizer.json", "tokenizer_config.json")
MAX_DELTA, MAX_DELTA_INT8 = 1e-5, 5e-3
"""Of a score. WASM's sums differ from a CPU's in their last bits: by 2e-7 in fp32. In int8 a third of the texts round an
activation to the next of 255 steps for it, which is up to 1 − cosine of 1e-5 in a vector, and so 4.5e-3 in a score."""
Open = Callable[..., Visit]


@pytest.fixture(scope="module")
def site(mini_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    program("npm")
    root = tmp_path_factory.mktemp("site") / "web"
    log = root.with_name("log")
    with log.open("w") as errors:
        command = [str(ROOT / "scripts/web"), str(mini_folder)]
        environment = os.environ | {"PORT": "0", "WEB": str(root), "VENV": sys.prefix}
        with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=errors, text=True) as server:
            try:
                address = re.search(r"\((http://127\.0\.0\.1:\d+/)\)", server.stdout.readline())
                assert address, log.read_text()
                yield Site(root, address[1])
            finally:
                server.terminate()


@pytest.fixture(scope="module")
def playwright() -> Iterator[Playwright]:
    with sync_playwright() as found:
        yield found


@pytest.fixture(scope="module")
def browser(playwright: Playwright) -> Iterator[Browser]:
    with launched(playwright) as found:
        yield found


@pytest.fixture
def visit(browser: Browser) -> Iterator[Open]:
    """Opens pages, which are closed when the test is over."""
    with contextlib.ExitStack() as stack:
        yield lambda url, **options: Visit.to(stack.enter_context(browser.new_context(**options)), url)


def our_scores(folder: Path, quant: str, query: str, lines: list[str], **checks: bool) -> np.ndarray:
    with Embedder(folder, quant=quant, **checks) as model:
        return model.similarity(model.encode_query([query]), model.encode_document(lines))[0]


def test_it_ranks_by_meaning_and_asks_nobody_but_its_own_server(site: Site, visit: Open, mini_folder: Path) -> None:
    opened = visit(site.url)
    first = opened.ranking()
    assert first[0][0].startswith("To mend a punctured bicycle tube")
    lines = opened.page.get_by_label("Texts, one a line").input_value().split("\n")
    assert sorted(text for text, _ in first) == sorted(line for line in lines if line)
    for button, answer in ANSWERS.items():
        opened.page.get_by_role("button", name=button).click()
        expect(opened.page.locator("#results li").first.locator("span")).to_contain_text(answer, timeout=PATIENCE)
        expect(opened.page.get_by_role("status")).to_contain_text("only the query embedded")
        query = opened.page.get_by_label("Query").input_value()
        texts, scores = zip(*opened.ranking(), strict=True)
        assert list(scores) == sorted(scores, reverse=True)
        assert np.abs(our_scores(mini_folder, "int8", query, list(texts)) - scores).max() <= MAX_DELTA_INT8
    assert opened.complaints == []
    assert any(url.endswith("model_int8.onnx_data") for url in opened.requests)
    assert [url for url in opened.requests if not url.startswith((site.url, "data:"))] == []


def test_it_shows_how_many_bytes_of_the_model_are_there(site: Site, visit: Open) -> None:
    opened = visit(site.url)
    opened.ranking()
    found = [re.fullmatch(r"([\d.]+) of ([\d.]+) MB", text) for text in opened.page.evaluate("window.figures")]
    done, total = zip(*[(float(match[1]), float(match[2])) for match in found if match], strict=True)
    manifest = json.loads((site.root / "model/q3.json").read_text())
    needed = [manifest["files"][name] for name in SIDE_FILES]
    needed += manifest["quants"]["int8"]["files"].values()
    runtime = (site.root / "vendor/ort-wasm-simd-threaded.wasm").stat().st_size
    assert set(total) == {round((runtime + sum(entry["bytes"] for entry in needed)) / 1e6, 1)}
    assert len(set(done)) >= 10
    assert list(done) == sorted(done)
    assert done[-1] == total[-1]


@pytest.mark.parametrize("quant", ["fp32", "int8", "q8", "q4"])
def test_every_quant_gives_our_scores(site: Site, visit: Open, mini_folder: Path, tmp_path: Path, quant: str) -> None:
    opened = visit(f"{site.url}?quant={quant}")
    texts, scores = zip(*opened.ranking(), strict=True)
    folder, checks = mini_folder, {}
    if quant in BY_BLOCKS:
        # Built for WASM, MatMulNBits has no kernel that rounds activations to 8 bits and takes them in float32: level 0.
        folder = shutil.copytree(mini_folder, tmp_path / "level-0")
        checks = {"check_hashes": False, "self_check": False}
        graph = onnx.load(folder / "onnx" / BY_BLOCKS[quant], load_external_data=False)
        levels = [a for node in graph.graph.node for a in node.attribute if a.name == "accuracy_level"]
        assert {level.i for level in levels} == {4}
        for level in levels:
            level.i = 0
        onnx.save(graph, folder / "onnx" / BY_BLOCKS[quant])
    query, most = opened.page.get_by_label("Query").input_value(), MAX_DELTA_INT8 if quant == "int8" else MAX_DELTA
    assert np.abs(our_scores(folder, quant, query, list(texts), **checks) - scores).max() <= most


def test_a_newer_question_does_not_wait_for_an_older_one_and_keeps_its_vectors(
    site: Site, visit: Open, mini_folder: Path
) -> None:
    opened = visit(site.url)
    opened.ranking()
    lines = [f"{line} {i}" for i in range(3) for line in NOTES]
    opened.ask("rain", lines)
    expect(opened.page.locator("#figures")).to_contain_text(re.compile("[1-9]\\d* of 120"), timeout=PATIENCE)
    opened.ask("How do I repair a flat tyre?")
    expect(opened.page.get_by_role("status")).to_contain_text("120 lines ranked", timeout=PATIENCE)
    embedded = int(re.search(r"(\d+) embedded", opened.page.get_by_role("status").inner_text())[1])
    assert 0 < embedded < 120
    ranking = dict(opened.ranking())
    assert len(ranking) == 100
    texts = list(ranking)
    ours = our_scores(mini_folder, "int8", "How do I repair a flat tyre?", texts)
    assert np.abs(ours - [ranking[text] for text in texts]).max() <= MAX_DELTA_INT8


def test_a_long_line_is_cut_as_our_runtime_cuts_it_and_this_is_said(site: Site, visit: Open, mini_folder: Path) -> None:
    opened = visit(site.url)
    opened.ranking()
    lines = ["Patch the tube, and pump up the tyre. " * 400, "Boil the rice."]
    opened.ask("flat tyre", lines)
    expect(opened.page.get_by_role("status")).to_contain_text("1 text longer than the model reads, cut", timeout=PATIENCE)
    scores = dict(opened.ranking())
    with pytest.warns(UserWarning, match="1 of 2 texts"):
        ours = our_scores(mini_folder, "int8", "flat tyre", [line.strip() for line in lines])
    assert np.abs(ours - [scores[line.strip()] for line in lines]).max() <= MAX_DELTA_INT8


def test_prompts_are_those_of_the_manifest_for_lines_too(site: Site, visit: Open, mini_folder: Path, tmp_path: Path) -> None:
    prompts = {"query": "Frage: ", "document": "Absatz: "}
    opened = visit(site.damaged("prompts", in_manifest(lambda manifest: manifest.update(prompts=prompts))))
    texts, scores = zip(*opened.ranking(), strict=True)
    query = opened.page.get_by_label("Query").input_value()
    with Embedder(mini_folder, quant="int8") as model:
        ours = model.similarity(model.encode([query], prompt="Frage: "), model.encode(list(texts), prompt="Absatz: "))[0]
        plain = model.similarity(model.encode([query], prompt="Frage: "), model.encode(list(texts)))[0]
    assert np.abs(ours - scores).max() <= MAX_DELTA_INT8
    assert np.abs(plain - scores).max() > 5 * MAX_DELTA_INT8


def test_a_worker_that_asks_another_server_is_held_back(site: Site, visit: Open) -> None:
    """The worker's own file must have the policy in its header."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        other.settimeout(1)
        call = f'fetch("http://127.0.0.1:{other.getsockname()[1]}/", {{ mode: "no-cors" }}).catch(() => {{}});\n'
        opened = visit(site.damaged("spying", with_content("worker.js", lambda old: old + call.encode())))
        opened.ranking()
        with pytest.raises(TimeoutError):
            other.accept()


def test_a_model_that_gives_no_numbers_is_said_and_nothing_is_ranked(site: Site, visit: Open) -> None:
    def zeros(content: bytes) -> bytes:
        graph = onnx.load_from_string(content)
        for node in graph.graph.node:
            node.output[:] = ["normal" if name == "sentence_embedding" else name for name in node.output]
        graph.graph.initializer.append(onnx.numpy_helper.from_array(np.float32(0), "nothing"))
        graph.graph.node.append(onnx.helper.make_node("Mul", ["normal", "nothing"], ["sentence_embedding"]))
        return graph.SerializeToString()

    page = visit(site.damaged("zeros", with_content("model/onnx/model_int8.onnx", zeros, listed=True))).page
    expect(page.get_by_role("alert")).to_contain_text("the model gave NaN, infinity or zeros", timeout=PATIENCE)
    expect(page.locator("#results li")).to_have_count(0)


def test_its_tokenizer_gives_the_ids_of_tokenizers(site: Site, visit: Open, mini_folder: Path) -> None:
    probes = (ROOT / "export/q3_export/data/probes.jsonl").read_text("utf-8").splitlines()
    texts = [json.loads(line)["text"] for line in probes] + ["a<|im_end|>b <|endoftext|>", "<think> </think>"]
    script = """async (texts) => {
      const { Tokenizer } = await import("./vendor/tokenizers.min.mjs");
      const [content, settings] = await Promise.all(
        ["tokenizer.json", "tokenizer_config.json"].map(async (name) => (await fetch("model/" + name)).json()));
      const tokenizer = new Tokenizer(content, settings);
      return texts.map((text) => tokenizer.encode(text).ids);
    }"""
    found = visit(site.url).page.evaluate(script, texts)
    expected = tokenizers.Tokenizer.from_file(str(mini_folder / "tokenizer.json")).encode_batch(texts)
    assert found == [encoding.ids for encoding in expected]


WEIGHTS = "model/onnx/model_int8.onnx_data"
FAULTS = {
    "no-manifest": (without("model/q3.json"), r"model/q3\.json is missing \(HTTP 404\); run scripts/web again"),
    "no-weights": (without(WEIGHTS), r"model/onnx/model_int8\.onnx_data is missing \(HTTP 404\); run scripts/web again"),
    "no-tokenizer": (without("model/tokenizer.json"), r"model/tokenizer\.json is missing \(HTTP 404\); run scripts/web again"),
    "no-wasm": (without("vendor/ort-wasm-simd-threaded.wasm"), r"vendor/ort-wasm-simd-threaded\.wasm is missing \(HTTP 404\)"),
    "no-library": (
        without("vendor/ort.wasm.bundle.min.mjs"),
        r"vendor/ort\.wasm\.bundle\.min\.mjs is missing or cannot be read",
    ),
    "no-worker": (without("worker.js"), r"The worker stopped: one of its scripts is missing, or this browser is too old"),
    "flipped-byte": (
        with_content(WEIGHTS, lambda old: old[:-1] + bytes([old[-1] ^ 1])),
        r"model_int8\.onnx_data is damaged: sha256 \w{12}…, expected \w{12}…; copy or export the folder again",
    ),
    "cut-short": (with_content(WEIGHTS, lambda old: old[:-7]), r"is damaged: \d+ bytes, expected \d+; copy or export"),
    "manifest-no-json": (with_content("model/q3.json", lambda old: old[:99]), r"model/q3\.json is damaged: not JSON"),
    "newer-schema": (
        in_manifest(lambda manifest: manifest.update(schema_version=2)),
        r"model/q3\.json has schema 2, this page reads 1",
    ),
    "reranker": (in_manifest(lambda manifest: manifest.update(kind="reranker")), r"a reranker, expected an embedding model"),
    "unlisted": (in_manifest(lambda manifest: manifest["files"].pop("tokenizer.json")), r"does not list tokenizer\.json"),
    "broken-graph": (
        with_content("model/onnx/model_int8.onnx", lambda _: b"no graph", listed=True),
        r"onnxruntime cannot start with model/onnx/model_int8\.onnx: .+",
    ),
    "broken-wasm": (
        with_content("vendor/ort-wasm-simd-threaded.wasm", lambda old: old[: len(old) // 2]),
        r"onnxruntime cannot start with model/onnx/model_int8\.onnx: .+",
    ),
    "broken-tokenizer": (
        with_content("model/tokenizer.json", lambda _: b"{}", listed=True),
        r"model/tokenizer\.json cannot be used in this page: .+",
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_missing_or_broken_file_is_named(site: Site, visit: Open, name: str) -> None:
    damage, expected = FAULTS[name]
    page = visit(site.damaged(name, damage)).page
    expect(page.get_by_role("alert")).to_have_text(re.compile(expected), timeout=PATIENCE)
    expect(page.get_by_role("status")).to_have_text("Stopped.")
    expect(page.get_by_role("button", name="Search")).to_be_disabled()
    expect(page.locator("progress")).to_be_hidden()


def test_a_quant_that_the_folder_lacks_is_refused(site: Site, visit: Open) -> None:
    page = visit(f"{site.url}?quant=q2").page
    expect(page.get_by_role("alert")).to_contain_text("model/ has no quant q2, it has fp32, int8, q8, q4", timeout=PATIENCE)


def test_empty_fields_are_refused_and_the_page_goes_on(site: Site, visit: Open) -> None:
    opened = visit(site.url)
    opened.ranking()
    for query, lines, label, message in (
        ("rain", [" ", ""], "Texts, one a line", "paste at least one line"),
        ("  ", ["wet"], "Query", "type what you look for"),
    ):
        opened.ask(query, lines)
        expect(opened.page.get_by_role("alert")).to_contain_text(message)
        expect(opened.page.get_by_label(label)).to_be_focused()
        expect(opened.page.get_by_label(label)).to_have_attribute("aria-invalid", "true")
        expect(opened.page.locator("#results li")).to_have_count(0)
    opened.ask("rain", ["Dry sand.", "A wet afternoon with showers."])
    assert [text for text, _ in opened.ranking()] == ["A wet afternoon with showers.", "Dry sand."]
    expect(opened.page.get_by_label("Query")).to_have_attribute("aria-invalid", "false")


def test_a_browser_without_webassembly_is_told_so(site: Site, playwright: Playwright) -> None:
    with launched(playwright, "--js-flags=--jitless") as browser:
        page = Visit.to(browser.new_context(), site.url).page
        expect(page.get_by_role("alert")).to_contain_text("WebAssembly is not available in this browser", timeout=PATIENCE)


def test_opened_as_a_file_it_says_what_to_type(site: Site, visit: Open) -> None:
    page = visit((site.root / "index.html").as_uri()).page
    expect(page.get_by_role("alert")).to_contain_text("type scripts/web instead", timeout=PATIENCE)


def test_without_its_script_the_page_says_what_it_waits_for(site: Site, visit: Open) -> None:
    for url, options in ((site.url, {"java_script_enabled": False}), (site.damaged("no-app", without("app.js")), {})):
        page = visit(url, **options).page
        expect(page.get_by_role("status")).to_contain_text("JavaScript is off or app.js is missing", timeout=PATIENCE)


def test_the_script_says_in_one_line_what_is_wrong(site: Site, tmp_path: Path) -> None:
    port = site.url.rstrip("/").rpartition(":")[2]
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/worker.js").write_text("// of another site\n")
    for argument, environment, code, message in (
        (site.root / "model", {"WEB": str(site.root)}, 3, f"{site.root}/model lies in {site.root}, which is made anew"),
        ("nowhere", {}, 3, f"{tmp_path}/nowhere has no q3.json, expected a folder that q3-export made"),
        (site.root / "model", {"WEB": str(tmp_path / "mine")}, 3, f"{tmp_path}/mine is there and is not what this makes"),
        (
            site.root / "model",
            {"WEB": str(tmp_path / "web"), "PORT": port},
            5,
            f"port {port} is taken; type: PORT=0 scripts/web",
        ),
    ):
        command = [str(ROOT / "scripts/web"), str(argument)]
        result = subprocess.run(
            command, cwd=tmp_path, env=os.environ | environment, capture_output=True, text=True, timeout=60, check=False
        )
        assert (result.returncode, result.stdout) == (code, "")
        assert result.stderr.startswith(f"scripts/web: {message}")
        assert len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize(("scheme", "width", "height"), [("light", 1200, 900), ("dark", 1200, 900), ("dark", 360, 780)])
def test_it_fits_the_width_of_screens_and_phones(site: Site, visit: Open, scheme: str, width: int, height: int) -> None:
    opened = visit(site.url, color_scheme=scheme, viewport={"width": width, "height": height})
    opened.ranking()
    SHOTS.mkdir(parents=True, exist_ok=True)
    opened.page.screenshot(path=SHOTS / f"{scheme}-{width}.png", full_page=True)
    assert opened.page.evaluate("document.documentElement.scrollWidth") <= width
    colour = opened.page.evaluate("getComputedStyle(document.body).backgroundColor")
    brightness = sum(int(part) for part in re.findall(r"\d+", colour)[:3]) / 3
    assert (brightness < 64) == (scheme == "dark")
