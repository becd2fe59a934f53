"""tokenizer.json: does it belong to this model, and of which kind is the model?"""

from pathlib import Path
from typing import Any

import tokenizers

from q3_export.config_check import read_json
from q3_runtime.errors import ModelError

PAD_TOKEN = "<|endoftext|>"


def check_tokenizer(path: Path, vocab_size: int, kind: str | None, stated: str | None) -> tuple[str, int]:
    """The kind of the model and the id of its pad token, ``<|endoftext|>``.

    An embedding model's tokenizer appends that token to every text, a reranker's appends nothing.

    Args:
        path: tokenizer.json.
        vocab_size: rows of the embedding table.
        kind: what the user asks for, or None.
        stated: what modules.json says, or None.

    Raises:
        ModelError: not the tokenizer of this model, or of another kind than asked for.
    """
    content = read_json(path, "E_TOKENIZER")
    prefix = content["model"].get("continuing_subword_prefix") if isinstance(content.get("model"), dict) else None
    if prefix:  # tokenizers aborts the process where a merge does not have it
        raise ModelError(
            f"{path}: continuing_subword_prefix is {prefix!r}, expected ''; use this model's own tokenizer", fault="E_TOKENIZER"
        )
    try:
        tokenizer = tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:  # tokenizers raises bare Exception
        raise ModelError(f"{path}: not a tokenizer ({error}); download it again", fault="E_TOKENIZER") from error
    largest = max(tokenizer.get_vocab().values(), default=-1)
    if largest >= vocab_size:
        raise ModelError(
            f"{path}: largest id {largest}, the embedding table has {vocab_size} rows; use this model's own tokenizer",
            fault="E_TOKENIZER",
        )
    undefined = _undefined_tokens(content.get("post_processor"))
    if undefined:
        raise ModelError(
            f"{path}: the template appends {', '.join(undefined)}, which it does not define; use this model's own tokenizer",
            fault="E_TOKENIZER",
        )
    tokenizer.no_padding()  # what a last call of somebody's has left there
    tokenizer.no_truncation()
    pad_id = tokenizer.token_to_id(PAD_TOKEN)
    ids = tokenizer.encode("").ids
    found = "embedding" if pad_id is not None and ids == [pad_id] else None
    if not ids and stated != "embedding":
        found = "reranker"
    if found is None or pad_id is None:
        raise ModelError(
            f"{path}: encoding '' gives {ids}, expected just the id of {PAD_TOKEN} ({pad_id}); use this model's tokenizer",
            fault="E_TOKENIZER",
        )
    wanted = kind or stated
    if wanted is not None and wanted != found:
        means = f"appends {PAD_TOKEN}, so this is an" if found == "embedding" else "appends nothing, so this is a"
        raise ModelError(f"{path}: {means} {found} model, expected: {wanted}; check --kind and the checkpoint", fault="E_ARCH")
    if found == "reranker":
        for word in ("yes", "no"):
            if len(tokenizer.encode(word).ids) != 1:
                raise ModelError(
                    f"{path}: {word!r} is {tokenizer.encode(word).ids}, expected one token; use this model's own tokenizer",
                    fault="E_TOKENIZER",
                )
    return found, pad_id


def _undefined_tokens(processor: Any) -> list[str]:
    """Special tokens that a template uses and does not define, on which tokenizers panics."""
    if not isinstance(processor, dict):
        return []
    if processor.get("type") == "Sequence":
        return [token for inner in processor["processors"] for token in _undefined_tokens(inner)]
    if processor.get("type") != "TemplateProcessing":
        return []
    used = [piece["SpecialToken"]["id"] for piece in processor["single"] if "SpecialToken" in piece]
    return [token for token in used if token not in processor["special_tokens"]]
