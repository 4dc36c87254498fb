"""Shapes, indices and bytes: what fits together, and what fits in memory; and what is singular to its precision."""

import math
import numbers
from collections.abc import Callable, Sequence
from typing import Any

from .._array import Array
from ..errors import DTypeError, OutOfBoundsError, ShapeError, SingularMatrixError, SizeLimitError
from .options import as_integer

DENSE_LIMIT = 2**30  # bytes that to_dense and blocks may take unless told otherwise
PRODUCT_LIMIT = 2**35  # bytes that one intermediate of a product may take
LARGEST_INDEX = 2**63 - 1
LEAST_SQUARES, DENSE_LEAST_SQUARES = "sm.lstsq(A, b)", "numpy.linalg.lstsq(A.to_dense(), b)"


def as_indices(index: Any, n: int, name: str, where: str = "block") -> Sequence[int]:
    """Indices from 0 to n - 1 from a slice, an integer or a sequence of integers; negative ones count from the end."""
    if isinstance(index, slice):
        try:
            return range(*index.indices(n))
        except (TypeError, ValueError):
            raise DTypeError(
                where, name, repr(index), "a slice of integers, step not 0", "Use i:k or i:k:step"
            ) from None
    if isinstance(index, range) and (not index or (0 <= index[0] < n and 0 <= index[-1] < n)):
        return index
    values: Sequence[Any] = index.tolist() if hasattr(index, "tolist") else index
    values = values if isinstance(values, (list, tuple, range)) else [values]
    if any(isinstance(i, bool) or not isinstance(i, numbers.Integral) for i in values):
        raise DTypeError(where, name, repr(index)[:60], "a slice or integers", "Use slice(None) for all")
    outside = next((i for i in values if not -n <= i < n), None)
    if outside is not None:
        raise OutOfBoundsError(where, name, str(outside), f"integers from {-n} to {n - 1}", "Check the sizes")
    return [int(i) % n for i in values]


def count(indices: Sequence[int]) -> int:
    """len(indices), also for a range longer than the largest machine integer."""
    if isinstance(indices, range):
        return max(0, -((indices.start - indices.stop) // indices.step))
    return len(indices)


def check_length(x: Array, axis: int, n: int, name: Callable[[], str], where: str) -> None:
    """x must have n entries along an axis to meet the matrix of that name."""
    if x.ndim and x.shape[axis] == n:
        return
    shape = tuple(x.shape)
    if n > LARGEST_INDEX:
        expected = f"N={n} entries, more than any array can have"
        raise SizeLimitError(where, "x", f"shape {shape}", expected, "Use entries, blocks, norm or trace of A")
    advice = "Check the sizes"
    if not shape:
        advice = "Use 2 * A to scale"
    elif len(shape) == 2 and axis == -2 and shape[-1] == n:
        advice = "Did you mean x.ravel() or x @ A" if shape[0] == 1 else "Did you mean A @ x.T or x @ A.T"
    elif math.prod(shape) == n:
        advice = "Use x.reshape(-1) for the values on a grid as one vector"
    raise ShapeError(where, "x", f"shape {shape}", f"length {n} along axis {axis}: A is {name()}", advice)


def as_shape(shape: Any, where: str, name: str = "shape") -> tuple[int, int]:
    """A pair of sizes."""
    if not isinstance(shape, (tuple, list)) or len(shape) != 2:
        raise ShapeError(where, name, repr(shape), "a pair (rows, columns)", "Pass for example (3, 4)")
    return (as_integer(shape[0], where, f"{name}[0]", 0), as_integer(shape[1], where, f"{name}[1]", 0))


def as_corner(shape: Any, N: int, where: str, stored: str, instead: str = "") -> tuple[int, int]:
    """The shape of a top-left corner of an N×N matrix, N = max(shape); None is all of it."""
    corner = (N, N) if shape is None else as_shape(shape, where)
    if max(corner) != N:
        expected = f"a corner of {N}×{N} with max(shape) = {N}"
        raise ShapeError(
            where, "shape", f"{corner} with {N} {stored}", expected, f"Pass {max(corner)} {stored}{instead}"
        )
    return corner


def check_square(shape: tuple[int, int], where: str, name: str = "A", least_squares: str = LEAST_SQUARES) -> int:
    """The size of a square matrix."""
    if shape[0] != shape[1]:
        advice = f"Use {least_squares}, or sm.interop.lsmr(A, b)"
        raise ShapeError(where, name, f"{shape[0]}×{shape[1]}", "a square matrix", advice)
    return shape[0]


def check_rcond(rcond: float, n: int, u: float, where: str, name: str, least_squares: str = LEAST_SQUARES) -> None:
    """Singular to the precision: rcond < n u."""
    if not rcond >= n * u:
        raise SingularMatrixError(
            where,
            name,
            f"singular: rcond {rcond:.1e} < n u = {n * u:.1e}",
            "a matrix that is not singular to its precision",
            f"Use {least_squares}, or add s * Identity(n)",
        )


def check_bytes(shape: Sequence[int], itemsize: int, limit: int, where: str, advice: str) -> None:
    """Refuse an array that is larger than the limit, before it is allocated."""
    limit = as_integer(limit, where, "max_bytes", minimum=0)
    needed = math.prod(shape) * itemsize
    if type(needed) is int and needed > limit:  # else a size that torch.export keeps open: to compare it would close it
        raise SizeLimitError(
            where,
            "size",
            f"needs {readable(needed)} ({'×'.join(map(str, shape))})",
            f"at most {readable(limit)}",
            advice,
        )


def check_product(shape: Sequence[int], itemsize: int, factors: Sequence[int] = ()) -> None:
    """Refuse a product of which an array on the way is too large. factors: the first and the last one that it has met."""
    why = ""
    if factors:
        first, last = factors[0], factors[-1]
        why = f": factor{f' {first}' if first == last else f's {first} to {last}'} made them this large"
    check_bytes(shape, itemsize, PRODUCT_LIMIT, "A @ x", f"Multiply fewer columns at a time{why}")


def readable(count: int) -> str:
    """A number of bytes for people.

    >>> readable(8 * 10**12), readable(2**30)
    ('8.0 TB', '1.1 GB')
    """
    if count < 1000:
        return f"{count} bytes"
    power = min((len(str(count)) - 1) // 3, 6)
    if power == 6 and count >= 10**21:
        return f"{float(count):.1e} bytes"
    return f"{count / 1000**power:.1f} {' kMGTPE'[power]}B"
