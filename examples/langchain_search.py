"""Search a text file with LangChain's vector store and our vectors, in one process and without a network.

    pip install 'q3-onnx[cpu]' langchain-core      # until the first release: '.[cpu]' in a checkout
    python examples/langchain_search.py FOLDER FILE "query" [RERANKER]

FOLDER is an exported embedding model, FILE has one passage a line. With RERANKER, an exported reranker, the ten best lines
are put in its order.
"""

import sys
from pathlib import Path

from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_core.vectorstores import InMemoryVectorStore

from q3_runtime import Embedder, Reranker


class Q3Embeddings(Embeddings):
    """An exported folder as LangChain's embeddings; queries get the model's prompt. The asynchronous calls are inherited.

    Args:
        folder: the exported folder, or ``ORG/NAME`` on the hub.
        options: further ones of :class:`q3_runtime.Embedder`: ``quant``, ``threads`` …
    """

    def __init__(self, folder: str, **options: object) -> None:
        self.model = Embedder(folder, **options)

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """A vector for each document."""
        return self.model.encode_document(texts).tolist()

    def embed_query(self, text: str) -> list[float]:
        """The vector of one query."""
        return self.model.encode_query(text).tolist()


def main(folder: str, file: str, query: str, reranker: str | None = None) -> None:
    """Print score, line number and text of the five best lines."""
    lines = enumerate(Path(file).read_text("utf-8").splitlines(), start=1)
    store = InMemoryVectorStore(Q3Embeddings(folder))
    store.add_documents([Document(line, metadata={"line": number}) for number, line in lines if line.strip()])
    found = store.similarity_search_with_score(query, k=10)
    if reranker:
        with Reranker(reranker) as model:
            ranking = model.rank(query, [document.page_content for document, _ in found])
        found = [(found[index][0], score) for index, score in ranking]
    for document, score in found[:5]:
        print(f"{score:6.3f}  {document.metadata['line']:>5}  {document.page_content}")


if __name__ == "__main__":
    if len(sys.argv) not in (4, 5):
        sys.exit(f'usage: {sys.argv[0]} FOLDER FILE "query" [RERANKER]')
    main(*sys.argv[1:])
