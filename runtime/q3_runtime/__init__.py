"""Exported Qwen3-Embedding and Qwen3-Reranker folders → vectors and scores, with onnxruntime, tokenizers and numpy."""

from q3_runtime.embedder import Embedder
from q3_runtime.errors import Q3Error
from q3_runtime.reranker import Reranker
from q3_runtime.templates import Template

__all__ = ["Embedder", "Q3Error", "Reranker", "Template"]
