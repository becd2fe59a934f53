"""What all tests share: a tiny checkpoint, the folder exported from it, and the data beside the project."""

import os
import signal
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from filelock import FileLock

if TYPE_CHECKING:
    from q3_runtime import Embedder

ROOT = Path(__file__).parents[1]
SHARED = Path(os.environ.get("Q3_SHARED", ROOT.parent / "shared")).resolve()
WORKER = os.environ.get("PYTEST_XDIST_WORKER")
REAL_TOKENIZER = SHARED / "qwen3" / "Qwen3-Embedding-0.6B"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--full", metavar="GROUP", help="run the long proofs of this group, and nothing else")


def pytest_configure() -> None:
    """A background job of a shell starts with SIGINT ignored and hands that on; tests send SIGINT to their children.

    Where tests run side by side, each worker has a core of its own: two that each use all cores take many times as long.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if WORKER and hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cores[int(WORKER.removeprefix("gw")) % len(cores)]})


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Without --full the long proofs are left out; with it everything else is."""
    group = config.getoption("--full")
    chosen = [item for item in items if _group(item) == group]
    config.hook.pytest_deselected(items=[item for item in items if _group(item) != group])
    items[:] = chosen


def _group(item: pytest.Item) -> str | None:
    marker = item.get_closest_marker("full")
    return marker.args[0] if marker else None


def pytest_report_header() -> str:
    from q3_runtime.builds import versions  # its numpy takes the cores that a worker has: pytest_configure comes first

    names = ("onnxruntime", "numpy", "tokenizers", "torch", "transformers", "onnx", "onnx-ir", "onnxscript")
    return "versions: " + ", ".join(f"{name} {found}" for name, found in versions(names).items())


@pytest.fixture(autouse=True)
def restored_handlers(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What a command changes in its process is put back."""
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def made_once(tmp_path_factory: pytest.TempPathFactory, name: str, make: Callable[[Path], Path]) -> Path:
    """A folder that takes long to make, for all workers of the run: one makes it, the others wait."""
    if not WORKER:
        return make(tmp_path_factory.mktemp("exports") / name)
    home = tmp_path_factory.getbasetemp().parent
    with FileLock(home / f"{name}.lock"):
        return home / name if (home / name).is_dir() else make(home / name)


@pytest.fixture
def fuzzed(record_property: Callable[[str, object], None], request: pytest.FixtureRequest) -> Callable[[Counter[str]], None]:
    """Takes the outcomes of a test that is done, to be printed at the end."""

    def say(outcomes: Counter[str]) -> None:
        counted = ", ".join(f"{count} {outcome}" for outcome, count in outcomes.most_common())
        record_property("fuzzed", f"{request.node.name}: {counted}")
        outcomes.clear()

    return say


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """The budgets of fuzzing, and what came of it."""
    for report in terminalreporter.stats.get("passed", []):
        for name, text in report.user_properties:
            if name == "fuzzed":
                terminalreporter.write_line(f"fuzzed: {text}")


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Hashes are remembered in a folder of the test run, not in the user's cache."""
    os.environ["XDG_CACHE_HOME"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def real_tokenizer(request: pytest.FixtureRequest) -> Path:
    """The folder of the published tokenizer files; a full proof fails without it, another test is skipped."""
    if not REAL_TOKENIZER.is_dir():
        message = f"{REAL_TOKENIZER} is not there; set Q3_SHARED"
        pytest.fail(message) if request.config.getoption("--full") else pytest.skip(message)
    return REAL_TOKENIZER


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random Qwen3 embedding checkpoint with a small byte-level BPE tokenizer."""
    from tests.support.checkpoints import write_checkpoint

    return write_checkpoint(tmp_path_factory.mktemp("checkpoints") / "Tiny-Embedding")


@pytest.fixture(scope="session")
def folder(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny checkpoint, exported as fp32. Tests must not change it: copy it with shutil.copytree."""
    from q3_export import export_model

    return export_model(checkpoint, quant="fp32", out=tmp_path_factory.mktemp("exports") / "tiny-onnx")


@pytest.fixture(scope="session")
def mini_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """models/mini, exported as fp32, int8, q8 and q4: for whatever needs texts to mean something."""
    from q3_export import export_model

    return made_once(tmp_path_factory, "mini-onnx", lambda out: export_model("mini", quant="fp32,int8,q8,q4", out=out))


@pytest.fixture(scope="session")
def reranker_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small reranker of random weights, whose scores spread."""
    from tests.support.rerankers import write_reranker

    return write_reranker(tmp_path_factory.mktemp("checkpoints") / "Plain-Reranker")


@pytest.fixture(scope="session")
def reranker_folder(reranker_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its export in every quant. Tests must not change it."""
    from q3_export import export_model
    from q3_export.recipes import RECIPES

    quants = list(RECIPES)
    return made_once(tmp_path_factory, "reranker-onnx", lambda out: export_model(reranker_checkpoint, quant=quants, out=out))


@pytest.fixture(scope="session")
def mini(mini_folder: Path) -> "Embedder":
    """Its fp32."""
    from q3_runtime import Embedder

    return Embedder(mini_folder, quant="fp32")


@pytest.fixture(scope="session")
def shared_text(request: pytest.FixtureRequest) -> Path:
    """The shared data with its labelled texts; a full proof fails without it, another test is skipped."""
    if not (SHARED / "text").is_dir():
        message = f"{SHARED / 'text'} is not there; set Q3_SHARED"
        pytest.fail(message) if request.config.getoption("--full") else pytest.skip(message)
    return SHARED
