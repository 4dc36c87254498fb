"""Products with Kronecker products and their sums, one factor after the other, never a matrix of the full size."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from .. import _array, _check
from .._array import Array
from . import plan, reference
from ._table import KernelTable
from .plan import order
from .steps import run_chain, run_step, run_terms

kron_matmul = KernelTable("kron_matmul", reference.kron)


def laid_out(factors: Sequence[Array]) -> tuple[Array, ...]:
    """The same matrices, small NumPy ones column by column: OpenBLAS packs y Fᵀ for the others.

    Nothing is lost where F stands on the left. CuPy's are put together.
    """
    if _array.is_cupy(factors[0]):
        return _together(factors)
    return tuple(np.asfortranarray(F) if type(F) is np.ndarray and F.size <= plan.LAID_OUT else F for F in factors)


def _together(factors: Sequence[Array]) -> tuple[Array, ...]:
    """CuPy's factors as views of one array where the kernel may take them, so that no product has to do it."""
    from .cuda.chain import packed
    from .cuda.specialise import SIDES

    return packed(factors) if max(side for F in factors for side in F.shape[-2:]) <= SIDES else tuple(factors)


def groups_on_gpu(
    shapes: tuple[tuple[int, int], ...], terms: int, shape: tuple[int, ...], axis: int, dtype: Any
) -> tuple[tuple[int, int], ...]:
    """Which neighbours are multiplied out before a product with x of this shape on a GPU; the kernel takes them one by one."""
    from .cuda.plan import plan as on_gpu

    left, right = plan.sides(shape, axis)
    return on_gpu(shapes, left, _array.dtype_name(dtype), terms, right).groups


@kron_matmul.row("numpy", lambda factors, x, axis: type(x) is np.ndarray)
def _planned(factors: Sequence[Any], x: Any, axis: int) -> Any:
    """By the plan of the sizes (kernels/plan.py)."""
    left, right = plan.sides(x.shape, axis)
    return planned(plan.chain(tuple([F.shape for F in factors]), left, right, x.dtype.char), factors, x, axis)


def planned(p: plan.Chain, factors: Sequence[Any], x: Any, axis: int) -> Any:
    """NumPy arrays by this plan, `factors` being those of its groups."""
    if not p.flops:
        return reference.kron(factors, x, axis)
    if p.bytes > _check.PRODUCT_LIMIT:
        factor, m, _, before, after, *_ = p.largest
        _check.check_product((before, m, after), x.itemsize, (factor,))
    y = run_chain(factors, p, x)
    if x.ndim == 1:
        return y.reshape(-1)
    return y.reshape((*x.shape[:-1], -1) if axis == -1 else (*x.shape[:-2], -1, x.shape[-1]))


def _on_rows(factors: Sequence[Array], x: Array, axis: int) -> bool:
    """Whether factors that meet rows of x are real, not empty, and what operators of torch may be run on."""
    known = axis == -1 and bool(_array.size(x)) and all(_array.size(F) for F in factors)
    return known and not _array.is_complex(x) and _array.takes_operators(x, *factors)


def _gpu_route(factors: Sequence[Array], x: Array, axis: int) -> str:
    """The row of a product with tensors on a GPU, "formed" or "device"; "" where there is none, or for other arrays."""
    if not _array.is_torch(x) or not _array.on_gpu(x) or _array.is_complex(x) or not _array.size(x):
        return ""
    from .torch import layer

    return layer.route(factors, x, axis)


@kron_matmul.row("formed", lambda factors, x, axis: _gpu_route(factors, x, axis) == "formed")
def _formed(factors: Sequence[Array], x: Array, axis: int) -> Array:
    """Two factors multiplied out for rows in half precision on a GPU, one GEMM (kernels/torch/layer.py)."""
    from .torch import layer

    return layer.formed(factors[0], factors[1], x)


@kron_matmul.row("device", lambda factors, x, axis: _gpu_route(factors, x, axis) == "device")
def _on_tensors(factors: Sequence[Array], x: Array, axis: int) -> Array:
    """By a plan for GPUs on tensors (kernels/torch/device.py); CPU tensors by its GEMMs, where this row is asked for."""
    from .torch import device as own

    left, right = plan.sides(x.shape, axis)
    y = own.separated([F[None] if F.ndim == 2 else F for F in factors], x.reshape(left, x.shape[axis], right))
    return y.reshape((*x.shape[:-1], y.shape[1]) if axis == -1 else (*x.shape[:-2], y.shape[1], right))


@kron_matmul.row("torch", lambda factors, x, axis: len(factors) > 1 and _on_rows(factors, x, axis))
def _chained(factors: Sequence[Array], x: Array, axis: int) -> Array:
    """In chunks of rows, with a backward of its own (kernels/torch/kron.py)."""
    sizes, sequence, afters = [F.shape[1] for F in factors], order([tuple(F.shape) for F in factors]), []
    for i in sequence:
        afters.append(math.prod(sizes[i + 1 :]))
        sizes[i] = factors[i].shape[0]
    return _chain_of_tensors([factors[i] for i in sequence], x, afters)


@kron_matmul.row("cuda", lambda factors, x, axis: _array.is_cupy(x))
def _on_device(factors: Sequence[Array], x: Array, axis: int) -> Array:
    """By a plan for GPUs: GEMMs of merged factors, and the fused kernel where it is faster (kernels/cuda)."""
    from .cuda import rows

    return rows.kron_matmul(factors, x, axis)


def _chain_of_tensors(factors: Sequence[Array], x: Array, afters: Sequence[int]) -> Array:
    from .torch import kron as own

    y = own.chain(list(factors), x.reshape(-1, x.shape[-1]), list(afters))
    return y.reshape(*x.shape[:-1], y.shape[1])


