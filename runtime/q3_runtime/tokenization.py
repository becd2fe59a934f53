"""Text → token ids, exactly as transformers does it, ending in ``<|endoftext|>`` even after truncation."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import tokenizers

from q3_runtime.errors import IntegrityError, TextError, TextTypeError, TooLongError

SURROGATE = re.compile("[\ud800-\udfff]")


class Encoded(NamedTuple):
    """Token ids of one text, int64 [T], and whether the text was cut to fit."""

    ids: npt.NDArray[np.int64]
    truncated: bool


class Tokenizer:
    """The folder's tokenizer.json with the model's length limit.

    Args:
        path: tokenizer.json.
        max_tokens: the longest sequence, the final ``<|endoftext|>`` counted.
        split_special_tokens: read ``<|im_end|>`` and the like in a text as ordinary characters. Off by default, as in
            transformers, whose name for it this is.
        plain: leave out all added tokens, ``<think>`` too, and append nothing: nothing in a text is more than its characters.
    """

    def __init__(self, path: Path, max_tokens: int, *, split_special_tokens: bool = False, plain: bool = False) -> None:
        try:
            self._tokenizer = _without_added_tokens(path) if plain else tokenizers.Tokenizer.from_file(str(path))
        except Exception as error:  # tokenizers raises bare Exception
            raise IntegrityError(f"{path}: not a tokenizer ({error}); export or download the folder again") from error
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._tokenizer.encode_special_tokens = split_special_tokens
        self.max_tokens = max_tokens
        self.final_ids: list[int] = self._tokenizer.encode("").ids  # what the post-processor appends
        # No token stands for more characters than this, so a longer text can be cut before the slow part without
        # changing its first max_tokens ids.
        longest_token = max(len(token) for token in self._tokenizer.get_vocab())
        self._max_characters = longest_token * max_tokens

    def encode(
        self,
        texts: Sequence[str],
        *,
        prefix: str = "",
        truncate: bool = True,
        errors: str = "strict",
        first_index: int = 0,
    ) -> list[Encoded]:
        """Token ids of ``prefix + text`` for each text. ``first_index`` is what to call the first text in an error.

        Raises:
            TextTypeError: something that is not a str.
            TextError: a lone surrogate, unless ``errors="replace"``.
            TooLongError: more than ``max_tokens``, where ``truncate`` is off.
        """
        prefix = checked(prefix, None, errors)
        clean = [prefix + checked(text, first_index + i, errors) for i, text in enumerate(texts)]
        heads = [text[: self._max_characters] for text in clean]
        encoded: list[Encoded] = []
        for i, encoding in enumerate(self._tokenizer.encode_batch_fast(heads)):
            ids, cut = encoding.ids, len(heads[i]) < len(clean[i])
            if cut or len(ids) > self.max_tokens:
                if not truncate:
                    raise TooLongError(first_index + i, len(ids), self.max_tokens, at_least=cut)
                ids = ids[: self.max_tokens - len(self.final_ids)] + self.final_ids
            encoded.append(Encoded(np.asarray(ids, dtype=np.int64), cut or len(ids) < len(encoding.ids)))
        return encoded


def _without_added_tokens(path: Path) -> tokenizers.Tokenizer:
    content = json.loads(path.read_text("utf-8"))
    return tokenizers.Tokenizer.from_str(json.dumps(content | {"added_tokens": [], "post_processor": None}))


def checked(text: object, index: int | None, errors: str) -> str:
    """The text, if it is one, or where ``index`` is None the prompt; a lone surrogate is refused, or replaced by U+FFFD."""
    if not isinstance(text, str):
        raise TextTypeError(index, text)
    bad = SURROGATE.search(text)
    if bad is None:
        return text
    if errors != "replace":
        raise TextError(index, bad.start(), ord(bad.group()))
    return SURROGATE.sub("\ufffd", text)
