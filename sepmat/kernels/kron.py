"""Products with Kronecker products and their sums, one factor after the other, never a matrix of the full size."""

import math
from collections.abc import Callable, Sequence

from .. import _check
from .._array import Array, array_namespace, device, itemsize
from ._table import KernelTable

TERM_BLOCK = 2**18  # entries of the intermediates of all terms taken together; they stay in the cache


def order(shapes: Sequence[tuple[int, int]]) -> list[int]:
    """The order of the factors with the fewest multiplications: those that shrink most first.

    Applying i before j is cheaper iff 1/m_i - 1/n_i > 1/m_j - 1/n_j (exchange argument); square factors are taken
    from the last to the first, so that one column is a plain GEMM from the right.
    """
    gain = [1 / max(m, 0.5) - 1 / max(n, 0.5) for m, n in shapes]
    return sorted(range(len(shapes)), key=lambda i: (-gain[i], -i))


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
    step = max(1, min(terms, TERM_BLOCK // largest))
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


kron_matmul = KernelTable("kron_matmul", _reference)
separated_matmul = KernelTable("separated_matmul", _separated_reference)
