"""The page of examples/web in a browser, and what can happen to its files."""

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from playwright.sync_api import Browser, BrowserContext, Page, Playwright
from tests.support.node import program

PATIENCE = 120_000  # ms
ANSWERED = "#results li, #error:not(:empty)"
RECORDER = """
addEventListener("DOMContentLoaded", () => {
  window.figures = [];
  const element = document.getElementById("figures");
  new MutationObserver(() => window.figures.push(element.textContent)).observe(element, { childList: true });
});
"""
"""Keeps every text that the progress showed."""
READ_RESULTS = "items => items.map(li => [li.querySelector('span').textContent, Number(li.querySelector('data').value)])"

Damage = Callable[[Path], None]


def launched(playwright: Playwright, *flags: str) -> Browser:
    """Headless Chromium as the system has it."""
    return playwright.chromium.launch(executable_path=program("chromium", "chromium-browser", "google-chrome"), args=flags)


@dataclass
class Site:
    """What scripts/web put together, and where it serves it."""

    root: Path
    url: str

    def damaged(self, name: str, damage: Damage) -> str:
        """The address of a copy beside it, after ``damage`` had its way; files are shared with the original by hard links."""
        copy = self.root / "damaged" / name
        shutil.copytree(self.root, copy, copy_function=os.link, ignore=shutil.ignore_patterns("damaged"))
        damage(copy)
        return f"{self.url}damaged/{name}/"


@dataclass
class Visit:
    """A page, and what it asked for and complained of."""

    page: Page
    requests: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)

    @classmethod
    def to(cls, context: BrowserContext, url: str) -> "Visit":
        context.set_default_timeout(PATIENCE)
        visit = cls(context.new_page())
        context.on("request", lambda request: visit.requests.append(request.url))
        context.on("console", lambda message: visit.complaints.append(f"{message.type}: {message.text}"))
        context.on("weberror", lambda error: visit.complaints.append(str(error.error)))
        visit.page.add_init_script(RECORDER)
        visit.page.goto(url)
        return visit

    def ranking(self) -> list[tuple[str, float]]:
        """Line and score, as they are shown."""
        self.page.wait_for_selector(ANSWERED)
        assert self.page.inner_text("#error") == ""
        return [(text, score) for text, score in self.page.locator("#results li").evaluate_all(READ_RESULTS)]

    def ask(self, query: str, lines: list[str] | None = None) -> None:
        if lines is not None:
            self.page.get_by_label("Texts, one a line").fill("\n".join(lines))
        self.page.get_by_label("Query").fill(query)
        self.page.get_by_label("Query").press("Enter")


def without(name: str) -> Damage:
    return lambda site: (site / name).unlink()


def with_content(name: str, change: Callable[[bytes], bytes], *, listed: bool = False) -> Damage:
    """Another content, which q3.json either does not know of or lists as if it had been exported so."""

    def damage(site: Path) -> None:
        content = change((site / name).read_bytes())
        (site / name).unlink()  # the original is another name of the same file
        (site / name).write_bytes(content)
        if listed:
            entry = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
            in_manifest(lambda manifest: listing(manifest, name)[name.removeprefix("model/")].update(entry))(site)

    return damage


def listing(manifest: dict, name: str) -> dict:
    return manifest["quants"]["int8"]["files"] if "/onnx/" in name else manifest["files"]


def in_manifest(change: Callable[[dict], object]) -> Damage:
    def edited(content: bytes) -> bytes:
        manifest = json.loads(content)
        change(manifest)
        return json.dumps(manifest).encode()

    return with_content("model/q3.json", edited)
