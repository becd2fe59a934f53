"""The training loop: the student's vector of a text shall be the teacher's of its goal, at every Matryoshka length."""

import math
import random
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import torch
from mini.shapes import STEP, pad, same_shape
from tokenizers import Tokenizer
from torch.nn.functional import cross_entropy, normalize
from tqdm import tqdm
from transformers import Qwen3Model

DIMS = (32, 64, 128, 256)
TOKENS_PER_BATCH = 8192
STEPS, WARMUP, KEEP_EVERY = 1_500, 150, 250
MAX_TOKENS = 512
TABLE_RATE, LAYERS_RATE = 1e-3, 2e-3
"""Learning rates at their peak."""
TEMPERATURE = 0.05
PROMPT = "Instruct: {}\nQuery:"
TASKS = (
    "Given a web search query, retrieve relevant passages that answer the query",
    "Given a question, retrieve passages that answer the question",
    "Given a sentence, find sentences with the same meaning",
    "Retrieve semantically similar text.",
    "Find the definition of a word",
)
QUERY_TOKENS = 32
"""In every other batch of texts up to this length, half are queries with an instruction."""


def train(
    model: Qwen3Model, tokenizer: Tokenizer, texts: list[str], goals: torch.Tensor, *, seed: int, keep: Path
) -> Qwen3Model:
    """Train and return the model.

    Args:
        model: changed in place.
        tokenizer: its own.
        texts: N of them.
        goals: [N, 256] float32, the teacher's vectors on its principal axes.
        seed: of the order and of the instructions.
        keep: a folder that gets the state of the model now and then.
    """
    torch.manual_seed(seed)
    tokenizer.enable_truncation(MAX_TOKENS)
    ids = [encoding.ids for encoding in tokenizer.encode_batch(texts)]
    prompts = [tokenizer.encode(PROMPT.format(task), add_special_tokens=False).ids for task in TASKS]
    rng = random.Random(seed)
    table, layers = model.embed_tokens.parameters(), [*model.layers.parameters(), *model.norm.parameters()]
    groups = [{"params": list(table), "lr": TABLE_RATE}, {"params": layers, "lr": LAYERS_RATE}]
    optimizer = torch.optim.AdamW(groups, weight_decay=0.01, betas=(0.9, 0.98), fused=True)
    peaks = [group["lr"] for group in groups]
    model.train()
    shown, seen = 0.0, 0
    batches = islice(_passes(list(map(len, ids)), rng), STEPS)
    with tqdm(total=STEPS, desc="training", unit="step", mininterval=10) as bar:
        for step, (rows, length) in enumerate(batches):
            bar.update()
            factor = min(1, (step + 1) / WARMUP) * (0.5 + 0.5 * math.cos(math.pi * step / STEPS))
            for group, peak in zip(optimizer.param_groups, peaks, strict=True):
                group["lr"] = peak * factor
            chosen = [ids[row] for row in rows]
            if length <= QUERY_TOKENS and rng.random() < 0.5:
                chosen, length = _dress(chosen, prompts, rng), length + 2 * STEP
            loss = matryoshka_loss(embed(model, chosen, length), goals[rows])
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            seen += len(rows)
            shown = loss.item() if not step else 0.98 * shown + 0.02 * loss.item()
            bar.set_postfix(loss=f"{shown:.4f}", texts=seen, refresh=False)
            if (step + 1) % KEEP_EVERY == 0:
                torch.save(model.state_dict(), keep / "state.pt")
    return model.eval()


def embed(model: Qwen3Model, ids: list[list[int]], length: int) -> torch.Tensor:
    """Hidden states of the last tokens, [B, 256] float32, not normalized. Padding on the right is never seen from the left."""
    padded, lengths = pad(ids, length)
    with torch.autocast("cpu", torch.bfloat16):
        states = model(input_ids=padded).last_hidden_state
    return states[torch.arange(len(ids)), lengths - 1].float()


def matryoshka_loss(vectors: torch.Tensor, goals: torch.Tensor) -> torch.Tensor:
    """Mean over the lengths of 1 − cosine to the goal's prefix, and of the cross-entropy between in-batch similarities.

    The similarities to match are those of the whole goals, so a short prefix learns the full model's ranking.
    """
    full = normalize(goals, dim=-1)
    similarity = full @ full.T / TEMPERATURE
    similarity.fill_diagonal_(-torch.inf)
    wanted = similarity.softmax(-1)
    floor = -(wanted * similarity.log_softmax(-1).nan_to_num(neginf=0.0)).sum(-1).mean()
    total = torch.zeros(())
    for dim in DIMS:
        found = normalize(vectors[:, :dim], dim=-1)
        distance = 1 - (found * normalize(goals[:, :dim], dim=-1)).sum(-1).mean()
        scores = (found @ found.T / TEMPERATURE).masked_fill(torch.eye(len(found), dtype=torch.bool), -1e4)
        total = total + distance + 0.2 * (cross_entropy(scores, wanted) - floor)
    return total / len(DIMS)


def _passes(lengths: list[int], rng: random.Random) -> Iterator[tuple[list[int], int]]:
    while True:
        yield from same_shape(lengths, TOKENS_PER_BATCH, rng)


def _dress(ids: list[list[int]], prompts: list[list[int]], rng: random.Random) -> list[list[int]]:
    """Half of the texts behind an instruction, the official one every other time."""
    official, *others = prompts
    return [(official if rng.random() < 0.5 else rng.choice(others)) + found if rng.random() < 0.5 else found for found in ids]
