"""Vectors [N, D] float32: cut, normalized, compared."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from q3_runtime.errors import InputError, NonFiniteError
from q3_runtime.whole_numbers import whole

Vectors = npt.NDArray[np.float32]
MIN_DIM = 32


def checked_dim(dim: int | None, dims: int) -> int:
    """How many values to keep of ``dims``; None keeps all.

    Raises:
        InputError: not a whole number from 32 to ``dims``.
    """
    if dim is None:
        return dims
    found = whole(dim, MIN_DIM, dims)
    if found is None:
        raise InputError(f"dim is {dim!r}, expected a whole number from {MIN_DIM} to {dims}")
    return found


def normalized(vectors: Vectors) -> Vectors:
    """Each row at unit length; a row of zeros stays as it is."""
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.maximum(norms, 1e-12), dtype=np.float32)


def truncated(vectors: Vectors, dim: int) -> Vectors:
    """The first ``dim`` values of unit vectors [N, D], normalized again where that cut anything."""
    return vectors if dim == vectors.shape[1] else normalized(vectors[:, :dim])


def check_finite(vectors: Vectors, rows: Sequence[int], *, what: str = "vector") -> None:
    """Refuse NaN and infinity, and a vector of zeros, which points nowhere; ``rows`` is what to call each row.

    Raises:
        NonFiniteError: where there is one.
    """
    good = np.isfinite(vectors).all(axis=1)
    if what == "vector":
        good &= vectors.any(axis=1)
    if not good.all():
        raise NonFiniteError([rows[i] for i in np.flatnonzero(~good).tolist()], what)


def cosines(a: npt.ArrayLike, b: npt.ArrayLike) -> Vectors:
    """Cosines of every vector of ``a`` [Na, D] with every vector of ``b`` [Nb, D], float32 [Na, Nb].

    Raises:
        InputError: integers, or vectors of different lengths.
    """
    left, right = (_floats(each) for each in (a, b))
    if left.shape[1] != right.shape[1]:
        raise InputError(
            f"vectors of {left.shape[1]} and {right.shape[1]} dimensions, expected the same; pass one dim= to both"
        )
    return normalized(left) @ normalized(right).T


def _floats(vectors: npt.ArrayLike) -> Vectors:
    array = np.asarray(vectors)
    if array.dtype.kind != "f":
        raise InputError(
            f"vectors of {array.dtype}, expected floats; pass int8 and uint8 through model.dequantize(…) first, "
            "of binary ones count the bits that differ (docs/precisions.md)"
        )
    return np.atleast_2d(array.astype(np.float32, copy=False))
