r"""The words around a query and a document that a reranker judges.

Source: the model card of Qwen3-Reranker. Its code joins the three parts of the body by one line break each.
"""

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from q3_runtime.errors import InputError, UsageError
from q3_runtime.prompts import DEFAULT_INSTRUCTION

FIELD = re.compile(r"\{(instruction|query|document)\}")


@dataclass(frozen=True)
class Template:
    """``prefix`` and ``suffix`` are read with their special tokens; the ``body`` is plain text, whatever is in it.

    Args:
        prefix: in front of the body, the same for all pairs.
        body: with ``{query}``, ``{document}`` and, where it is wanted, ``{instruction}``.
        suffix: behind it; the score is taken at its last token.
        instruction: the task, where a call names none.

    Raises:
        UsageError: no place for query or document.
    """

    prefix: str
    body: str
    suffix: str
    instruction: str

    def __post_init__(self) -> None:
        fields = FIELD.findall(self.body)
        if missing := [name for name in ("query", "document") if name not in fields]:
            raise UsageError(f"the template's body is {self.body!r}, expected {{{missing[0]}}} in it")

    def fill(self, query: str, document: str, instruction: str | None = None) -> str:
        """The body of one pair. Braces within the texts stay as they are."""
        words = {"query": query, "document": document, "instruction": self.instruction if instruction is None else instruction}
        return FIELD.sub(lambda found: words[found.group(1)], self.body)

    def as_prompts(self) -> dict[str, str]:
        """As the manifest's ``prompts`` keep it."""
        return asdict(self)

    @classmethod
    def from_prompts(cls, prompts: Mapping[str, str]) -> "Template":
        """The other way round.

        Raises:
            InputError: parts are missing.
        """
        try:
            return cls(**prompts)
        except TypeError as error:
            parts = ", ".join(OFFICIAL.as_prompts())
            raise InputError(f"prompts are {', '.join(prompts)}, expected those of a reranker: {parts}") from error


OFFICIAL = Template(
    prefix=(
        "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and the Instruct provided. "
        'Note that the answer can only be "yes" or "no".<|im_end|>\n<|im_start|>user\n'
    ),
    body="<Instruct>: {instruction}\n<Query>: {query}\n<Document>: {document}",
    suffix="<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n",
    instruction=DEFAULT_INSTRUCTION,
)
