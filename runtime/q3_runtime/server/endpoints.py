"""The routes: a table, and what each computes. The words are those of the systems that clients were written for.

Source: text-embeddings-inference 1.9.3 (router/src/http/server.rs), OpenAI's API reference, and the rerank routes of Cohere
and Jina as llama-server and vLLM have them.
"""

import base64
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeVar

import numpy as np
from pydantic import BaseModel

from q3_runtime.scores import best_first, probabilities
from q3_runtime.server import schemas
from q3_runtime.server.description import describe
from q3_runtime.server.models import Models
from q3_runtime.server.refusals import RefusedError
from q3_runtime.server.served_model import Asked, ServedModel, Work
from q3_runtime.server.token_list import check_characters, tokens_of
from q3_runtime.vectors import checked_dim, cosines, truncated

Item = TypeVar("Item", bound=Sequence[Any])
Place = Callable[[int], str]
"""Names a text by its path in the request."""
NUMBER_BYTES, BASE64_BYTES = 13, 6
"""Of a number of a vector in an answer, rounded up."""


@dataclass
class Reply:
    """What a route gives: content for JSON, and whose work it was."""

    content: Any
    work: Work | None = None


Answer = Callable[[Models, Any], Awaitable[Reply]]


@dataclass(frozen=True)
class Endpoint:
    """A row of the table.

    Args:
        path: of the URL.
        answer: what it computes.
        body: what a POST may hold; none for a GET.
        dialect: of its errors.
        summary: for the OpenAPI document.
    """

    path: str
    answer: Answer
    body: type[BaseModel] | None
    dialect: Literal["tei", "openai"]
    summary: str


async def embed(models: Models, body: schemas.EmbedRequest) -> Reply:
    """Vectors, [N, D]."""
    model = models.find(body.model, "embedding")
    asked, dim = _asked(models, model, body, body.inputs, "inputs"), _dimensions(model, body.dimensions)
    if body.normalize:
        vectors, work = await model.vectors(asked)
        return Reply(truncated(vectors, dim), work)
    states, work = await model.raw_vectors(asked)
    return Reply(np.ascontiguousarray(states[:, :dim]), work)


async def embed_all(models: Models, body: schemas.EmbedAllRequest) -> Reply:
    """A vector for each token of each text, N times [T, D]."""
    model = models.find(body.model, "embedding")
    return Reply(*await model.token_vectors(_asked(models, model, body, body.inputs, "inputs")))


async def similarity(models: Models, body: schemas.SimilarityRequest) -> Reply:
    """Cosines of one text with others."""
    model = models.find(body.model, "embedding")
    if not body.inputs.sentences:
        raise RefusedError("empty_input", "`inputs.sentences` cannot be empty", param="inputs.sentences")
    texts = [body.inputs.source_sentence, *body.inputs.sentences]
    asked = _asked(models, model, _merged(body, body.parameters), texts, "inputs", _place_of_sentence)
    vectors, work = await model.vectors(asked)
    return Reply(cosines(vectors[:1], vectors[1:])[0], work)


async def tokenize(models: Models, body: schemas.TokenizeRequest) -> Reply:
    """Tokens of each text, with the bytes of the text that each stands for."""
    model = models.find(body.model)
    texts, prefix = _checked(models, body.inputs, "inputs"), _prefix(model, body)

    characters = sum(map(len, texts)) + len(texts) * len(prefix)
    check_characters(characters)
    raw, special = model.tokenizer.raw, body.add_special_tokens
    found = await model.reader.run(characters, lambda: tokens_of(raw, [prefix + text for text in texts], special))
    return Reply(found, Work(model, prefix, characters))


async def decode(models: Models, body: schemas.DecodeRequest) -> Reply:
    """Texts of token ids."""
    model = models.find(body.model)
    for place, ids in enumerate(_checked(models, body.ids, "ids")):
        if max(ids) >= model.vocabulary:
            raise RefusedError(
                "invalid_value", f"`ids` has {max(ids)}, expected below {model.vocabulary}", param=f"ids[{place}]"
            )
    raw, skip = model.tokenizer.raw, body.skip_special_tokens
    count = sum(map(len, body.ids))
    found = await model.reader.run(count, lambda: [raw.decode(ids, skip_special_tokens=skip) for ids in body.ids])
    return Reply(found, Work(model))


