"""A pair's body → token ids between the ids of the template's prefix and suffix."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from q3_runtime.errors import InputError, TooLongError, UsageError
from q3_runtime.templates import Template
from q3_runtime.tokenization import Encoded, Tokenizer


class PairTokenizer:
    """The folder's tokenizer.json, twice: as it is for prefix and suffix, and for bodies without special tokens and tags.

    So ``<|im_end|>`` or ``</think>`` in a document is a row of ordinary characters and cannot end the user's turn.

    Args:
        path: tokenizer.json of a reranker, which appends nothing.
        max_tokens: the longest sequence, prefix and suffix counted.
        template: its constant parts.

    Raises:
        IntegrityError: not a tokenizer.
        UsageError: a template that leaves no room for a body, or has no suffix.
    """

    def __init__(self, path: Path, max_tokens: int, template: Template) -> None:
        whole = Tokenizer(path, max_tokens)
        self.prefix, self.suffix = (item.ids for item in whole.encode([template.prefix, template.suffix]))
        if not len(self.suffix):
            raise UsageError(f"the template's suffix {template.suffix!r} has no tokens, expected some: the last is scored")
        self.max_body = max_tokens - len(self.prefix) - len(self.suffix)
        if self.max_body < 1:
            raise UsageError(f"the template takes {max_tokens - self.max_body} tokens, expected fewer than {max_tokens}")
        self._body = Tokenizer(path, self.max_body, plain=True)
        self._ends = template.body.endswith("{document}")
        """Else what is cut is not the document alone, and the query might be."""

    @property
    def pad_id(self) -> int:
        """Of the token whose state is scored, the suffix's last; shorter rows of a batch are filled with it."""
        return int(self.suffix[-1])

    def encode(
        self,
        bodies: Sequence[str],
        *,
        truncate: bool = True,
        errors: str = "strict",
        first_index: int = 0,
        fronts: Sequence[str] = (),
    ) -> list[Encoded]:
        """Ids of prefix, body and suffix for each body, int64 [T]; only a body that ends with its document is ever cut, there.

        ``fronts`` are the bodies without their documents, where what is cut must not be a whole document.

        Raises:
            InputError: a front that leaves its document no token; a long body that goes on behind its document.
            TextTypeError, TextError, TooLongError: see q3_runtime.tokenization.
        """
        try:
            encoded = self._body.encode(bodies, truncate=truncate and self._ends, errors=errors, first_index=first_index)
        except TooLongError as error:
            if not truncate:
                raise
            raise InputError(
                f"pair {error.index} has {error.given} tokens, the limit is {error.limit}, and a body that goes on behind its "
                "document is not cut; shorten the document"
            ) from error
        cut: dict[str, int] = {}  # front → the first row with it; a query is often that of all rows
        for row, front in enumerate(fronts):
            if encoded[row].truncated:
                cut.setdefault(front, row)
        for row, item in zip(cut.values(), self._body.encode(list(cut)), strict=True):
            if len(item.ids) >= self.max_body:
                raise InputError(
                    f"pair {first_index + row}: query and instruction take all {self.max_body} tokens of a pair, none is left "
                    "for the document; shorten them"
                )
        return [Encoded(np.concatenate([self.prefix, item.ids, self.suffix]), item.truncated) for item in encoded]
