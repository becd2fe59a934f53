"""The bytes of a body → an object, refusing what two readers could read in two ways."""

import re
from typing import Any, NoReturn

from q3_runtime import strict_json
from q3_runtime.server.refusals import RefusedError
from q3_runtime.server.schemas import MOST

MOST_VALUES = 2 * MOST
"""Arrays and objects: to read more would hold up everybody else."""
STRINGS = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"?', re.DOTALL)
"""The closing quote may be missing: a pattern that fails at the end of a body would begin anew at each of its quotes."""


def parse(raw: bytes) -> dict[str, Any]:
    """The JSON object in a body. No part of the body is repeated in an error.

    Raises:
        RefusedError: not UTF-8, not JSON, a byte order mark, ``NaN``, a key that stands twice, too deep, too long a number; or
            another JSON value than an object.
    """
    if raw.count(b"[") + raw.count(b"{") > MOST_VALUES and _values(raw) > MOST_VALUES:
        raise RefusedError("too_many_values", f"the body has more than {MOST_VALUES} arrays and objects")
    try:
        content = strict_json.loads(raw.decode("utf-8"), parse_constant=_no_constant)
    except UnicodeDecodeError as error:
        raise RefusedError("invalid_utf8", f"the body is not UTF-8 at byte {error.start}") from error
    except RecursionError as error:
        raise RefusedError("too_deep", "the body is nested too deeply") from error
    except ValueError as error:
        if str(error).startswith("Exceeds the limit"):  # of int(), 4,300 digits
            raise RefusedError("invalid_number", "the body has a number of too many digits") from error
        # JSONDecodeError has a position; the other one names a key, which may be a text.
        where = f" at character {error.pos}" if hasattr(error, "pos") else ": a key stands twice"
        raise RefusedError("invalid_json", f"the body is not valid JSON{where}") from error
    if not isinstance(content, dict):
        raise RefusedError("invalid_value", f"the body is a JSON {_NAMES[type(content)]}, expected an object")
    return content


def _values(raw: bytes) -> int:
    """Arrays and objects that begin outside of strings."""
    outside = STRINGS.sub(b"", raw)
    return outside.count(b"[") + outside.count(b"{")


_NAMES = {list: "array", str: "string", int: "number", float: "number", bool: "boolean", type(None): "null"}


def _no_constant(name: str) -> NoReturn:
    raise RefusedError("invalid_json", f"the body has {name}, which is no JSON")
