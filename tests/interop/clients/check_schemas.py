"""Answers against the schemas of an OpenAPI 3.0 document → what does not fit, as JSON."""

import json
import sys
from typing import Any

from jsonschema_rs import Draft4Validator  # the dialect that OpenAPI 3.0 is nearest to


def plain(schema: Any) -> Any:
    """``nullable`` in the words of JSON Schema."""
    if isinstance(schema, list):
        return [plain(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    found = {name: plain(item) for name, item in schema.items() if name not in ("default", "example", "nullable")}
    return {"anyOf": [found, {"type": "null"}]} if schema.get("nullable") is True else found


job = json.load(sys.stdin)
document = plain(job["document"])
wrong = []
for path, method, status, content in job["cases"]:
    schema = document["paths"][path][method]["responses"][status]["content"]["application/json"]["schema"]
    validator = Draft4Validator(schema | {"components": document["components"]})
    wrong += [f"{path} {status}: {error.message}" for error in validator.iter_errors(content)]
print(json.dumps(wrong))
