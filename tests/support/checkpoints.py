"""Builds Qwen3 checkpoints of any shape in the layout of the published ones, seeded, shard by shard."""

import json
import math
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

ROOT = Path(__file__).parents[2]
PAD = "<|endoftext|>"
SPECIALS = (PAD, "<|im_start|>", "<|im_end|>")
QUERY_PROMPT = "Instruct: Given a web search query, retrieve relevant passages that answer the query\nQuery:"
PLAIN_ADDED = ("<think>", "</think>")
QWEN_SPLIT = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


@dataclass(frozen=True)
class Shape:
    """Sizes of a Qwen3 model. ``vocab`` is taken from the tokenizer where it is None."""

    hidden: int = 64
    intermediate: int = 192
    layers: int = 3
    heads: int = 4
    kv_heads: int = 2
    head_dim: int = 32
    vocab: int | None = None
    max_tokens: int = 2048


TINY = Shape()
MINI = Shape(hidden=256, intermediate=768, layers=6, heads=4, kv_heads=2, head_dim=64)
FULL_06B = Shape(hidden=1024, intermediate=3072, layers=28, heads=16, kv_heads=8, head_dim=128, vocab=151669, max_tokens=32768)
FULL_4B = Shape(hidden=2560, intermediate=9728, layers=36, heads=32, kv_heads=8, head_dim=128, vocab=151665, max_tokens=40960)
FULL_8B = Shape(hidden=4096, intermediate=12288, layers=36, heads=32, kv_heads=8, head_dim=128, vocab=151665, max_tokens=40960)
FULL_SHAPES = {"0.6B": FULL_06B, "4B": FULL_4B, "8B": FULL_8B}
FULL_SHARDS = {"0.6B": 2, "4B": 8, "8B": 16}
GAIN = 1.5
"""Standard deviation of their token embeddings: so sensitive to rounding as the published weights (8-bit blocks .9995)."""
PIECE = 1 << 26
"""Values that are made at a time, a multiple of the 16 that torch draws together: cut so, they are the same numbers."""


def write_checkpoint(
    folder: Path,
    shape: Shape = TINY,
    *,
    tokenizer: Path | None = None,
    tied: bool = True,
    prefix: str = "",
    dtype: torch.dtype = torch.bfloat16,
    shards: int = 1,
    embedding_std: float = 0.1,
    seed: int = 0,
) -> Path:
    """Write a random checkpoint that separates texts.

    Args:
        folder: made if it is not there.
        shape: the model's sizes.
        tokenizer: a folder of published tokenizer files to copy; None trains a small byte-level BPE.
        tied: without ``lm_head.weight``.
        prefix: ``"model."`` as Qwen3ForCausalLM saves it, ``""`` as the published embedding models do.
        dtype: of every tensor.
        shards: 1 writes model.safetensors, more write that many files and an index.
        embedding_std: standard deviation of the token embeddings; weights are normal with 1/sqrt(fan_in).
        seed: of everything.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if tokenizer is None:
        train_tokenizer(folder)
    else:
        for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
            if (tokenizer / name).exists():
                shutil.copy(tokenizer / name, folder / name)
                (folder / name).chmod(0o644)
    vocabulary = Tokenizer.from_file(str(folder / "tokenizer.json"))
    vocab = shape.vocab or vocabulary.get_vocab_size()
    pad_id = vocabulary.token_to_id(PAD)
    config = {
        "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "vocab_size": vocab, "hidden_size": shape.hidden,
        "intermediate_size": shape.intermediate, "num_hidden_layers": shape.layers, "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads, "head_dim": shape.head_dim, "hidden_act": "silu", "rms_norm_eps": 1e-6,
        "max_position_embeddings": shape.max_tokens, "rope_theta": 1000000, "rope_scaling": None, "attention_bias": False,
        "attention_dropout": 0.0, "use_sliding_window": False, "sliding_window": None, "tie_word_embeddings": tied,
        "bos_token_id": pad_id, "eos_token_id": pad_id, "torch_dtype": str(dtype).removeprefix("torch."),
    }  # fmt: skip
    _write_json(folder / "config.json", config)
    write_side_files(folder, shape.hidden)
    _write_weights(folder, list(_tensors(shape, vocab, tied, prefix, embedding_std)), shards, dtype, seed)
    return folder


def write_full_checkpoint(name: str, home: Path, shared: Path) -> Path:
    """Random weights of a published size, a row of ``FULL_SHAPES``, with its own tokenizer; returns its folder in ``home``."""
    folder, tokenizer = home / f"Qwen3-Embedding-{name}", shared / f"qwen3/Qwen3-Embedding-{name}"
    return write_checkpoint(
        folder, FULL_SHAPES[name], tokenizer=tokenizer, tied=name != "8B", shards=FULL_SHARDS[name], embedding_std=GAIN
    )


def train_tokenizer(folder: Path, vocab_size: int = 4000, texts: Iterable[str] | None = None) -> None:
    """A byte-level BPE with Qwen's normalizer, pre-tokenizer and post-processor, trained on ``texts`` or the probes."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(QWEN_SPLIT), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    if texts is None:
        probes = (ROOT / "export/q3_export/data/probes.jsonl").read_text("utf-8").split("\n")
        texts = [json.loads(line)["text"] for line in probes if line]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=vocab_size, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in SPECIALS])
    tokenizer.add_tokens([AddedToken(token, normalized=False, special=False) for token in PLAIN_ADDED])
    pad_id = tokenizer.token_to_id(PAD)
    tokenizer.post_processor = processors.Sequence(
        [
            processors.ByteLevel(trim_offsets=False),
            processors.TemplateProcessing(single=f"$A {PAD}", pair=f"$A {PAD} $B {PAD}", special_tokens=[(PAD, pad_id)]),
        ]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    _write_json(
        folder / "tokenizer_config.json",
        {"tokenizer_class": "Qwen2Tokenizer", "pad_token": PAD, "eos_token": "<|im_end|>", "model_max_length": 131072},
    )


def write_side_files(folder: Path, hidden: int) -> None:
    """modules.json, 1_Pooling and config_sentence_transformers.json as the published embedding models have them."""
    kinds = ("Transformer", ""), ("Pooling", "1_Pooling"), ("Normalize", "2_Normalize")
    modules = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{name}"}
        for i, (name, path) in enumerate(kinds)
    ]
    _write_json(folder / "modules.json", modules)
    (folder / "1_Pooling").mkdir(exist_ok=True)
    modes = ("cls_token", "mean_tokens", "max_tokens", "mean_sqrt_len_tokens", "weightedmean_tokens")
    pooling: dict[str, Any] = {"word_embedding_dimension": hidden} | {f"pooling_mode_{mode}": False for mode in modes}
    _write_json(folder / "1_Pooling/config.json", pooling | {"pooling_mode_lasttoken": True, "include_prompt": True})
    prompts = {"query": QUERY_PROMPT, "document": ""}
    _write_json(
        folder / "config_sentence_transformers.json",
        {"prompts": prompts, "default_prompt_name": None, "similarity_fn_name": "cosine"},
    )


