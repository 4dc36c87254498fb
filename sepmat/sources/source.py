"""A matrix that is checked and scaled, whatever holds it."""

import dataclasses
from collections.abc import Callable
from typing import Any

from .._array import Array
from ..errors import ShapeError
from ..rearranged import Pairs, Rearranged


@dataclasses.dataclass(frozen=True)
class Source:
    """M = 2^(k + l) times a matrix with entries near 1, not rearranged yet."""

    shape: tuple[int, int]
    like: Array
    exponents: tuple[int, int]  # k, l
    rearranged: Callable[[Pairs], Rearranged]
    dense: Array | None = None  # that matrix, where it is an array


def two_dimensional(M: Any, where: str) -> tuple[int, int]:
    """The shape of a matrix that is not an array."""
    shape = tuple(M.shape)
    if len(shape) != 2:
        raise ShapeError(where, "M", f"shape {shape}", "a matrix (2-D)", "Reshape it first")
    if any(n != n for n in shape):  # Dask does not know the sizes of what it has not computed
        raise ShapeError(where, "M", f"shape {shape}", "known sizes", "Use M.compute_chunk_sizes()")
    return int(shape[0]), int(shape[1])