# sums of Kronecker products ------------------------------------------------------------------------------------------------


separated_matmul = KernelTable("separated_matmul", reference.separated)


def stacks_laid_out(factors: Sequence[Array], forward: bool = True) -> tuple[Array, ...]:
    """The same stacks (terms, m_i, n_i), so that the steps of a sum find the tall and the wide matrix in memory (plan.Terms)."""
    if _array.is_cupy(factors[0]):
        return _together(factors)
    if type(factors[0]) is not np.ndarray or len(factors) < 2:
        return tuple(factors)
    first, *middle, last = factors
    if forward:
        first, last = _ordered(first, (2, 1, 0)), _ordered(last, (0, 2, 1))
    else:
        first, last = _ordered(first, (1, 2, 0)), _ordered(last, (2, 0, 1))
    return (first, *(np.ascontiguousarray(F) for F in middle), last)


def _ordered(F: Any, axes: tuple[int, ...]) -> Any:
    """The same array with these axes from the slowest to the fastest in memory, from the beginning of a cache line on.

    64×512 from the right on 64 rows, float64: 41 in place of 50 µs, which it takes from addresses that NumPy gives.
    """
    room = np.empty(F.nbytes + 64, np.uint8)
    start = -room.ctypes.data % 64
    ordered = room[start : start + F.nbytes].view(F.dtype).reshape([F.shape[k] for k in axes])
    ordered[...] = F.transpose(axes)
    return ordered.transpose(np.argsort(axes))


@separated_matmul.row("numpy", lambda factors, scales, x, axis: type(x) is np.ndarray)
def _planned_sum(factors: Sequence[Any], scales: Any, x: Any, axis: int) -> Any:
    """By the plan of the sizes: one step for each factor, whatever the number of terms."""
    left, right = plan.sides(x.shape, axis)
    shapes = tuple([F.shape[1:] for F in factors])
    terms = factors[0].shape[0]
    if terms < 2 or len(factors) < 2 or 0 in x.shape or not all(m * n for m, n in shapes):
        return reference.separated(factors, scales, x, axis)
    if scales is not None:
        factors = (*factors[:-1], factors[-1] * scales[:, None, None])
    return planned_sum(plan.terms(shapes, terms, left, right, x.dtype.char), factors, x, axis)


def planned_sum(p: plan.Terms, factors: Sequence[Any], x: Any, axis: int) -> Any:
    """NumPy arrays by this plan; factors: its stacks (terms, m_i, n_i)."""
    rows = math.prod(m for m, _ in p.shapes)
    for size in ((p.largest,), (p.left, rows, p.right)):
        _check.check_product(size, x.itemsize)
    y = run_terms(factors, p, x)
    return y.reshape((*x.shape[:-1], rows) if axis == -1 else (*x.shape[:-2], rows, x.shape[-1]))


def _scaled(factors: Sequence[Array], scales: Array | None) -> Sequence[Array]:
    """The stacks of tensors with the scales in the last one."""
    return factors if scales is None else (*factors[:-1], factors[-1] * scales[:, None, None])


@separated_matmul.row("formed", lambda factors, scales, x, axis: _gpu_route(factors, x, axis) == "formed")
def _formed_sum(factors: Sequence[Array], scales: Array | None, x: Array, axis: int) -> Array:
    """The sum of the terms multiplied out, one GEMM."""
    return _formed(_scaled(factors, scales), x, axis)


@separated_matmul.row("device", lambda factors, scales, x, axis: _gpu_route(factors, x, axis) == "device")
def _sum_on_tensors(factors: Sequence[Array], scales: Array | None, x: Array, axis: int) -> Array:
    """x read once for all terms."""
    return _on_tensors(_scaled(factors, scales), x, axis)


@separated_matmul.row("torch", lambda factors, scales, x, axis: len(factors) == 2 and _on_rows(factors, x, axis))
def _chained_sum(factors: Sequence[Array], scales: Array | None, x: Array, axis: int) -> Array:
    """Σ_l F_1[l] ⊗ F_2[l]: the last factors in one tall matrix, then the first ones in one wide matrix, as in `run_terms`."""
    first, last = _scaled(factors, scales)
    terms, m, n = last.shape
    tall, wide = last.reshape(terms * m, n), first.permute(1, 2, 0).reshape(first.shape[1], first.shape[2] * terms)
    return _chain_of_tensors([tall, wide], x, [1, m])


@separated_matmul.row("cuda", lambda factors, scales, x, axis: _array.is_cupy(x))
def _sum_on_device(factors: Sequence[Array], scales: Array | None, x: Array, axis: int) -> Array:
    """By a plan for GPUs: x is read once for all terms (kernels/cuda)."""
    from .cuda import rows

    return rows.separated_matmul(factors, scales, x, axis)


# Kronecker sums ---------------------------------------------------------------------------------------------------------------


kron_sum_matmul = KernelTable("kron_sum_matmul", reference.kron_sum)


@kron_sum_matmul.row("numpy", lambda factors, x, axis: type(x) is np.ndarray)
def _planned_kron_sum(factors: Sequence[Any], x: Any, axis: int) -> Any:
    """The same in the forms of steps, added up in place."""
    if 0 in x.shape:
        return reference.kron_sum(factors, x, axis)
    total = None
    for F, (left, right) in reference.modes(factors, x, axis):
        m, n = F.shape
        y = run_step(F, plan.step(0, m, n, left, right), x).reshape(x.shape)
        total = y if total is None else np.add(total, y, out=total)
    return total