def _tensors(shape: Shape, vocab: int, tied: bool, prefix: str, std: float) -> Iterator[tuple[str, tuple[int, ...], float]]:
    """Name, shape and standard deviation of each tensor; 0 marks a norm, whose values lie around 1."""
    q, kv = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    linears = {
        "self_attn.q_proj": (q, shape.hidden), "self_attn.k_proj": (kv, shape.hidden), "self_attn.v_proj": (kv, shape.hidden),
        "self_attn.o_proj": (shape.hidden, q), "mlp.gate_proj": (shape.intermediate, shape.hidden),
        "mlp.up_proj": (shape.intermediate, shape.hidden), "mlp.down_proj": (shape.hidden, shape.intermediate),
    }  # fmt: skip
    norms = {
        "input_layernorm": shape.hidden, "post_attention_layernorm": shape.hidden,
        "self_attn.q_norm": shape.head_dim, "self_attn.k_norm": shape.head_dim,
    }  # fmt: skip
    yield f"{prefix}embed_tokens.weight", (vocab, shape.hidden), std
    for layer in range(shape.layers):
        for name, size in linears.items():
            yield f"{prefix}layers.{layer}.{name}.weight", size, 1 / math.sqrt(size[1])
        for name, length in norms.items():
            yield f"{prefix}layers.{layer}.{name}.weight", (length,), 0.0
    yield f"{prefix}norm.weight", (shape.hidden,), 0.0
    if not tied:
        yield "lm_head.weight", (vocab, shape.hidden), 1 / math.sqrt(shape.hidden)


def _write_weights(
    folder: Path, tensors: list[tuple[str, tuple[int, ...], float]], shards: int, dtype: torch.dtype, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    per_shard = math.ceil(sum(math.prod(size) for _, size, _ in tensors) / shards)
    weight_map: dict[str, str] = {}
    groups: list[list[tuple[str, tuple[int, ...], float]]] = [[]]
    filled = 0
    for tensor in tensors:
        if filled >= per_shard and len(groups) < shards:
            groups.append([])
            filled = 0
        groups[-1].append(tensor)
        filled += math.prod(tensor[1])
    for number, group in enumerate(groups, start=1):
        name = "model.safetensors" if shards == 1 else f"model-{number:05d}-of-{len(groups):05d}.safetensors"
        content = {key: _random(size, std, dtype, generator) for key, size, std in group}
        save_file(content, folder / name, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(content, name)
    if shards > 1:
        _write_json(folder / "model.safetensors.index.json", {"metadata": {}, "weight_map": weight_map})


def _random(size: tuple[int, ...], std: float, dtype: torch.dtype, generator: torch.Generator) -> torch.Tensor:
    made = torch.empty(size, dtype=dtype)
    for piece in made.flatten().split(PIECE):
        values = torch.randn(piece.shape, generator=generator)
        piece.copy_(values.mul_(std) if std else 1 + 0.1 * values)
    return made


def _write_json(path: Path, content: object) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
