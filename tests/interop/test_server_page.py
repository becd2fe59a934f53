"""The page of q3 serve in headless Chromium: what is served, two texts compared, documents ranked, and what can be wrong."""

import contextlib
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright
from tests.conftest import ROOT
from tests.support.server import Server, serving
from tests.support.web_page import launched

from q3_runtime import Embedder, Reranker

SHOTS = ROOT / "build/web-shots"
KEY = "open sesame"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright, launched(playwright) as found:
        yield found


@pytest.fixture
def opened(browser: Browser):
    """Opens a page; at the end it must have asked nobody but its server, and have complained of nothing."""
    with contextlib.ExitStack() as stack:

        def open_page(server: Server, complaints: int = 0, **options: object) -> Page:
            context = stack.enter_context(browser.new_context(**options))
            context.set_default_timeout(60_000)
            page, asked, complained = context.new_page(), [], []
            context.on("request", lambda request: asked.append(request.url))
            context.on("console", lambda message: complained.append(message.text))
            context.on("weberror", lambda error: complained.append(str(error.error)))
            stack.callback(lambda: check(asked, complained, complaints))
            page.goto(server.url)
            return page

        def check(asked: list[str], complained: list[str], complaints: int) -> None:
            assert [url for url in asked if not url.startswith((f"{asked[0]}", "data:"))] == []
            assert len(complained) == complaints, complained

        yield open_page


@pytest.fixture(scope="module")
def served(mini_folder: Path, reranker_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    models = [f"mini={mini_folder}:int8", f"judge={reranker_folder}:fp32"]
    with serving("--model", *models, log=tmp_path_factory.mktemp("page") / "log") as server:
        yield server


def test_it_shows_the_models_and_their_measured_fidelity(served, opened, mini_folder):
    page = opened(served)
    rows = page.locator("#models tr")
    expect(rows).to_have_count(2)
    figures = Embedder(mini_folder, quant="int8").manifest.quants["int8"].fidelity
    expect(rows.nth(0)).to_contain_text(
        f"cosine {figures['mean']:.5f} on average, {figures['min']:.5f} at least, over 128 texts"
    )
    expect(rows.nth(1)).to_contain_text("rank correlation")
    expect(page.locator("#state")).to_have_text("The server answers.")


def test_it_compares_two_texts(served, opened, mini_folder):
    page = opened(served)
    page.get_by_label("Query").first.fill("Where do whales sleep?")
    page.get_by_label("Text", exact=True).fill("Whales sleep in the sea.")
    page.get_by_role("button", name="Compare").click()
    with Embedder(mini_folder, quant="int8") as model:
        one, other = model.encode_query(["Where do whales sleep?"]), model.encode_document(["Whales sleep in the sea."])
        expected = float(model.similarity(one, other)[0, 0])
    expect(page.locator("#similarity")).to_have_text(f"cosine {expected:.4f}")


@pytest.mark.parametrize("name", ["judge", "mini"])
def test_it_ranks_documents_with_a_reranker_or_with_vectors(served, opened, mini_folder, reranker_folder, name):
    page = opened(served)
    page.locator("#ranker").select_option(name)
    page.get_by_role("button", name="Rank").click()
    items = page.locator("#ranking li")
    expect(items).to_have_count(3)
    documents, query = page.locator("#documents").input_value().split("\n"), page.locator("#query").input_value()
    if name == "judge":
        scores = Reranker(reranker_folder, quant="fp32").score([(query, document) for document in documents])
    else:
        with Embedder(mini_folder, quant="int8") as model:
            scores = model.similarity(model.encode_query([query]), model.encode_document(documents))[0]
    best = np.argsort(-scores)
    assert items.locator("span").all_text_contents() == [documents[index] for index in best]
    assert items.locator("data").all_text_contents() == [f"{scores[index]:.3f}" for index in best]


def test_what_is_wrong_is_said_in_a_line(served, opened):
    page = opened(served, complaints=1)
    page.get_by_label("Text", exact=True).fill("")
    page.get_by_role("button", name="Compare").click()
    expect(page.locator("#problem")).to_have_text("`inputs` cannot be empty")
    page.get_by_label("Text", exact=True).fill("a")
    page.get_by_role("button", name="Compare").click()
    expect(page.locator("#similarity")).to_contain_text("cosine")
    expect(page.locator("#problem")).to_have_text("")


def test_where_a_key_is_wanted_it_asks_for_it(mini_folder, opened, tmp_path):
    with serving("--model", f"{mini_folder}:int8", log=tmp_path / "log", environment={"Q3_API_KEY": KEY}) as server:
        page = opened(server, complaints=2)
        expect(page.locator("#state")).to_have_text("The server wants a key.")
        page.get_by_label("API key").fill("wrong")
        page.get_by_label("API key").press("Enter")
        expect(page.locator("#problem")).to_contain_text("no valid API key")
        page.get_by_label("API key").fill(KEY)
        page.get_by_label("API key").press("Enter")
        expect(page.locator("#models tr")).to_have_count(1)
        page.get_by_role("button", name="Compare").click()
        expect(page.locator("#similarity")).to_contain_text("cosine")


def test_a_server_that_has_gone_is_named(mini_folder, opened, tmp_path):
    with serving("--model", f"{mini_folder}:int8", log=tmp_path / "log") as server:
        page = opened(server, complaints=2)
        expect(page.locator("#models tr")).to_have_count(1)
        assert server.stop(signal.SIGTERM) == 0
        page.get_by_role("button", name="Compare").click()
        expect(page.locator("#problem")).not_to_have_text("")


@pytest.mark.parametrize(("scheme", "width"), [("light", 1200), ("dark", 360)])
def test_it_fits_the_width_of_the_screen(served, opened, scheme, width):
    page = opened(served, color_scheme=scheme, viewport={"width": width, "height": 900})
    page.get_by_role("button", name="Compare").click()
    page.get_by_role("button", name="Rank").click()
    expect(page.locator("#ranking li")).to_have_count(3)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    SHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=SHOTS / f"server-{scheme}.png", full_page=True)
