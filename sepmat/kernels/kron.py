"""Products with Kronecker products and their sums, one factor after the other, never a matrix of the full size."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .. import _array, _check
from .._array import Array, array_namespace, device, itemsize
from . import plan
from ._table import KernelTable
from .plan import order
from .steps import run_chain, run_step, run_terms

TERM_BLOCK = 2**18  # entries of the intermediates of all terms taken together; they stay in the cache


def mode_product(F: Array, y: Array, left: int, right: int) -> Array:
    """F (m, n) along the middle axis of y, viewed as (left, n, right): a GEMM from the right or a batched one."""
    xp = array_namespace(F, y)
    n = F.shape[1]
    if right == 1:
        return xp.reshape(y, (left, n)) @ xp.matrix_transpose(F)
    if left == 1:
        return F @ xp.reshape(y, (n, right))
    return F @ xp.reshape(y, (left, n, right))


def chain(
    shapes: Sequence[tuple[int, int]], product: Callable[[int, Array, int, int], Array], x: Array, axis: int
) -> Array:
    """Matrices of the given shapes, one along each mode of `axis` (-1 or -2) of x, in the cheapest order.

    product(i, y, left, right) applies matrix i along the middle axis of y, viewed as (left, n_i, right).
    """
    lead, trail = (x.shape[:-1], ()) if axis == -1 else (x.shape[:-2], x.shape[-1:])
    left, right = math.prod(lead), math.prod(trail)
    sizes = [n for _, n in shapes]
    y = x
    for i in order(shapes):
        before, after = left * math.prod(sizes[:i]), math.prod(sizes[i + 1 :]) * right
        sizes[i] = shapes[i][0]
        where = f"kron_matmul (factor {i})"
        step = (before, sizes[i], after)
        _check.check_bytes(step, itemsize(x.dtype), _check.PRODUCT_LIMIT, where, "Multiply fewer columns at a time")
        y = product(i, y, before, after)
    return array_namespace(y).reshape(y, (*lead, math.prod(sizes), *trail))


def _reference(factors: Sequence[Array], x: Array, axis: int) -> Array:
    """(F_1 ⊗ … ⊗ F_d) along `axis` (-1 or -2) of x, by successive mode products in the cheapest order.

    Factors (m_i, n_i), the first one slowest; x has Π n_i entries along the axis and all arrays one dtype.
    Cost: Σ_k m_k n_k Π (sizes of the other axes at that step) multiplications.
    """

    def product(i: int, y: Array, left: int, right: int) -> Array:
        return mode_product(factors[i], y, left, right)

    return chain([(F.shape[0], F.shape[1]) for F in factors], product, x, axis)


kron_matmul = KernelTable("kron_matmul", _reference)


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


def merged(factors: Sequence[Array], groups: Sequence[tuple[int, int]]) -> tuple[Array, ...]:
    """Kronecker products of neighbours: factors i to j - 1 for each group (i, j); matrices, or stacks of them."""
    xp, result = array_namespace(*factors), []
    for i, j in groups:
        total = factors[i]
        for F in factors[i + 1 : j]:
            (*lead, a, b), (m, n) = total.shape, F.shape[-2:]
            product = total[..., :, None, :, None] * F[..., None, :, None, :]
            total = xp.reshape(product, (*lead, a * m, b * n))
        result.append(total)
    return tuple(result)


@kron_matmul.row("numpy", lambda factors, x, axis: type(x) is np.ndarray)
def _planned(factors: Sequence[Any], x: Any, axis: int) -> Any:
    """By the plan of the sizes (kernels/plan.py)."""
    left, right = plan.sides(x.shape, axis)
    return planned(plan.chain(tuple([F.shape for F in factors]), left, right, x.dtype.char), factors, x, axis)


def planned(p: plan.Chain, factors: Sequence[Any], x: Any, axis: int) -> Any:
    """NumPy arrays by this plan, `factors` being those of its groups."""
    if not p.flops:
        return _reference(factors, x, axis)
    if p.bytes > _check.PRODUCT_LIMIT:
        factor, m, _, before, after, *_ = p.largest
        where, advice = f"kron_matmul (factor {factor})", "Multiply fewer columns at a time"
        _check.check_bytes((before, m, after), x.itemsize, _check.PRODUCT_LIMIT, where, advice)
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


def _separated_reference(factors: Sequence[Array], scales: Array | None, x: Array, axis: int) -> Array:
    """Σ_l scales[l] F_1[l] ⊗ … ⊗ F_d[l] along `axis` of x; factors[i] is (terms, m_i, n_i).

    Blocks of terms share each step: the first factor is applied to x for all terms of a block at once, and the last
    one sums over them inside one GEMM. A block holds as many terms as keep the intermediates in the cache.
    """
    xp = array_namespace(x, *factors)
    lead, trail = (x.shape[:-1], ()) if axis == -1 else (x.shape[:-2], x.shape[-1:])
    left, right = math.prod(lead), math.prod(trail)
    terms = factors[0].shape[0]
    sequence = order([(F.shape[1], F.shape[2]) for F in factors])
    rows = math.prod(F.shape[1] for F in factors)
    if terms == 0:
        return xp.zeros((*lead, rows, *trail), dtype=x.dtype, device=device(x))
    if len(factors) == 1:
        F = factors[0] if scales is None else factors[0] * scales[:, None, None]
        return _reference((xp.sum(F, axis=0),), x, axis)
    sizes = [F.shape[2] for F in factors]
    largest = max(1, left * right * max(rows, math.prod(sizes)))
    step = terms if _array.compiling() else max(1, min(terms, TERM_BLOCK // largest))  # one graph for all sizes
    _check.check_bytes(
        (step, largest), itemsize(x.dtype), _check.PRODUCT_LIMIT, "separated_matmul", "Multiply fewer columns at a time"
    )
    total = None
    for start in range(0, terms, step):
        block = slice(start, min(start + step, terms))
        part = [F[block, ...] for F in factors]
        if scales is not None:
            part[sequence[0]] = part[sequence[0]] * scales[block][:, None, None]
        y = _term_block(part, sequence, x, left, right)
        total = y if total is None else total + y
    return xp.reshape(total, (*lead, rows, *trail))


def _term_block(factors: Sequence[Array], sequence: Sequence[int], x: Array, left: int, right: int) -> Array:
    """Σ_l F_1[l] ⊗ … ⊗ F_d[l] on x viewed as (left, Π n_i, right), the terms as a leading batch axis."""
    xp = array_namespace(x)
    terms = factors[0].shape[0]
    sizes = [F.shape[2] for F in factors]
    y = x
    for step, i in enumerate(sequence):
        F = factors[i]
        m, n = F.shape[1:]
        before, after = left * math.prod(sizes[:i]), math.prod(sizes[i + 1 :]) * right
        batch = terms if step else 1  # the first factor meets one x, all later ones a y for each term
        if step == len(factors) - 1:  # sum over the terms inside the GEMM
            y = xp.permute_dims(xp.reshape(y, (terms, before, n, after)), (1, 0, 2, 3))
            F = xp.reshape(xp.permute_dims(F, (1, 0, 2)), (m, terms * n))
            return mode_product(F, xp.reshape(y, (before, terms * n, after)), before, after)
        if after == 1:
            y = xp.reshape(y, (batch, before, n)) @ xp.matrix_transpose(F)
        else:
            y = F[:, None, :, :] @ xp.reshape(y, (batch, before, n, after))
        sizes[i] = m
    return y


separated_matmul = KernelTable("separated_matmul", _separated_reference)


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
        return _separated_reference(factors, scales, x, axis)
    if scales is not None:
        factors = (*factors[:-1], factors[-1] * scales[:, None, None])
    return planned_sum(plan.terms(shapes, terms, left, right, x.dtype.char), factors, x, axis)


def planned_sum(p: plan.Terms, factors: Sequence[Any], x: Any, axis: int) -> Any:
    """NumPy arrays by this plan; factors: its stacks (terms, m_i, n_i)."""
    rows, where, advice = math.prod(m for m, _ in p.shapes), "separated_matmul", "Multiply fewer columns at a time"
    for size in ((p.largest,), (p.left, rows, p.right)):
        _check.check_bytes(size, x.itemsize, _check.PRODUCT_LIMIT, where, advice)
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


def _kron_sum_reference(factors: Sequence[Array], x: Array, axis: int) -> Array:
    """(F_1 ⊕ … ⊕ F_d) along `axis` of x, Σ_i I ⊗ F_i ⊗ I for square factors: each along its mode, added up."""
    xp = array_namespace(x, *factors)
    first, *rest = (xp.reshape(mode_product(F, x, *sides), x.shape) for F, sides in _modes(factors, x, axis))
    return sum(rest, start=first)


def _modes(factors: Sequence[Array], x: Array, axis: int) -> list[tuple[Array, tuple[int, int]]]:
    """The factors with (left, right) of x viewed as (left, n_i, right)."""
    left, right = plan.sides(x.shape, axis)
    sizes = [F.shape[1] for F in factors]
    return [(F, (left * math.prod(sizes[:i]), math.prod(sizes[i + 1 :]) * right)) for i, F in enumerate(factors)]


kron_sum_matmul = KernelTable("kron_sum_matmul", _kron_sum_reference)


@kron_sum_matmul.row("numpy", lambda factors, x, axis: type(x) is np.ndarray)
def _planned_kron_sum(factors: Sequence[Any], x: Any, axis: int) -> Any:
    """The same in the forms of steps, added up in place."""
    if 0 in x.shape:
        return _kron_sum_reference(factors, x, axis)
    total = None
    for F, (left, right) in _modes(factors, x, axis):
        m, n = F.shape
        y = run_step(F, plan.step(0, m, n, left, right), x).reshape(x.shape)
        total = y if total is None else np.add(total, y, out=total)
    return total
