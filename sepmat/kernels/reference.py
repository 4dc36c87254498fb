"""Kronecker products and their sums as mode products on the array API standard: what every library runs, and what defines the answer.

It stands below the tables of kron.py, so that what is above it for one library (kernels/cuda, kernels/torch) is made of the same.
"""

import math
from collections.abc import Callable, Sequence

from .. import _array, _check
from .._array import Array, array_namespace, device, itemsize
from .plan import order, sides

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
        _check.check_product((before, sizes[i], after), itemsize(x.dtype), (i,))
        y = product(i, y, before, after)
    return array_namespace(y).reshape(y, (*lead, math.prod(sizes), *trail))


def kron(factors: Sequence[Array], x: Array, axis: int) -> Array:
    """(F_1 ⊗ … ⊗ F_d) along `axis` (-1 or -2) of x, by successive mode products in the cheapest order.

    Factors (m_i, n_i), the first one slowest; x has Π n_i entries along the axis and all arrays one dtype.
    Cost: Σ_k m_k n_k Π (sizes of the other axes at that step) multiplications.
    """

    def product(i: int, y: Array, left: int, right: int) -> Array:
        return mode_product(factors[i], y, left, right)

    return chain([(F.shape[0], F.shape[1]) for F in factors], product, x, axis)


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


def separated(factors: Sequence[Array], scales: Array | None, x: Array, axis: int) -> Array:
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
        return kron((xp.sum(F, axis=0),), x, axis)
    sizes = [F.shape[2] for F in factors]
    largest = max(1, left * right * max(rows, math.prod(sizes)))
    step = terms if _array.compiling() else max(1, min(terms, TERM_BLOCK // largest))  # one graph for all sizes
    _check.check_product((step, largest), itemsize(x.dtype))
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


def kron_sum(factors: Sequence[Array], x: Array, axis: int) -> Array:
    """(F_1 ⊕ … ⊕ F_d) along `axis` of x, Σ_i I ⊗ F_i ⊗ I for square factors: each along its mode, added up."""
    xp = array_namespace(x, *factors)
    first, *rest = (xp.reshape(mode_product(F, x, *around), x.shape) for F, around in modes(factors, x, axis))
    return sum(rest, start=first)


def modes(factors: Sequence[Array], x: Array, axis: int) -> list[tuple[Array, tuple[int, int]]]:
    """The factors with (left, right) of x viewed as (left, n_i, right)."""
    left, right = sides(x.shape, axis)
    sizes = [F.shape[1] for F in factors]
    return [(F, (left * math.prod(sizes[:i]), math.prod(sizes[i + 1 :]) * right)) for i, F in enumerate(factors)]
