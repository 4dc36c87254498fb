"""A plan for a GPU, carried out pass by pass. Array code: any library, by GEMMs alone where there is no kernel.

What a library does better than by its own matmul is a class of `Products`; that of CuPy is in rows.py.
"""

import math
from collections.abc import Sequence

from ... import _check
from ..._array import Array, array_namespace, itemsize
from ...errors import UnsupportedError
from ..reference import merged, mode_product
from .plan import Pass, Plan


class Products:
    """What passes are made of, by the matmul of the library."""

    def one(self, F: Array, y: Array, left: int, right: int) -> Array:
        """F (m, n) along the middle axis of y, viewed as (left, n, right)."""
        return mode_product(F, y, left, right)

    def each(self, F: Array, y: Array, left: int, right: int) -> Array:
        """F (terms, m, n) with y, viewed as (left, n, terms, right), gives (left, terms, m, right)."""
        xp, (terms, _, n) = array_namespace(F, y), F.shape
        return F @ xp.permute_dims(xp.reshape(y, (left, n, terms, right)), (0, 2, 1, 3))

    def kernel(self, step: Pass, factors: Sequence[Array], y: Array) -> Array:
        """The fused chain of stacks of factors (terms, m_i, n_i) on y, viewed as (left, n, right).

        In a sum by several passes y is (terms, left, n, right) between them.
        """
        advice = "Plan with kernels=False, or pass the products of a library that has it"
        raise UnsupportedError("kernels.cuda", "plan", "a pass of the kernel", "GEMMs only on these arrays", advice)


GEMMS = Products()


def kron(p: Plan, factors: Sequence[Array], x: Array, axis: int, products: Products = GEMMS) -> Array:
    """(F_1 ⊗ … ⊗ F_d) along `axis` (-1 or -2) of x, by a plan of the sizes. Factors (m_i, n_i)."""
    y = x
    for step in p.passes:
        _fits(step, 1, x)
        i, j = step.modes
        if step.kind == "kernel":
            y = products.kernel(step, [F[None, :, :] for F in factors[i:j]], y)
        else:
            y = products.one(_multiplied_out(factors, i, j), y, step.left, step.right)
    return _shaped(p, y, x, axis)


def separated(
    p: Plan, factors: Sequence[Array], scales: Array | None, x: Array, axis: int, products: Products = GEMMS
) -> Array:
    """Σ_l scales[l] F_1[l] ⊗ … ⊗ F_d[l] along `axis` of x, by a plan of the sizes. Factors (terms, m_i, n_i).

    By GEMMs, those of all last factors stand in one tall matrix and those of the first ones in one wide matrix, which sums; y
    is (…, n_i, terms, …) between them, so that nothing is moved on the way. The kernel has y with the terms first.
    """
    xp = array_namespace(x, *factors)
    if scales is not None:
        factors = [*factors[:-1], factors[-1] * scales[:, None, None]]
    terms, d, y = factors[0].shape[0], len(factors), x
    for step in p.passes:
        (i, j), left, right = step.modes, step.left, step.right
        _fits(step, 1 if i == 0 else terms, x)
        if step.kind == "kernel":
            y = products.kernel(step, factors[i:j], y)
            continue
        F = _multiplied_out(factors, i, j)
        if j - i == d:
            y = products.one(xp.sum(F, axis=0), y, left, right)
        elif j == d:
            y = products.one(xp.reshape(F, (terms * step.m, step.n)), y, left, right)
        elif i == 0:
            wide = xp.reshape(xp.permute_dims(F, (1, 2, 0)), (step.m, step.n * terms))
            y = products.one(wide, y, left, right)
        else:
            y = products.each(F, y, left, right)
    return _shaped(p, y, x, axis)


def packed(factors: Sequence[Array]) -> tuple[Array, ...]:
    """The same matrices (…, m_i, n_i) as views of one array (…, Σ m_i n_i), which is how the kernel reads them."""
    xp, lead = array_namespace(*factors), tuple(factors[0].shape[:-2])
    sizes = [F.shape[-2] * F.shape[-1] for F in factors]
    whole = xp.concat([xp.reshape(F, (*lead, size)) for F, size in zip(factors, sizes, strict=True)], axis=-1)
    found, start = [], 0
    for F, size in zip(factors, sizes, strict=True):
        found.append(xp.reshape(whole[..., start : start + size], tuple(F.shape)))
        start += size
    return tuple(found)


def _multiplied_out(factors: Sequence[Array], i: int, j: int) -> Array:
    return factors[i] if j == i + 1 else merged(factors, ((i, j),))[0]


def _shaped(p: Plan, y: Array, x: Array, axis: int) -> Array:
    lead, trail = (x.shape[:-1], ()) if axis == -1 else (x.shape[:-2], x.shape[-1:])
    return array_namespace(x).reshape(y, (*lead, math.prod(m for m, _ in p.shapes), *trail))


def _fits(step: Pass, arrays: int, x: Array) -> None:
    i, j = step.modes
    _check.check_product((arrays, step.left, step.m, step.right), itemsize(x.dtype), (i, j - 1))
