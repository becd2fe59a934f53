"""Turns a checkpoint with random weights into a reranker whose scores spread as a trained one's do."""

import json
from pathlib import Path

import torch
from tests.support.checkpoints import MINI, ROOT, Shape, train_tokenizer, write_checkpoint
from tests.support.outliers import make_outliers
from tests.support.stored_weights import StoredWeights
from tokenizers import Tokenizer, processors

from q3_export import reference
from q3_export.checkpoint import open_checkpoint
from q3_export.probes import read_probes
from q3_export.side_files import answer_ids

SPREAD = 2.0
"""Standard deviation of the log-odds over the pairs."""
SAMPLE = 48
"""Short pairs, over which the head's direction is looked for."""


def write_reranker(
    folder: Path,
    shape: Shape = MINI,
    *,
    tokenizer: Path | None = None,
    tied: bool = True,
    shards: int = 1,
    embedding_std: float = 0.5,
    gamma: float | None = None,
) -> Path:
    """Write the checkpoint; ``gamma`` puts the outliers of published weights into it (see outliers.py)."""
    write_checkpoint(folder, shape, tokenizer=tokenizer, tied=tied, shards=shards, embedding_std=embedding_std)
    if tokenizer is None:
        _train_tokenizer(folder)
    for name in ("modules.json", "1_Pooling/config.json", "config_sentence_transformers.json"):
        (folder / name).unlink()
    (folder / "1_Pooling").rmdir()
    config = json.loads((folder / "config.json").read_text("utf-8"))
    config["vocab_size"] = StoredWeights(folder)["embed_tokens.weight"].shape[0]
    (folder / "config.json").write_text(json.dumps(config), "utf-8")
    if gamma is not None:
        healthy = folder.rename(folder.with_name(f"{folder.name}-healthy"))
        make_outliers(healthy, folder, gamma=gamma)
    for _ in range(2):  # where the head is tied, its two rows are also how "yes" and "no" in the template are read
        set_head(folder)
    return folder


def set_head(folder: Path) -> None:
    """Rows of yes and no along plus and minus the first principal direction of the pairs' last hidden states.

    What all states share is taken out of it, so that the log-odds lie around 0.
    """
    checkpoint = open_checkpoint(folder)
    pairs = sorted((probe.ids for probe in read_probes(None, checkpoint)), key=len)[:SAMPLE]
    states = reference.last_states(checkpoint, pairs)
    common = states.mean(0)
    direction = torch.linalg.svd(states - common, full_matrices=False).Vh[0]
    direction = torch.nn.functional.normalize(direction - common * (direction @ common) / (common @ common), dim=0)
    row = direction * SPREAD / (2 * (states @ direction).std())
    weights = StoredWeights(folder)
    head = weights["embed_tokens.weight" if checkpoint.raw_config["tie_word_embeddings"] else "lm_head.weight"]
    yes, no = answer_ids(folder)
    head[yes], head[no] = row.to(head.dtype), -row.to(head.dtype)
    weights.save()


def _train_tokenizer(folder: Path) -> None:
    """A small one that appends nothing and has yes and no as tokens, of as many entries as the embedding table has rows."""
    lines = (ROOT / "export/q3_export/data/probes.jsonl").read_text("utf-8").splitlines()
    texts = [json.loads(line)["text"] for line in lines] + ["yes", "no"] * 500
    rows = StoredWeights(folder)["embed_tokens.weight"].shape[0]
    train_tokenizer(folder, rows - 5, texts)  # five added tokens come behind
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.post_processor = processors.ByteLevel(add_prefix_space=False, trim_offsets=False, use_regex=False)
    tokenizer.save(str(folder / "tokenizer.json"))
