"""Exported Qwen3-Embedding and Qwen3-Reranker folders → vectors and scores, with onnxruntime, tokenizers and numpy."""

from typing import TYPE_CHECKING

from q3_runtime.errors import Q3Error
from q3_runtime.templates import Template

if TYPE_CHECKING:
    from q3_runtime.embedder import Embedder
    from q3_runtime.reranker import Reranker
else:

    def __getattr__(name: str) -> type:
        """The models on first use: they import numpy and tokenizers, which ``q3 --help`` does not need."""
        if name == "Embedder":
            from q3_runtime.embedder import Embedder

            return Embedder
        if name == "Reranker":
            from q3_runtime.reranker import Reranker

            return Reranker
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = ["Embedder", "Q3Error", "Reranker", "Template"]


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
