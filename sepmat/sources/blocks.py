"""R(M) of a matrix larger than memory: numpy.memmap, HDF5 or Zarr read in slabs of rows, or a Dask array."""

import functools
import math
from collections.abc import Iterator
from typing import Any

from .. import _array, _check
from .._array import Array, adjoint, conj
from ..errors import NonFiniteError
from ..fit import svd
from ..rearranged import Block, FromDense, Pairs, Rearranged, Triplets, residual, total
from .source import Source, two_dimensional

SLAB = 2**23  # entries of M that are read at a time: 64 MB
TOO_LARGE = "Ask for a smaller rank or a larger tol: what needs a quarter of all singular vectors needs R(M) as a whole"


def block_source(M: Any, where: str) -> Source:
    shape = two_dimensional(M, where)
    if _array.is_dask(M):
        return _dask(M, shape, where)
    like = _read(M, 0, min(1, shape[0]), where)
    step, exponents = max(1, SLAB // max(1, shape[1])), []
    for i in range(0, shape[0], step):
        X = _check.check_finite(_read(M, i, i + step, where), where, f"M[{i}:{min(i + step, shape[0])}]")
        if bool(_array.array_namespace(X).any(X != 0)):
            exponents.append(_array.exponent(X))
    k = max(exponents, default=0)
    return Source(shape, like, (k // 2, k - k // 2), lambda pairs: FromBlocks(M, pairs, k, where))


def _read(M: Any, i: int, j: int, where: str) -> Array:
    """Rows i … j − 1."""
    return _check.check_full_precision(_check.as_array(M[i : min(j, M.shape[0])], where, "M", 2), where, "M")


def slabs(pairs: Pairs, entries: int) -> Iterator[tuple[int, int, int, int]]:
    """(a, b, c, d): the rows of M with a <= i1 < b and c <= i2 < d, as many as fit; they are a block of R(M)."""
    (m1, n1), (m2, n2) = pairs
    n = max(1, n1 * n2)
    height = max(1, min(m1, entries // (m2 * n)))
    width = m2 if m2 * n <= entries else max(1, entries // n)
    for a in range(0, m1, height):
        for c in range(0, m2, width):
            yield a, min(a + height, m1), c, min(c + width, m2)


def rearranged_slab(X: Array, pairs: Pairs, width: int) -> Array:
    """The block of R(M) that such rows are."""
    (_, n1), (_, n2) = pairs
    xp, height = _array.array_namespace(X), X.shape[0] // width
    mixed = xp.permute_dims(xp.reshape(X, (height, width, n1, n2)), (0, 2, 1, 3))
    return xp.reshape(mixed, (height * n1, width * n2))


class FromBlocks(Rearranged):
    """R(M) of a matrix that is read in slabs of rows, one at a time: every product, norm and residual is one pass."""

    def __init__(self, M: Any, pairs: Pairs, exponent: int, where: str) -> None:
        self.M, self.pairs, self.exponent, self.where = M, pairs, exponent, where
        (m1, n1), (m2, n2) = pairs
        self.like, self.shape = _read(M, 0, 1, where), (m1 * n1, m2 * n2)

    @functools.cached_property
    def norm(self) -> float:
        return total(X for _, _, X in self._blocks())

    def _blocks(self) -> Iterator[Block]:
        (_, n1), (m2, n2) = self.pairs
        for a, b, c, d in slabs(self.pairs, SLAB):
            X = _read(self.M, a * m2 + c, (b - 1) * m2 + d, self.where)
            yield a * n1, c * n2, rearranged_slab(_array.ldexp(X, -self.exponent), self.pairs, d - c)

    def times(self, X: Array) -> Array:
        parts: list[Array] = []
        for _, j, block in self._blocks():
            part = block @ X[j : j + block.shape[1], :]
            if j:  # the same rows, further columns
                parts[-1] = parts[-1] + part
            else:
                parts.append(part)
        return _array.array_namespace(X).concat(parts, axis=0)

    def adjoint_times(self, Y: Array) -> Array:
        parts: dict[int, Array] = {}
        for i, j, block in self._blocks():
            part = adjoint(block) @ Y[i : i + block.shape[0], :]
            parts[j] = parts[j] + part if j in parts else part
        return _array.array_namespace(Y).concat([parts[j] for j in sorted(parts)], axis=0)

    def residual(self, U: Array, V: Array) -> float:
        return residual(self._blocks(), U, V)

    def svd(self) -> Triplets:
        size = _array.itemsize(self.like.dtype)
        _check.check_bytes(self.shape, size, _check.DENSE_LIMIT, self.where, TOO_LARGE)
        xp = _array.array_namespace(self.like)
        return svd(self.times(xp.eye(self.shape[1], dtype=self.like.dtype)))


def _dask(M: Any, shape: tuple[int, int], where: str) -> Source:
    like = _read(M[:0, :0].compute(), 0, 0, where)
    M = M.astype(like.dtype)
    largest = abs(M).max().compute() if all(shape) else 0.0
    if not math.isfinite(largest):
        raise NonFiniteError(where, "M", "NaN or infinity", "finite numbers", "Remove or replace them first")
    k = _array.exponent(_array.array_namespace(like).asarray(largest))
    return Source(shape, like, (k // 2, k - k // 2), lambda pairs: FromDask(M, pairs, k, like, where))


class FromDask(Rearranged):
    """R(M) as a Dask array of slabs: the block products and residuals run on Dask's scheduler, wherever that is."""

    def __init__(self, M: Any, pairs: Pairs, exponent: int, like: Array, where: str) -> None:
        import dask.array

        (m1, n1), (m2, n2) = pairs
        self.like, self.shape, self.where = like, (m1 * n1, m2 * n2), where
        rows: dict[int, list[Any]] = {}
        for a, b, c, d in slabs(pairs, SLAB):
            slab = M[a * m2 + c : (b - 1) * m2 + d].rechunk(-1)
            rows.setdefault(a, []).append(
                slab.map_blocks(
                    lambda X, width=d - c: rearranged_slab(_array.ldexp(X, -exponent), pairs, width),
                    chunks=(((b - a) * n1,), ((d - c) * n2,)),
                    dtype=like.dtype,
                )
            )
        self.R = dask.array.block(list(rows.values()))

    @functools.cached_property
    def norm(self) -> float:
        return math.sqrt(float((abs(self.R) ** 2).sum(dtype="float64").compute()))

    def times(self, X: Array) -> Array:
        return (self.R @ X).compute()

    def adjoint_times(self, Y: Array) -> Array:
        return conj((self.R.T @ conj(Y)).compute())

    def residual(self, U: Array, V: Array) -> float:
        import dask.array

        def one(X: Array, block_info: Any = None) -> Array:
            (i, j), (m, n) = (tuple(place[0] for place in block_info[0]["array-location"]), X.shape)
            found = FromDense(X).residual(U[i : i + m, :], V[j : j + n, :])
            return _array.array_namespace(X).asarray([[found]])

        real = _array.array_namespace(self.like).zeros((0, 0))
        parts = dask.array.map_blocks(one, self.R, chunks=(1, 1), dtype=real.dtype, meta=real)
        return total(iter([parts.compute()]))

    def svd(self) -> Triplets:
        size = _array.itemsize(self.like.dtype)
        _check.check_bytes(self.shape, size, _check.DENSE_LIMIT, self.where, TOO_LARGE)
        return svd(self.R.compute())
