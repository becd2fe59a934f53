"""The OpenAPI document, made from the table of routes and the classes of their bodies."""

from functools import cache
from importlib.metadata import version
from typing import Any

from pydantic.json_schema import models_json_schema

from q3_runtime.server.endpoints import BY_BODY, ENDPOINTS, Endpoint
from q3_runtime.server.refusals import REASONS

Schema = dict[str, Any]


def _object(properties: Schema, *optional: str) -> Schema:
    return {"type": "object", "required": [name for name in properties if name not in optional], "properties": properties}


def _array(items: Schema) -> Schema:
    return {"type": "array", "items": items}


def _or_null(schema: Schema) -> Schema:
    return schema | {"type": [schema["type"], "null"]}


TEXT, OBJECT, FLAG = {"type": "string"}, {"type": "object"}, {"type": "boolean"}
NUMBER, COUNT = {"type": "number", "format": "float"}, {"type": "integer", "minimum": 0}
TOKEN = _object({"id": COUNT, "text": TEXT, "special": FLAG, "start": _or_null(COUNT), "stop": _or_null(COUNT)})
RANK = _object({"index": COUNT, "score": NUMBER, "text": TEXT}, "text")
RESULT = _object({"index": COUNT, "relevance_score": NUMBER, "document": OBJECT}, "document")
USAGE = _object({"prompt_tokens": COUNT, "total_tokens": COUNT})
RESULTS = _object({"model": TEXT, "results": _array(RESULT), "usage": USAGE})
EMBEDDING = _object({"object": TEXT, "index": COUNT, "embedding": {"oneOf": [_array(NUMBER), TEXT]}})
MODEL = {
    "model_id": TEXT,
    "model_sha": _or_null(TEXT),
    "model_dtype": TEXT,
    "served_model_name": TEXT,
    "model_type": OBJECT,
    "max_concurrent_requests": COUNT,
    "max_input_length": COUNT,
    "max_batch_tokens": COUNT,
    "max_batch_requests": _or_null(COUNT),
    "max_client_batch_size": COUNT,
    "auto_truncate": FLAG,
    "tokenization_workers": COUNT,
    "version": TEXT,
    "sha": _or_null(TEXT),
    "docker_label": _or_null(TEXT),
    "quant": TEXT,
    "provider": TEXT,
    "dims": COUNT,
    "mrl_dims": _array(COUNT),
    "prompts": OBJECT,
    "default_prompt": _or_null(TEXT),
    "fidelity": _or_null(OBJECT),
    "source_sha256": TEXT,
    "waiting_tokens": COUNT,
}
ANSWERS: dict[str, Schema] = {
    "/embed": _array(_array(NUMBER)),
    "/embed_all": _array(_array(_array(NUMBER))),
    "/similarity": _array(NUMBER),
    "/tokenize": _array(_array(TOKEN)),
    "/decode": _array(TEXT),
    "/rerank": _array(RANK),
    "/v1/embeddings": _object({"object": TEXT, "data": _array(EMBEDDING), "model": TEXT, "usage": USAGE}),
    "/v1/rerank": RESULTS,
    "/info": _object(MODEL | {"models": _array(_object(MODEL))}),
    "/v1/models": _object({"object": TEXT, "data": _array(OBJECT)}),
}
"""Path → schema of its answer; an alias gives what the path with the same function gives."""
ERRORS = {
    "tei": ("ErrorResponse", _object({"error": TEXT, "error_type": TEXT, "code": TEXT, "request_id": TEXT})),
    "openai": ("OpenAICompatErrorResponse", _object({"error": OBJECT, "message": TEXT, "code": COUNT, "error_type": TEXT})),
}
OPEN = {
    "/health": "Whether requests are answered",
    "/ready": "Whether requests are answered",
    "/live": "Whether the process runs",
    "/metrics": "Figures for Prometheus",
}
"""Paths that need no key."""
UNSEEN = {405, 408, 431, 501, 505}
"""Statuses that no request which fits the document meets."""


@cache
def document() -> Schema:
    """OpenAPI 3.1, of whose dialect pydantic's schemas are."""
    bodies = {row.body for row in ENDPOINTS if row.body}
    template = "#/components/schemas/{model}"
    names, schemas = models_json_schema([(body, "validation") for body in sorted(bodies, key=str)], ref_template=template)
    paths: Schema = {row.path: {"post" if row.body else "get": _operation(row, names)} for row in ENDPOINTS}
    for path, summary in OPEN.items():
        paths[path] = {"get": {"summary": summary, "security": [], "responses": {"200": {"description": summary}}}}
    return {
        "openapi": "3.1.0",
        "info": {"title": "q3 serve", "version": version("q3-onnx"), "license": {"name": "Apache-2.0"}},
        "paths": paths,
        "components": {
            "schemas": schemas["$defs"] | dict(ERRORS.values()),
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{}, {"key": []}],
    }


def _operation(row: Endpoint, names: Any) -> Schema:
    rows = BY_BODY.get(row.path, [row])
    paths = [next(other.path for other in ENDPOINTS if other.answer is each.answer) for each in rows]
    errors = dict.fromkeys(ERRORS[each.dialect][0] for each in rows)
    error = _any_of([{"$ref": f"#/components/schemas/{name}"} for name in errors])
    statuses = {reason.status for reason in REASONS.values()} - UNSEEN if row.body else {400, 401, 503}
    answers = {"200": _content(row.summary, _any_of([ANSWERS[path] for path in paths]))}
    answers |= {str(status): _content("An error", error) for status in sorted(statuses)}
    operation: Schema = {"summary": row.summary, "operationId": row.path.strip("/") or "any", "responses": answers}
    if row.body:
        schema = _any_of([names[(each.body, "validation")] for each in rows])
        operation["requestBody"] = {"required": True, "content": {"application/json": {"schema": schema}}}
    return operation


def _any_of(schemas: list[Schema]) -> Schema:
    return {"anyOf": schemas} if len(schemas) > 1 else schemas[0]


def _content(description: str, schema: Schema) -> Schema:
    return {"description": description, "content": {"application/json": {"schema": schema}}}
