"""JSON in which no key may stand twice, two readers must not see two contents in one file, and a number is a number."""

import json
from collections.abc import Callable
from typing import Any, NoReturn


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def loads(text: str, parse_constant: Callable[[str], Any] = _no_constant) -> Any:
    """Like :func:`json.loads`.

    Raises:
        ValueError: not JSON, or a key that stands twice in one object; ``NaN`` and ``Infinity``, unless ``parse_constant`` does
            something else with them.
    """
    return json.loads(text, object_pairs_hook=_no_duplicates, parse_constant=parse_constant)


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content: dict[str, Any] = {}
    for name, value in pairs:
        if name in content:
            raise ValueError(f"key {name!r} stands twice")
        content[name] = value
    return content
