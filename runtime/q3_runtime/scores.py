"""Scores that say on which scale they are: ``probability``, 0 to 1, or ``log_odds``."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt


class Scores(np.ndarray):
    """float32 [N]. ``scale`` stays with slices and copies.

    Example: ``Scores([0.2, 0.9], "probability").scale`` → ``"probability"``.
    """

    scale: str

    def __new__(cls, values: npt.ArrayLike, scale: str) -> "Scores":
        """An array of its own kind, and the scale beside it."""
        found = np.asarray(values, dtype=np.float32).view(cls)
        found.scale = scale
        return found

    def __array_finalize__(self, other: Any) -> None:
        self.scale = getattr(other, "scale", "")

    def __reduce__(self) -> Any:
        """Between processes too; what is made of scores, a mask say, is such an array as well."""
        return _restored, (type(self), np.asarray(self), self.scale)


def _restored(kind: type[Scores], values: npt.NDArray[Any], scale: str) -> Scores:
    found = values.view(kind)
    found.scale = scale
    return found


class Ranking(list[tuple[int, float]]):
    """``(index, score)``, best first, and the ``scale`` of the scores."""

    def __init__(self, pairs: Iterable[tuple[int, float]], scale: str) -> None:
        super().__init__(pairs)
        self.scale = scale


def best_first(log_odds: npt.NDArray[np.float32]) -> list[int]:
    """Rows [N] by their log-odds, equal ones in the order given; the probabilities of the surest are all rounded to 1."""
    order: list[int] = np.argsort(-log_odds, kind="stable").tolist()
    return order


def probabilities(log_odds: npt.ArrayLike) -> npt.NDArray[np.float32]:
    """softmax([logit(no), logit(yes)])[yes], which is the logistic function of their difference."""
    odds = np.asarray(log_odds, dtype=np.float64)
    with np.errstate(over="ignore"):  # exp of much is infinity, and 1 / infinity the 0 that it should be
        return np.asarray(1 / (1 + np.exp(-odds)), dtype=np.float32)