async def rerank(models: Models, body: schemas.RerankRequest) -> Reply:
    """Scores of texts, best first, as text-embeddings-inference gives them."""
    model = models.find(body.model, "reranker")
    if body.truncation_direction.lower() == "left":
        raise RefusedError(
            "invalid_value", "a pair is cut at the end of its text, expected Right", param="truncation_direction"
        )
    texts = _checked(models, body.texts, "texts", may_be_empty=True)
    asked = Asked(texts, _place_in("texts"), truncate=body.truncate)
    odds, work = await model.log_odds(body.query, asked, body.instruction)
    scores = (odds if body.raw_scores else probabilities(odds)).tolist()
    more = [{"text": text} if body.return_text else {} for text in texts]
    return Reply([{"index": index, "score": scores[index]} | more[index] for index in best_first(odds)], work)


async def rerank_documents(models: Models, body: schemas.DocumentsRequest) -> Reply:
    """Scores of documents, best first, as Cohere and Jina give them."""
    model = models.find(body.model, "reranker")
    texts = _checked(models, body.documents, "documents", may_be_empty=True)
    odds, work = await model.log_odds(body.query, Asked(texts, _place_in("documents")), body.instruction)
    scores = probabilities(odds).tolist()
    more = [{"document": {"text": text}} if body.return_documents else {} for text in texts]
    best = best_first(odds)[: body.top_n]
    results = [{"index": index, "relevance_score": scores[index]} | more[index] for index in best]
    return Reply({"model": model.name, "results": results, "usage": _usage(work)}, work)


async def embeddings(models: Models, body: schemas.EmbeddingsRequest) -> Reply:
    """Vectors as OpenAI gives them."""
    model = models.find(body.model, "embedding")
    asked, dim = _asked(models, model, body, body.input, "input"), _dimensions(model, body.dimensions)
    vectors, work = await model.vectors(asked)
    rows: Any = truncated(vectors, dim)
    if body.encoding_format == "base64":
        rows = [base64.b64encode(np.ascontiguousarray(row, dtype="<f4").data).decode("ascii") for row in rows]
    data = [{"object": "embedding", "index": index, "embedding": row} for index, row in enumerate(rows)]
    return Reply({"object": "list", "data": data, "model": model.name, "usage": _usage(work)}, work)


async def info(models: Models, _body: None) -> Reply:
    """What is served, as text-embeddings-inference says it of one model; the others are in ``models``."""
    described = [describe(models, model) for model in models.served]
    return Reply(described[0] | {"models": described})


async def list_models(models: Models, _body: None) -> Reply:
    """Names to pass as ``model``."""
    listed = [{"id": model.name, "object": "model", "created": 0, "owned_by": "q3-onnx"} for model in models.served]
    return Reply({"object": "list", "data": listed})


EMBED = Endpoint("/embed", embed, schemas.EmbedRequest, "tei", "Vectors of texts")
SIMILARITY = Endpoint("/similarity", similarity, schemas.SimilarityRequest, "tei", "Cosines of a text with others")
RERANK = Endpoint("/rerank", rerank, schemas.RerankRequest, "tei", "Texts by how well they answer a query")
DOCUMENTS = Endpoint(
    "/v1/rerank", rerank_documents, schemas.DocumentsRequest, "openai", "Documents by how well they answer a query"
)
ENDPOINTS = [
    EMBED,
    Endpoint("/embed_all", embed_all, schemas.EmbedAllRequest, "tei", "A vector for every token of each text"),
    SIMILARITY,
    Endpoint("/tokenize", tokenize, schemas.TokenizeRequest, "tei", "Tokens of texts"),
    Endpoint("/decode", decode, schemas.DecodeRequest, "tei", "Texts of token ids"),
    RERANK,
    Endpoint("/", embed, schemas.EmbedRequest, "tei", "/embed, /similarity or /rerank, by the body"),
    Endpoint("/invocations", embed, schemas.EmbedRequest, "tei", "The same, as SageMaker calls it"),
    Endpoint("/v1/embeddings", embeddings, schemas.EmbeddingsRequest, "openai", "Vectors of texts, as OpenAI has it"),
    Endpoint("/embeddings", embeddings, schemas.EmbeddingsRequest, "openai", "The same"),
    DOCUMENTS,
    Endpoint("/v2/rerank", rerank_documents, schemas.DocumentsRequest, "openai", "The same"),
    Endpoint("/info", info, None, "tei", "What is served"),
    Endpoint("/v1/models", list_models, None, "openai", "Names of what is served"),
]
_BY_FIELDS = [EMBED, SIMILARITY, RERANK]
BY_BODY = {"/rerank": [RERANK, DOCUMENTS], "/": _BY_FIELDS, "/invocations": _BY_FIELDS}
"""Paths whose body tells what is wanted, and in which dialect."""


