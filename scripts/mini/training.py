"""The training loop: the student's vector of a text shall be the teacher's of its goal, at every Matryoshka length."""

import math
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
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
KEEP_EVERY = 250
MAX_TOKENS = 512
TABLE_RATE, LAYERS_RATE = 1e-3, 2e-3
"""Learning rates at their peak."""


@dataclass(frozen=True)
class Stage:
    """A warm-up and a half cosine. ``rate`` is a share of the learning rates.

    ``noise``: what is added to every linear for one step, as a share of its weights' rms. A model that was trained under noise
    stands being rounded: 4 bits in blocks of 32 are a noise of .08.
    """

    steps: int
    rate: float = 1.0
    noise: float = 0.0


STAGES = (Stage(1_500), Stage(350, rate=0.4, noise=0.08))
WARMUP_SHARE = 0.1
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
    model: Qwen3Model, tokenizer: Tokenizer, texts: list[str], goals: torch.Tensor, stage: Stage, *, seed: int, keep: Path
) -> Qwen3Model:
    """Train through one stage and return the model.

    Args:
        model: changed in place.
        tokenizer: its own.
        texts: N of them.
        goals: [N, 256] float32, the teacher's vectors on its principal axes.
        stage: how long and how.
        seed: of the order and of the instructions.
        keep: a folder that gets the state of the model now and then.
    """
    torch.manual_seed(seed)
    tokenizer.enable_truncation(MAX_TOKENS)
    ids = [encoding.ids for encoding in tokenizer.encode_batch(texts)]
    prompts = [tokenizer.encode(PROMPT.format(task), add_special_tokens=False).ids for task in TASKS]
    rng = random.Random(seed)
    table, layers = model.embed_tokens.parameters(), [*model.layers.parameters(), *model.norm.parameters()]
    groups = [{"params": list(table), "lr": TABLE_RATE * stage.rate}, {"params": layers, "lr": LAYERS_RATE * stage.rate}]
    linears = [module.weight for module in model.modules() if isinstance(module, torch.nn.Linear)]
    optimizer = torch.optim.AdamW(groups, weight_decay=0.01, betas=(0.9, 0.98), fused=True)
    peaks = [group["lr"] for group in groups]
    model.train()
    shown, seen = 0.0, 0
    batches = islice(_passes(list(map(len, ids)), rng), stage.steps)
    with tqdm(total=stage.steps, desc="training", unit="step", mininterval=10) as bar:
        for step, (rows, length) in enumerate(batches):
            bar.update()
            warmth = min(1, (step + 1) / (WARMUP_SHARE * stage.steps))
            factor = warmth * (0.5 + 0.5 * math.cos(math.pi * step / stage.steps))
            for group, peak in zip(optimizer.param_groups, peaks, strict=True):
                group["lr"] = peak * factor
            chosen = [ids[row] for row in rows]
            if length <= QUERY_TOKENS and rng.random() < 0.5:
                chosen, length = _dress(chosen, prompts, rng), length + 2 * STEP
            with _noise(linears, stage.noise):
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


@contextmanager
def _noise(linears: list[torch.nn.Parameter], size: float) -> Iterator[None]:
    added = [torch.randn_like(weight) * (size * weight.detach().pow(2).mean().sqrt()) for weight in linears] if size else []
    with torch.no_grad():
        for weight, noise in zip(linears, added, strict=False):
            weight.add_(noise)
    yield
    with torch.no_grad():
        for weight, noise in zip(linears, added, strict=False):
            weight.sub_(noise)


def _passes(lengths: list[int], rng: random.Random) -> Iterator[tuple[list[int], int]]:
    while True:
        yield from same_shape(lengths, TOKENS_PER_BATCH, rng)


def _dress(ids: list[list[int]], prompts: list[list[int]], rng: random.Random) -> list[list[int]]:
    """Half of the texts behind an instruction, the official one every other time."""
    official, *others = prompts
    return [(official if rng.random() < 0.5 else rng.choice(others)) + found if rng.random() < 0.5 else found for found in ids]
