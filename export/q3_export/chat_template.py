"""The words around a query and a document as sentence-transformers' CrossEncoder reads them: a template over messages."""

import json
from collections.abc import Mapping

from q3_runtime.templates import FIELD

ROLES = {"instruction": "system", "query": "query", "document": "document"}
"""Field of the body → role of the message that CrossEncoder puts it into."""


def chat_template(prompts: Mapping[str, str]) -> str:
    """chat_template.jinja of a reranker, from the manifest's ``prompts``; what is not a field is quoted."""
    parts = FIELD.split(prompts["prefix"] + prompts["body"] + prompts["suffix"])
    written = [_content(part) if i % 2 else f"{{{{ {json.dumps(part, ensure_ascii=False)} }}}}" for i, part in enumerate(parts)]
    return "".join(written)


def _content(field: str) -> str:
    return f'{{{{ messages | selectattr("role", "eq", "{ROLES[field]}") | map(attribute="content") | first }}}}'
