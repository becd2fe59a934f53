"""Tokens of texts, as ``/tokenize`` tells them: the bytes of the text that each stands for."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import tokenizers

from q3_runtime.server.refusals import RefusedError

MOST_TOKENS = 100_000
"""Told of in one answer."""
CHARACTERS = 10
"""Of a token: no text has so many on average."""


def check_characters(count: int) -> None:
    """Before tokens are made, of which there would be too many.

    Raises:
        RefusedError: there would.
    """
    if count > CHARACTERS * MOST_TOKENS:
        raise _too_many()


def tokens_of(tokenizer: tokenizers.Tokenizer, texts: Sequence[str], add_special_tokens: bool) -> list[list[dict[str, Any]]]:
    """Of each text: id, text, whether it is special, and its first byte and the one behind its last.

    Raises:
        RefusedError: more than MOST_TOKENS.
    """
    found: list[list[dict[str, Any]]] = []
    for text in texts:  # one after the other, so that what is too much is not all made first
        (encoding,) = tokenizer.encode_batch([text], add_special_tokens=add_special_tokens)  # lets other threads run
        if sum(map(len, found)) + len(encoding.ids) > MOST_TOKENS:
            raise _too_many()
        found.append(_tokens(encoding, text))
    return found


def _too_many() -> RefusedError:
    return RefusedError("too_many_tokens", f"more than {MOST_TOKENS} tokens to tell of; send the texts in parts")


def _tokens(encoding: tokenizers.Encoding, text: str) -> list[dict[str, Any]]:
    # Offsets count characters here, and bytes there.
    ends = np.cumsum([0, *(len(char.encode("utf-8")) for char in text)]).tolist()
    columns = zip(encoding.ids, encoding.tokens, encoding.special_tokens_mask, encoding.offsets, strict=True)
    return [
        {"id": token_id, "text": token, "special": True, "start": None, "stop": None}
        if special
        else {"id": token_id, "text": text[start:stop], "special": False, "start": ends[start], "stop": ends[stop]}
        for token_id, token, special, (start, stop) in columns
    ]
