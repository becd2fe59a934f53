"""Search a text file with LlamaIndex's vector index and our vectors, in one process, without a network or a language model.

    pip install 'q3-onnx[cpu]' llama-index-core      # until the first release: '.[cpu]' in a checkout
    python examples/llamaindex_search.py FOLDER FILE "query" [RERANKER]

FOLDER is an exported embedding model, FILE has one passage a line. With RERANKER, an exported reranker, the ten best lines
are put in its order.
"""

import asyncio
import sys
from pathlib import Path
from typing import Any

from llama_index.core import VectorStoreIndex
from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.bridge.pydantic import PrivateAttr
from llama_index.core.schema import TextNode

from q3_runtime import Embedder, Reranker


class Q3Embedding(BaseEmbedding):
    """An exported folder as LlamaIndex's embedding; queries get the model's prompt.

    Args:
        folder: the exported folder, or ``ORG/NAME`` on the hub.
        options: further ones of :class:`q3_runtime.Embedder`: ``quant``, ``threads`` …
    """

    _model: Embedder = PrivateAttr()

    def __init__(self, folder: str, **options: Any) -> None:
        super().__init__(model_name=folder, embed_batch_size=256)
        self._model = Embedder(folder, **options)

    def _get_query_embedding(self, query: str) -> list[float]:
        return self._model.encode_query(query).tolist()

    def _get_text_embedding(self, text: str) -> list[float]:
        return self._model.encode_document(text).tolist()

    def _get_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        return self._model.encode_document(texts).tolist()

    async def _aget_query_embedding(self, query: str) -> list[float]:
        return await asyncio.to_thread(self._get_query_embedding, query)

    async def _aget_text_embedding(self, text: str) -> list[float]:
        return await asyncio.to_thread(self._get_text_embedding, text)

    async def _aget_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        return await asyncio.to_thread(self._get_text_embeddings, texts)


def main(folder: str, file: str, query: str, reranker: str | None = None) -> None:
    """Print score, line number and text of the five best lines."""
    lines = enumerate(Path(file).read_text("utf-8").splitlines(), start=1)
    nodes = [TextNode(text=line, id_=str(number)) for number, line in lines if line.strip()]
    index = VectorStoreIndex(nodes, embed_model=Q3Embedding(folder))
    found = [(node.node, node.score) for node in index.as_retriever(similarity_top_k=10).retrieve(query)]
    if reranker:
        with Reranker(reranker) as model:
            ranking = model.rank(query, [node.text for node, _ in found])
        found = [(found[index][0], score) for index, score in ranking]
    for node, score in found[:5]:
        print(f"{score:6.3f}  {node.node_id:>5}  {node.text}")


if __name__ == "__main__":
    if len(sys.argv) not in (4, 5):
        sys.exit(f'usage: {sys.argv[0]} FOLDER FILE "query" [RERANKER]')
    main(*sys.argv[1:])
