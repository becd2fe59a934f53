"""What the benchmarks run on: 0.6B's shape as int8, and lines of news in eight languages."""

import random
from collections.abc import Iterable, Sequence
from pathlib import Path

from tests.conftest import SHARED
from tests.support.checkpoints import write_full_checkpoint


def full_shape(home: Path) -> tuple[Path, Path]:
    """A folder and the checkpoint of random weights that it was exported from."""
    from q3_export import export_model

    checkpoint = write_full_checkpoint("0.6B", home, SHARED)
    return export_model(checkpoint, quant="int8", out=home / "out", no_verify=True, progress=True), checkpoint


def news() -> list[str]:
    """All lines, in an order that is always the same."""
    files = sorted((SHARED / "text/ntrex").glob("newstest2019-*.txt"))
    lines = [line for file in files for line in file.read_text("utf-8").splitlines() if line.strip()]
    if not lines:
        raise SystemExit(f"{SHARED / 'text/ntrex'}: no news there; set Q3_SHARED")
    random.Random(1).shuffle(lines)
    return lines


def first(rows: Iterable[Sequence[int]], tokens: int) -> list[Sequence[int]]:
    """As many rows of token ids as have so many together."""
    chosen: list[Sequence[int]] = []
    held = 0
    for row in rows:
        chosen.append(row)
        held += len(row)
        if held >= tokens:
            return chosen
    raise SystemExit(f"{held} tokens of text, expected {tokens}; set Q3_SHARED")


def neighbours(rows: Sequence[Sequence[int]], tokens: int, size: int) -> list[Sequence[int]]:
    """Of all rows sorted by length, the longest first, ``size`` that stand together, at equal distances: about ``tokens``."""
    ordered = sorted(rows, key=len, reverse=True)
    groups = [ordered[start : start + size] for start in range(0, len(ordered), size)]
    step = max(1, round(sum(map(len, rows)) / tokens))
    return [row for group in groups[step // 2 :: step] for row in group]
