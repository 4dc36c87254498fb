"""The rows of CuPy arrays: a plan of the sizes, its GEMMs by cuBLAS, its kernels by `launch`."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from ... import _array
from ..._array import Array
from ...errors import BackendError
from .. import reference
from ..plan import sides
from . import chain
from .launch import import_cupy, launch, module
from .plan import Pass, plan
from .specialise import Specialisation

LONGEST = 2**31 - 1  # sizes that cuBLAS takes


class CuPyProducts(chain.Products):
    """Passes on CuPy arrays; cupy.matmul would copy strided operands and make an array of pointers for each broadcast one.

    `arrays`, `address`, `cublas` and `module` are all it needs of CuPy.
    """

    def __init__(self) -> None:
        self.arrays = import_cupy("kernels.cuda")

    @staticmethod
    def address(a: Array) -> int:
        return int(a.data.ptr)

    def cublas(self) -> tuple[Any, int]:
        """The functions of cuBLAS and the handle of the current device, which works on the current stream."""
        from cupy_backends.cuda.libs import cublas

        return cublas, self.arrays.cuda.device.get_cublas_handle()

    def module(self, spec: Specialisation) -> Any:
        """The compiled kernel for the current device."""
        return module(spec)

    def one(self, F: Array, y: Array, left: int, right: int) -> Array:
        """One GEMM, or a strided batch of them with one F for all."""
        if left == 1 or right == 1 or max(left, right, *F.shape) > LONGEST:
            return super().one(F, y, left, right)
        m, n = F.shape
        y, out = self.arrays.ascontiguousarray(y), self.arrays.empty((left, m, right), y.dtype)
        self._batch(F, self.address(y), (right, n * right), self.address(out), (right, m * right), left, right)
        return out

    def each(self, F: Array, y: Array, left: int, right: int) -> Array:
        """A strided batch for each term, in place of a copy."""
        terms, m, n = F.shape
        if max(left, terms * right, m, n) > LONGEST:
            return super().each(F, y, left, right)
        y, out = self.arrays.ascontiguousarray(y), self.arrays.empty((left, terms, m, right), y.dtype)
        for l in range(terms):
            start, end = (self.address(a) + l * k * y.itemsize for a, k in ((y, right), (out, m * right)))
            steps = (terms * right, n * terms * right), (right, terms * m * right)
            self._batch(F[l], start, steps[0], end, steps[1], left, right)
        return out

    def _batch(
        self, F: Array, y: int, y_steps: tuple[int, int], out: int, out_steps: tuple[int, int], count: int, columns: int
    ) -> None:
        """F on `count` matrices (n, columns) at y; steps: entries from row to row and from matrix to matrix.

        cuBLAS counts along columns: it computes outᵀ = yᵀ Fᵀ.
        """
        m, n = F.shape
        if not F.flags.c_contiguous and not F.flags.f_contiguous:
            F = self.arrays.ascontiguousarray(F)
        flip = not F.flags.c_contiguous
        cublas, handle = self.cublas()
        gemm = getattr(cublas, f"{ {'f': 's', 'd': 'd', 'F': 'c', 'D': 'z'}[F.dtype.char] }gemmStridedBatched")
        one, zero = np.ones((), F.dtype), np.zeros((), F.dtype)
        gemm(
            *(handle, 0, int(flip), columns, m, n, one.ctypes.data, y, *y_steps, self.address(F), m if flip else n, 0),
            *(zero.ctypes.data, out, *out_steps, count),
        )

    def kernel(self, step: Pass, factors: Sequence[Array], y: Array) -> Array:
        """One launch, or in the middle of a sum one for each term."""
        spec, terms, (left, right) = step.specialisation, factors[0].shape[0], (step.left, step.right)
        if spec is None:
            return super().kernel(step, factors, y)
        if not self._packed(factors):
            factors = chain.packed(factors)
        y = self.arrays.ascontiguousarray(y)
        out = self.arrays.empty((spec.results(terms), left, step.m, right), y.dtype)
        x_at, f_at, y_at = map(self.address, (y, factors[0], out))
        launch(self.module(spec), spec, x_at, f_at, y_at, left, right, terms)
        return out

    def _packed(self, factors: Sequence[Array]) -> bool:
        """Whether the factors of each term stand one after the other, and the terms too."""
        step, at = sum(F.shape[1] * F.shape[2] for F in factors) * factors[0].itemsize, self.address(factors[0])
        for F in factors:
            terms, m, n = F.shape
            rows = m == 1 or F.strides[1] == n * F.itemsize
            entries = n == 1 or F.strides[2] == F.itemsize
            if not (rows and entries and (terms == 1 or F.strides[0] == step) and self.address(F) == at):
                return False
            at += m * n * F.itemsize
        return True


def kron_matmul(factors: Sequence[Array], x: Array, axis: int, products: CuPyProducts | None = None) -> Array:
    """(F_1 ⊗ … ⊗ F_d) along `axis` of x, by the plan of the sizes. `products`: those of a stand-in."""
    found = products or _products("kron_matmul", x)
    if not _array.size(x) or not all(_array.size(F) for F in factors):
        return reference.kron(factors, x, axis)
    shapes, (left, right) = tuple((int(F.shape[0]), int(F.shape[1])) for F in factors), sides(x.shape, axis)
    return chain.kron(plan(shapes, left, _array.dtype_name(x.dtype), 1, right), factors, x, axis, found)


def separated_matmul(
    factors: Sequence[Array], scales: Array | None, x: Array, axis: int, products: CuPyProducts | None = None
) -> Array:
    """Σ_l scales[l] F_1[l] ⊗ … ⊗ F_d[l] along `axis` of x, the same way."""
    found = products or _products("separated_matmul", x)
    if not _array.size(x) or not all(_array.size(F) for F in factors):
        return reference.separated(factors, scales, x, axis)
    terms, (left, right) = int(factors[0].shape[0]), sides(x.shape, axis)
    shapes = tuple((int(F.shape[1]), int(F.shape[2])) for F in factors)
    p = plan(shapes, left, _array.dtype_name(x.dtype), terms, right)
    return chain.separated(p, factors, scales, x, axis, found)


def _products(where: str, x: Array) -> CuPyProducts:
    if not _array.is_cupy(x):
        import_cupy(where)
        got, advice = f"an array of {_array.library(x)}", "Convert the arrays by cupy.asarray, or choose another row"
        raise BackendError(where, "x", got, "a CuPy array for the row 'cuda'", advice)
    return CuPyProducts()
