"""The bytes of a body → an object, refusing what two readers could read in two ways."""

from typing import Any, NoReturn

from q3_runtime import strict_json
from q3_runtime.server.refusals import RefusedError

MOST_DIGITS = 4300
"""Of a whole number; the same as Python's own limit."""


def parse(raw: bytes) -> dict[str, Any]:
    """The JSON object in a body. No part of the body is repeated in an error.

    Raises:
        RefusedError: not UTF-8, not JSON, a byte order mark, ``NaN``, a key that stands twice, too deep, too long a number; or
            another JSON value than an object.
    """
    try:
        content = strict_json.loads(raw.decode("utf-8"), parse_constant=_no_constant, parse_int=_whole)
    except UnicodeDecodeError as error:
        raise RefusedError("invalid_utf8", f"the body is not UTF-8 at byte {error.start}") from error
    except RecursionError as error:
        raise RefusedError("too_deep", "the body is nested too deeply") from error
    except ValueError as error:
        # JSONDecodeError has a position; the others name a key, which may be a text.
        where = f" at character {error.pos}" if hasattr(error, "pos") else ": a key stands twice"
        raise RefusedError("invalid_json", f"the body is not valid JSON{where}") from error
    if not isinstance(content, dict):
        raise RefusedError("invalid_value", f"the body is a JSON {_NAMES[type(content)]}, expected an object")
    return content


_NAMES = {list: "array", str: "string", int: "number", float: "number", bool: "boolean", type(None): "null"}


def _no_constant(name: str) -> NoReturn:
    raise RefusedError("invalid_json", f"the body has {name}, which is no JSON")


def _whole(digits: str) -> int:
    if len(digits) > MOST_DIGITS:
        raise RefusedError("invalid_number", f"the body has a number of {len(digits)} digits, expected at most {MOST_DIGITS}")
    return int(digits)
