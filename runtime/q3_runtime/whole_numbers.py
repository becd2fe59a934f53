"""Numbers that count something, of whatever type a caller has them."""

import operator

import numpy as np


def whole(value: object, least: int, most: int | None = None) -> int | None:
    """The int that it is, from ``least`` to ``most``; else None. numpy's integers are whole numbers, 3.0 and True are not."""
    try:
        found = operator.index(value)  # type: ignore[arg-type]  # what has none is refused
    except TypeError:
        return None
    is_bool = isinstance(value, bool | np.bool_)
    return found if not is_bool and least <= found and (most is None or found <= most) else None
