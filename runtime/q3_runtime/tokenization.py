"""Text → token ids, exactly as transformers does it, ending in ``<|endoftext|>`` even after truncation."""

import json
import re
from collections.abc import Mapping, Sequence
from copy import copy
from functools import cached_property
from pathlib import Path
from typing import NamedTuple, TypeGuard

import numpy as np
import numpy.typing as npt
import tokenizers

from q3_runtime.errors import InputError, IntegrityError, TextError, TextTypeError, TooLongError

SURROGATE = re.compile("[\ud800-\udfff]")
SUBWORD_PREFIX = re.compile(rb'"continuing_subword_prefix"\s*:\s*"[^"]')
"""Where a merge is without it, tokenizers ends the process."""
TAG = re.compile("<.*>", re.DOTALL)
"""Qwen3's tokens that are not special are such: ``<think>``, ``<tool_call>``."""


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
        plain: read special tokens and tags, ``<think>`` too, as ordinary characters, and append nothing.
    """

    def __init__(self, path: Path, max_tokens: int, *, split_special_tokens: bool = False, plain: bool = False) -> None:
        self._path = path
        self._tokenizer = open_tokenizer(path, plain=plain)
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._tokenizer.encode_special_tokens = split_special_tokens or plain
        self.max_tokens = max_tokens
        self.final_ids: list[int] = self._tokenizer.encode("").ids  # what the post-processor appends

    @property
    def pad_id(self) -> int:
        """Of the token that ends every text; shorter rows of a batch are filled with it.

        Raises:
            IntegrityError: there is none.
        """
        if not self.final_ids:
            raise IntegrityError(
                f"{self._path}: it appends nothing to a text, expected <|endoftext|>; export or download the folder again"
            )
        return self.final_ids[-1]

    @cached_property
    def longest_token(self) -> int:
        """Characters. Takes a tenth of a second, which the loading of a model need not wait for."""
        return max(len(token) for token in self._tokenizer.get_vocab())

    def limited(self, max_tokens: int) -> "Tokenizer":
        """The same one, which cuts there."""
        _ = self.longest_token  # once for all
        other = copy(self)
        other.max_tokens = max_tokens
        return other

    def encode(
        self,
        texts: Sequence[str],
        *,
        prefix: str = "",
        truncate: bool = True,
        truncation_side: str = "right",
        errors: str = "strict",
        first_index: int = 0,
    ) -> list[Encoded]:
        """Token ids of ``prefix + text`` for each text. ``first_index`` is what to call the first text in an error.

        ``truncation_side`` is the end at which a text that is too long loses tokens, ``right`` or ``left``, the prefix too.

        Raises:
            TextTypeError: something that is not a str.
            TextError: a lone surrogate, unless ``errors="replace"``.
            TooLongError: more than ``max_tokens``, where ``truncate`` is off.
        """
        prefix = checked(prefix, None, errors)
        clean = [prefix + checked(text, first_index + i, errors) for i, text in enumerate(texts)]
        # No token stands for more characters than the longest, so a text can be cut before the slow part without changing its
        # first max_tokens ids.
        is_long = any(len(text) > self.max_tokens for text in clean)
        most = self.max_tokens * (self.longest_token if is_long else 1)
        kept = slice(most) if truncation_side == "right" else slice(-most, None)
        parts = [text[kept] for text in clean]
        return [
            self.fitted(encoding.ids, truncate, truncation_side, index=first_index + i, cut=len(parts[i]) < len(clean[i]))
            for i, encoding in enumerate(self._tokenizer.encode_batch_fast(parts))
        ]

    def fitted(
        self, ids: list[int], truncate: bool = True, truncation_side: str = "right", *, index: int = 0, cut: bool = False
    ) -> Encoded:
        """Token ids that fit, with the final ``<|endoftext|>`` that they have; ``cut``: text was cut off before.

        Raises:
            TooLongError: more than ``max_tokens``, where ``truncate`` is off.
        """
        if not cut and len(ids) <= self.max_tokens:
            return Encoded(np.asarray(ids, dtype=np.int64), truncated=False)
        if not truncate:
            raise TooLongError(index, len(ids), self.max_tokens, at_least=cut)
        body, room = ids[: len(ids) - len(self.final_ids)], self.max_tokens - len(self.final_ids)
        kept = body[:room] if truncation_side == "right" else body[max(0, len(body) - room) :]
        return Encoded(np.asarray(kept + self.final_ids, dtype=np.int64), truncated=True)

    @property
    def raw(self) -> tokenizers.Tokenizer:
        """As the library has it."""
        return self._tokenizer


def open_tokenizer(path: Path, *, plain: bool = False) -> tokenizers.Tokenizer:
    """A tokenizer.json that has encoded a text: tokenizers panics on a template with an unknown token only then.

    Raises:
        IntegrityError: not a tokenizer, or one on which tokenizers panics.
    """
    try:
        content = path.read_bytes()
        if SUBWORD_PREFIX.search(content):
            raise ValueError("it has a continuing_subword_prefix, which no Qwen3 tokenizer has")
        found = _plain(content) if plain else tokenizers.Tokenizer.from_buffer(content)
        found.encode("")
    except BaseException as error:
        if not is_of_tokenizers(error):
            raise
        raise IntegrityError(f"{path}: not a tokenizer ({error}); export or download the folder again") from error
    return found


def is_of_tokenizers(error: BaseException) -> bool:
    """Bare Exception and panics, which are not even that."""
    return isinstance(error, Exception) or type(error).__name__ == "PanicException"


def _plain(file: bytes) -> tokenizers.Tokenizer:
    """Tags are special; words that a fine-tune has added are not."""
    content = json.loads(file)
    tokens = [
        token | {"special": token["special"] or bool(TAG.fullmatch(token["content"].strip()))}
        for token in content["added_tokens"]
    ]
    return tokenizers.Tokenizer.from_str(json.dumps(content | {"added_tokens": tokens, "post_processor": None}))


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


def refuse_table(texts: object) -> None:
    """Going through a table gives the names of its columns, which would be taken for texts.

    Raises:
        InputError: it is one.
    """
    kind = type(texts)  # of an object, pandas' Series say, any name may be an attribute
    if hasattr(kind, "columns") or hasattr(kind, "column_names"):
        raise InputError(f"{kind.__name__} is a table, expected texts; pass one column of it, e.g. df['text']")


def is_list(texts: object) -> TypeGuard[Sequence[str]]:
    """Lists, tuples, arrays, columns of a table; not a text, and not what is neither, which is refused as one."""
    is_sliced = hasattr(texts, "__getitem__") and hasattr(texts, "__len__")
    return is_sliced and not isinstance(texts, str | bytes | bytearray | Mapping)
