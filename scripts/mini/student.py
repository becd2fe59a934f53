"""mini before training: its tokenizer, its sizes, and weights that already average the teacher's vectors of its tokens."""

import json
from pathlib import Path

import torch
from tests.support.checkpoints import PAD, train_tokenizer
from tokenizers import Tokenizer
from transformers import Qwen3Config, Qwen3Model

VOCAB = 20_480
HIDDEN = 256


def make_tokenizer(folder: Path, texts: list[str]) -> Tokenizer:
    """Train it into ``folder``; the added tokens fill the last ids, as in the published models."""
    folder.mkdir(parents=True, exist_ok=True)
    train_tokenizer(folder, VOCAB - 5, texts)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    if tokenizer.get_vocab_size() != VOCAB:
        raise ValueError(f"the tokenizer has {tokenizer.get_vocab_size()} entries; expected {VOCAB}: more text is needed")
    return tokenizer


def entries(tokenizer: Tokenizer) -> list[str]:
    """Each vocabulary entry as text, for the teacher."""
    return [tokenizer.decode([i]) for i in range(VOCAB)]


def make_student(tokenizer: Tokenizer, pieces: torch.Tensor) -> Qwen3Model:
    """A Qwen3 of 9.9 M parameters.

    Args:
        tokenizer: for the id of ``<|endoftext|>``.
        pieces: [V, 256], the teacher's vector of every entry on its principal axes. They become the embeddings; the first
            two layers begin as averages over the text, 128 axes each, into the last token.
    """
    pad = tokenizer.token_to_id(PAD)
    config = Qwen3Config(
        vocab_size=VOCAB, hidden_size=HIDDEN, intermediate_size=3 * HIDDEN, num_hidden_layers=6, num_attention_heads=4,
        num_key_value_heads=2, head_dim=64, max_position_embeddings=2048, rope_theta=1_000_000, rms_norm_eps=1e-6,
        tie_word_embeddings=True, bos_token_id=pad, eos_token_id=pad, attn_implementation="eager", use_cache=False,
    )  # fmt: skip
    model = Qwen3Model(config)
    with torch.no_grad():
        model.embed_tokens.weight.copy_(pieces / pieces.pow(2).mean(-1, keepdim=True).sqrt())
        model.embed_tokens.weight[pad] = torch.randn(HIDDEN) * 0.1
        for layer in model.layers:
            for linear in (layer.self_attn.o_proj, layer.mlp.down_proj):
                linear.weight.mul_(0.2)
        for index in (0, 1):
            attention = model.layers[index].self_attn
            attention.q_norm.weight.fill_(0.4)
            attention.k_norm.weight.fill_(0.4)
            attention.v_proj.weight.mul_(0.1)
            attention.o_proj.weight.mul_(0.1)
            for axis in range(128):
                attention.v_proj.weight[axis, 128 * index + axis] = 1
                group, within = divmod(axis, 64)  # key head, dimension in it; two query heads read each
                for head in (2 * group, 2 * group + 1):
                    attention.o_proj.weight[128 * index + axis, 64 * head + within] = 1
    return model


def write_config(folder: Path, model: Qwen3Model) -> None:
    """config.json with the keys of the published models."""
    keys = (
        "attention_bias", "attention_dropout", "bos_token_id", "eos_token_id", "head_dim", "hidden_act", "hidden_size",
        "intermediate_size", "max_position_embeddings", "model_type", "num_attention_heads", "num_hidden_layers",
        "num_key_value_heads", "rms_norm_eps", "tie_word_embeddings", "vocab_size",
    )  # fmt: skip
    known = model.config.to_dict()
    config = {"architectures": ["Qwen3ForCausalLM"]} | {key: known[key] for key in keys}
    config |= {"rope_theta": 1_000_000, "rope_scaling": None}
    config["torch_dtype"] = "float32"  # to compute in; the weights are stored in bfloat16, which CPUs are slow with
    config |= {"sliding_window": None, "use_sliding_window": False, "use_cache": True}
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


@torch.no_grad()
def spread_values(model: Qwen3Model, seed: int) -> Qwen3Model:
    """Rotate every value head, and the columns that read it back; the model computes what it did.

    The averages that the first two layers begin as are single large weights among small ones, which is hard on whoever
    rounds them; trained models have no such weights there.
    """
    generator = torch.Generator().manual_seed(seed)
    size = model.config.head_dim
    groups = model.config.num_attention_heads // model.config.num_key_value_heads
    for layer in model.layers:
        values, output = layer.self_attn.v_proj.weight, layer.self_attn.o_proj.weight
        for head in range(model.config.num_key_value_heads):
            rotation = torch.linalg.qr(torch.randn(size, size, generator=generator))[0]
            rows = slice(head * size, (head + 1) * size)
            values[rows] = rotation @ values[rows]
            for reader in range(head * groups, (head + 1) * groups):
                columns = slice(reader * size, (reader + 1) * size)
                output[:, columns] = output[:, columns] @ rotation.T
    return model
