"""Folders as strangers make them of a checkpoint, in the environment of the group interop-optimum."""

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

from tests.support.environments import Environment


def export_with_optimum(peer: Environment, checkpoint: Path, out: Path) -> Path:
    """optimum's export for feature extraction: the graph wants position_ids, and no file says how to pool."""
    peer.run("optimum_export.py", checkpoint, out)
    return out


def export_with_wrong_prompt(peer: Environment, checkpoint: Path, out: Path) -> Path:
    """sentence-transformers' own export, of a checkpoint whose query prompt ends in a space and whose pooling is a mean."""
    with tempfile.TemporaryDirectory() as home:
        copy = Path(shutil.copytree(checkpoint, Path(home) / checkpoint.name))
        words = json.loads((copy / "config_sentence_transformers.json").read_text("utf-8"))
        words["prompts"]["query"] += " "
        _write(copy / "config_sentence_transformers.json", words)
        pooling = json.loads((copy / "1_Pooling/config.json").read_text("utf-8"))
        _write(copy / "1_Pooling/config.json", pooling | {"pooling_mode_lasttoken": False, "pooling_mode_mean_tokens": True})
        peer.run("sentence_transformers_export.py", copy, out)
    return out


def _write(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content), "utf-8")
