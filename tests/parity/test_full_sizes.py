"""4B and 8B in a few GB of memory, and one text of 32,768 tokens; random weights at the real shapes, the real tokenizer."""

import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from tests.conftest import SHARED
from tests.support.checkpoints import FULL_SHAPES, write_full_checkpoint
from tests.support.few_texts import PROBES, write_few_texts
from tests.support.memory import Peak, run_and_watch

from q3_runtime.golden import Golden
from q3_runtime.manifest import Manifest

pytestmark = pytest.mark.full("sizes")
MAX_EXPORT_BYTES = {"0.6B": 2e9, "4B": 4e9, "8B": 5e9}
QUANTS = ("int8", "q4")
LONGEST, MAX_LONG_TEXT_BYTES = 32_768, 5e9


@dataclass(frozen=True)
class Exported:
    name: str
    folder: Path
    peak: Peak


def export(name: str, home: Path) -> Exported:
    """Write the checkpoint, export it by the command and take it away: an 8B and its folder are 28 GB."""
    checkpoint = write_full_checkpoint(name, home, SHARED)
    command = [sys.executable, "-m", "q3_export.cli", "--model", str(checkpoint), "--quant", ",".join(QUANTS)]
    command += [*write_few_texts(checkpoint, home), "--out", str(home / "out")]
    peak = run_and_watch(command)
    said = [line for line in peak.output.replace("\r", "\n").split("\n") if line.startswith(("q3-export:", "OK", "FAILED"))]
    print("\n" + "\n".join(said))
    print(f"{name}: {peak.seconds:.0f} s, peak of the export {peak.parent / 1e6:,.0f} MB, of its verification "
          f"{peak.children / 1e6:,.0f} MB")  # fmt: skip
    shutil.rmtree(checkpoint)
    assert peak.returncode == 0, peak.output[-3000:]
    return Exported(name, home / "out", peak)


@pytest.fixture(scope="module", params=list(FULL_SHAPES))
def exported(request: pytest.FixtureRequest, real_tokenizer: Path, tmp_path_factory: pytest.TempPathFactory):
    home = tmp_path_factory.mktemp("sizes")
    yield export(request.param, home)
    shutil.rmtree(home)


def test_the_export_outside_verification_stays_within_its_memory(exported: Exported) -> None:
    assert exported.peak.parent <= MAX_EXPORT_BYTES[exported.name]


def test_its_floors_hold_on_texts_that_differ(exported: Exported) -> None:
    for name, entry in Manifest.read(exported.folder).quants.items():
        figures = entry.fidelity
        print(exported.name, name, figures["mean"], figures["min"], len(entry.kept_wider), entry.total_bytes)
        assert figures["probes"] == PROBES
        assert all(figures[figure] >= limit for figure, limit in figures["floor"].items())
    vectors = Golden.read(exported.folder).vectors
    assert (vectors @ vectors.T)[~np.eye(PROBES, dtype=bool)].mean() <= 0.4


@pytest.mark.parametrize("quant", QUANTS)
def test_it_runs(exported: Exported, quant: str) -> None:
    command = [sys.executable, "-m", "q3_runtime.cli", "embed", str(exported.folder), "--quant", quant, "How do whales sleep?"]
    peak = run_and_watch(command)
    print(f"\n{exported.name} {quant}: {peak.seconds:.0f} s from start to vector, {peak.tree / 1e6:,.0f} MB")
    assert peak.returncode == 0, peak.output
    assert '"index": 0' in peak.output


LONG = """
import sys
from pathlib import Path
import numpy as np
from q3_runtime import Embedder
folder, book, out, *others = sys.argv[1:]
with Embedder(folder, quant="int8") as model:
    texts = [Path(book).read_text("utf-8")[:300_000], *others]
    ids = model.tokenizer.encode(texts[:1])[0].ids
    np.save(out, model.encode(texts)[0])
print(len(ids))
"""


@pytest.mark.parametrize("exported", list(FULL_SHAPES)[:1], indirect=True)
def test_32768_tokens_fit_in_their_memory_and_shorter_texts_beside_them_need_little_more(exported: Exported, tmp_path: Path):
    book = SHARED / "longdocs/en_moby-dick.txt"
    others = [book.read_text("utf-8")[300_000 + 700 * i : 300_000 + 700 * i + 40 * (i + 1)] for i in range(24)]
    peaks, vectors = [], []
    for beside in ([], others):
        out = tmp_path / "vector.npy"
        peak = run_and_watch([sys.executable, "-W", "ignore", "-c", LONG, str(exported.folder), str(book), str(out), *beside])
        print(f"\n{LONGEST:,} tokens and {len(beside)} texts: {peak.seconds:.0f} s, {peak.tree / 1e6:,.0f} MB")
        assert peak.output.split()[-1] == str(LONGEST), peak.output
        peaks.append(peak.tree)
        vectors.append(np.load(out))
    assert peaks[0] <= MAX_LONG_TEXT_BYTES
    assert peaks[1] <= 1.2 * peaks[0]
    assert vectors[0] @ vectors[1] >= 0.9999
