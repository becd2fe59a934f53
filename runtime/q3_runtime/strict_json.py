"""JSON in which no key may stand twice: two readers must not see two contents in one file."""

import json
from typing import Any


def loads(text: str, **options: Any) -> Any:
    """Like :func:`json.loads`, with its ``options``.

    Raises:
        ValueError: not JSON, or a key that stands twice in one object.
    """
    return json.loads(text, object_pairs_hook=_no_duplicates, **options)


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content: dict[str, Any] = {}
    for name, value in pairs:
        if name in content:
            raise ValueError(f"key {name!r} stands twice")
        content[name] = value
    return content