def dialect_of(path: str) -> str:
    """Of an error on that path, whether it is a route or not."""
    return next((row.dialect for row in ENDPOINTS if row.path == path), "openai" if path.startswith("/v") else "tei")


def answer_bytes(models: Models, body: BaseModel) -> int:
    """About how many an answer of vectors will have; 0 for other answers, which are small or have limits of their own.

    Raises:
        RefusedError: no such model.
    """
    if isinstance(body, schemas.EmbedRequest):
        inputs, number = body.inputs, NUMBER_BYTES
    elif isinstance(body, schemas.EmbeddingsRequest):
        inputs, number = body.input, BASE64_BYTES if body.encoding_format == "base64" else NUMBER_BYTES
    else:
        return 0
    dims = models.find(body.model, "embedding").embedder.dims
    return min(len(inputs), models.max_client_batch_size) * min(body.dimensions or dims, dims) * number


def for_body(endpoint: Endpoint, body: dict[str, Any]) -> Endpoint:
    """What a body asks for: on ``/rerank`` ``texts`` or ``documents`` tell, on ``/`` and its like the fields of the route.

    Raises:
        RefusedError: both or neither of ``texts`` and ``documents``.
    """
    if endpoint.path == "/rerank":
        if ("texts" in body) == ("documents" in body):
            found = "both given" if "texts" in body else "neither given"
            raise RefusedError("invalid_value", f"`texts` and `documents`: {found}, expected one of them", param="texts")
        return DOCUMENTS if "documents" in body else RERANK
    if endpoint.path in BY_BODY:
        return RERANK if "texts" in body else SIMILARITY if isinstance(body.get("inputs"), dict) else EMBED
    return endpoint


def _asked(
    models: Models, model: ServedModel, body: schemas.PromptFields, inputs: list[Any], field: str, place: Place | None = None
) -> Asked:
    """The texts of a request, checked, with what it says of them."""
    place = place or _place_in(field)
    asked = Asked(_checked(models, inputs, field, place), place, _prefix(model, body))
    if not isinstance(body, schemas.CutFields):
        return asked
    return replace(asked, truncate=body.truncate, side=body.truncation_direction.lower())


def _place_in(field: str) -> Place:
    return lambda index: f"{field}[{index}]"


def _place_of_sentence(index: int) -> str:
    return f"inputs.sentences[{index - 1}]" if index else "inputs.source_sentence"


def _checked(
    models: Models, inputs: list[Item], field: str, place: Place | None = None, *, may_be_empty: bool = False
) -> list[Item]:
    """As many as a request may have, and none of them empty.

    Raises:
        RefusedError: otherwise, in text-embeddings-inference's words.
    """
    most = models.max_client_batch_size
    if len(inputs) > most:
        raise RefusedError("batch_too_large", f"batch size {len(inputs)} > maximum allowed batch size {most}", param=field)
    empty = [index for index, item in enumerate(inputs) if not item and not may_be_empty]
    if not inputs or empty:
        where = (place or _place_in(field))(empty[0]) if empty else field
        raise RefusedError("empty_input", f"`{field}` cannot be empty", param=where)
    return inputs


def _prefix(model: ServedModel, body: schemas.PromptFields) -> str:
    return model.prefix(body.prompt_name, body.instruction, body.input_type)


def _merged(body: schemas.SimilarityRequest, parameters: schemas.SimilarityParameters | None) -> schemas.CutFields:
    """``parameters`` win over the same fields beside them."""
    fields = ("prompt_name", "instruction", "input_type", "truncate", "truncation_direction")
    beside = {name: getattr(body, name) for name in fields if name in body.model_fields_set}
    within = {name: getattr(parameters, name) for name in fields if parameters and name in parameters.model_fields_set}
    return schemas.CutFields(**(beside | within))


def _dimensions(model: ServedModel, dimensions: int | None) -> int:
    try:
        return checked_dim(dimensions, model.embedder.dims)
    except ValueError as error:
        raise RefusedError("invalid_value", str(error).replace("dim ", "`dimensions` ", 1), param="dimensions") from error


def _usage(work: Work) -> dict[str, int]:
    return {"prompt_tokens": work.tokens, "total_tokens": work.tokens}
