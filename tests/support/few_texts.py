"""Some of the shipped texts, for checkpoints whose every token takes long."""

import json
from collections.abc import Iterable
from pathlib import Path

from q3_export.checkpoint import open_checkpoint
from q3_export.probes import read_probes
from q3_runtime.golden import Probe

PROBES, CALIBRATION_TOKENS = 8, 1_000


def write_few_texts(checkpoint: Path, folder: Path) -> list[str]:
    """8 probes of 8 to 64 tokens and calibration texts of 1,000 tokens, in files; returns the options that name them."""
    opened = open_checkpoint(checkpoint)
    short = [probe for probe in read_probes(None, opened) if 8 <= len(probe.ids) <= 64]
    chosen, tokens = [], 0
    for text in read_probes(None, opened, judging=False)[::5]:
        if tokens + len(text.ids) <= CALIBRATION_TOKENS:
            chosen.append(text)
            tokens += len(text.ids)
    probes, calibration = folder / "probes.jsonl", folder / "calibration.jsonl"
    _write(probes, short[:: len(short) // PROBES][:PROBES])
    _write(calibration, chosen)
    return ["--probes", str(probes), "--calibration", str(calibration)]


def _write(path: Path, texts: Iterable[Probe]) -> None:
    lines = [json.dumps({"text": text.text, "kind": text.kind, "group": text.group}) for text in texts]
    path.write_text("\n".join(lines) + "\n", "utf-8")
