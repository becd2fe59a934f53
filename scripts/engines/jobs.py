"""What scripts/bench has engines run on: token ids of shapes, of mixes and of the texts that fidelity is measured on."""

import json
import random
from collections.abc import Mapping
from pathlib import Path

from tests.conftest import SHARED
from tests.support.bench_material import first, neighbours, news
from tests.support.quality import xquad

from q3_export.checkpoint import open_checkpoint
from q3_export.probes import read_probes
from q3_runtime.tokenization import Tokenizer

SHAPES = ((1, 16), (1, 128), (8, 128), (1, 512), (4, 512), (1, 2048))
LANGUAGES = ("en", "de", "es", "zh")
MIX_TOKENS = {False: 8000, True: 4000}
"""Of a mix, for engines that are not slow and for those that are."""
MANY, NEIGHBOURS, MANY_TOKENS = 1600, 8, 5000
"""Texts that are sorted by length, of which a mix *of many* has so many neighbours at a time, and how many tokens."""
CALIBRATION, LONGEST = 64, 512
"""Texts, and tokens of the longest, that NNCF takes ranges from; no text that fidelity is measured on is longer either."""
THREADS, ROWS = 2, 32
"""ROWS: texts that engines without a way of their own run together, sorted by length, as sentence-transformers does."""


def write_jobs(files: Mapping[bool, Path], full: Path, outliers: Path) -> None:
    """The job of slow engines and of the others, JSON; the tokenizer is that of ``full``, the texts those of ``outliers``."""
    tokenizer = Tokenizer(full / "tokenizer.json", 32_768)
    lines = [item.ids.tolist() for item in tokenizer.encode(news()[:2000])]
    paragraphs = [item.ids.tolist() for item in tokenizer.encode(_wikipedia()[:MANY])]
    stream = [token for line in lines for token in line[:-1]]
    opened = open_checkpoint(outliers)
    texts, calibration = ([probe.ids for probe in read_probes(None, opened, judging=judging)] for judging in (True, False))
    shared = {
        "threads": THREADS,
        "shapes": {f"{rows}x{T}": [stream[row * T : (row + 1) * T] for row in range(rows)] for rows, T in SHAPES},
        "query": "1x16",
        "calibration": [ids for ids in calibration if len(ids) <= LONGEST][:CALIBRATION],
        "texts": [ids for ids in texts if len(ids) <= LONGEST],
    }
    for is_slow, file in files.items():
        mixes = {
            "news": first(lines, MIX_TOKENS[is_slow]),
            "news of many": neighbours(lines[:MANY], MANY_TOKENS, NEIGHBOURS),
            "paragraphs": first(paragraphs, MIX_TOKENS[is_slow]),
            "paragraphs of many": neighbours(paragraphs, MANY_TOKENS, NEIGHBOURS),
        }
        rows = {name: NEIGHBOURS if name.endswith("of many") else ROWS for name in (*mixes, "texts")}
        file.write_text(json.dumps(shared | {"mixes": mixes, "batch_rows": rows}))


def _wikipedia() -> list[str]:
    """Paragraphs and questions on them, in an order that is always the same."""
    texts = [text for language in LANGUAGES for part in (xquad(SHARED, language),) for text in part.paragraphs + part.questions]
    random.Random(1).shuffle(texts)
    return texts
