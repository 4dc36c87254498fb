"""Sums of Kronecker products as stacks of factors (terms, m_i, n_i) with scales (terms,): norms, inner products, parallel terms.

All of it in double precision whatever the data is, scaled by powers of two only: no factor is rounded before the first
orthogonal step, and neither the number of factors nor their range can make a partial product overflow.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from .. import _array
from .._array import Array, array_namespace

LEAST = -1022.0  # exponent beside the largest term: smaller ones count as this one, since only a zero is no term
KHATRI_RAO_BLOCK = 2**18  # entries of a Khatri–Rao product that is reduced while it is formed


class Scaled(NamedTuple):
    """Σ_l s_l V_1^l ⊗ … ⊗ V_d^l = 2^exponent times the sum with these columns vec(V_i^l) and scales.

    The norms of the columns of a term have every partial product in [1, 2); `norms` is the full one. A term that is
    zero has the scale 0.
    """

    columns: list[Array]
    scales: Array
    norms: Array
    exponent: int


def scaled(factors: Sequence[Array], scales: Array) -> Scaled:
    """The same sum in double precision with even exponents, exactly."""
    xp = array_namespace(scales, *factors)
    scales = _array.double(scales)
    size = xp.abs(_array.stop_gradient(scales))
    power = _array.binade(size)
    scales, alive, exponents, norms = (
        scales / _array.astype(power, scales.dtype),
        size != 0,
        xp.log2(power),
        xp.ones_like(size),
    )
    columns = []
    for F in factors:
        U = xp.matrix_transpose(xp.reshape(_array.double(F), (F.shape[0], F.shape[1] * F.shape[2])))
        lift = (
            _array.power_of_two(U, axis=0)[0, :] if U.shape[0] else xp.ones_like(norms)
        )  # a norm of subnormals is rounded
        U, exponents = U / _array.astype(lift, U.dtype)[None, :], exponents + xp.log2(lift)
        size = _array.frobenius(_array.stop_gradient(U), axis=0)
        alive, size = xp.logical_and(alive, size != 0), xp.where(size != 0, size, xp.ones_like(size))
        first = _array.binade(size)  # in two steps: the product of a norm of 1e308 with 1.9 is out of range
        second = _array.binade(norms * (size / first))
        columns.append(U / _array.astype(first, U.dtype)[None, :] / _array.astype(second, U.dtype)[None, :])
        norms, exponents = norms * (size / first) / second, exponents + xp.log2(first) + xp.log2(second)
    exponents = xp.where(alive, exponents, xp.full_like(exponents, -math.inf))
    top = _array.to_float(xp.max(exponents)) if exponents.shape[0] else -math.inf
    if not math.isfinite(top):
        return Scaled(columns, 0.0 * scales, norms, 0)
    exponents = xp.where(alive, xp.maximum(exponents - top, xp.full_like(exponents, LEAST)), exponents)
    shares = xp.pow(xp.asarray(2.0, dtype=exponents.dtype, device=_array.device(scales)), exponents)
    return Scaled(columns, scales * _array.astype(shares, scales.dtype), norms, int(top))


def sweep(factors: Sequence[Array], scales: Array) -> tuple[Array, Array, int]:
    """(‖A‖_F, (Σ_l s_l²)^½ for unit-norm factors, e), both numbers still to be multiplied with 2^e: the QR sweep.

    R_1 = qr(U_1), R_{k+1} = qr(R_k ⊙ U_{k+1}), ‖A‖ = ‖R_{d-1} diag(s) U_dᵀ‖_F: orthogonal steps only, so the error is a
    few u Σ s_l, where a Gram matrix would lose half the digits. Cost O(d M terms³), M <= terms the entries of a factor.
    """
    xp = array_namespace(scales, *factors)
    part = scaled([_array.stop_gradient(F) for F in factors], _array.stop_gradient(scales))
    terms = part.scales.shape[0]
    *others, last = sorted(part.columns, key=lambda U: U.shape[0])  # the longest one needs no QR
    R = xp.ones((1, terms), dtype=last.dtype, device=_array.device(last))
    for U in others:
        R = _reduced_khatri_rao(R, thin(U))
    core = (R * part.scales[None, :]) @ xp.matrix_transpose(last)
    return _array.frobenius(core), _array.frobenius(xp.abs(part.scales) * part.norms), part.exponent


def inner(a: Sequence[Array], s: Array, b: Sequence[Array], t: Array) -> tuple[Array, int]:
    """(⟨A, B⟩_F, e), still to be multiplied with 2^e: Σ_lm conj(s_l) t_m Π_i ⟨V_i^l, W_i^m⟩. Passes gradients."""
    A, B = scaled(a, s), scaled(b, t)
    s, t = _array.promote(A.scales, B.scales)
    xp = array_namespace(s)
    total = xp.conj(s)[:, None] * t[None, :]
    for U, V in zip(A.columns, B.columns, strict=True):
        U, V = _array.promote(U, V)
        total = total * (xp.conj(xp.matrix_transpose(U)) @ V)
    return xp.sum(total), A.exponent + B.exponent


def parallel(factors: Sequence[Array], scales: Array, tol: float) -> list[tuple[int, complex]]:
    """For the sum without its parallel terms, the terms that stay and what each is multiplied with, in their order.

    Terms are parallel where in every mode the sine of the angle between the factors is <= tol. They are found by sorting
    projections on random vectors and confirmed by distances, so terms² pairs are never formed. What vanishes to rounding
    is left out: 4 u where the factors are the same numbers, d tol where they are not.
    """
    part = scaled([_array.stop_gradient(F) for F in factors], _array.stop_gradient(scales))
    xp = array_namespace(part.scales)
    sizes = _array.to_numpy(xp.abs(part.scales) * part.norms)
    rng = np.random.default_rng(0)
    keys, spread = np.zeros(len(sizes)), 0.0
    for U in part.columns:
        projections = xp.abs(xp.conj(_array.normal(rng, (U.shape[0],), U)) @ U)
        lengths = np.fmax(_array.to_numpy(_array.frobenius(U, axis=0)), 0.25) * math.sqrt(max(1, U.shape[0]))
        keys = keys + rng.uniform(1, 2) * _array.to_numpy(projections) / lengths
        spread += 8 * (tol + (U.shape[0] + len(factors)) * 2.0**-53)
    order = [l for l in sorted(range(len(sizes)), key=lambda l: keys[l]) if sizes[l] > 0]
    runs: list[list[int]] = []
    for l in order:
        if runs and keys[l] - keys[runs[-1][-1]] <= spread:
            runs[-1].append(l)
        else:
            runs.append([l])
    kept = []
    while runs:
        runs = [sorted(run, key=lambda l: (-sizes[l], l)) for run in runs]
        pairs = [(run[0], l) for run in runs for l in run[1:]]
        found = iter(_ratios(part, pairs, tol))
        left = []
        for run in runs:
            of_run = [(l, *next(found)) for l in run[1:]]
            total = 1 + sum(ratio for _, ratio, _ in of_run)
            noise = sum(abs(ratio) * (2.0**-51 if equal else len(factors) * tol) for _, ratio, equal in of_run)
            if abs(total) > noise:
                kept.append((run[0], complex(total)))
            left.append([l for l, ratio, _ in of_run if not ratio])
        runs = [run for run in left if run]
    return sorted(kept)


def _ratios(part: Scaled, pairs: Sequence[tuple[int, int]], tol: float) -> list[tuple[complex, bool]]:
    """For each pair (l, m) term m as a multiple of term l, 0 where they are not parallel; whether all factors are equal."""
    if not pairs:
        return []
    xp = array_namespace(part.scales)
    first, second = (
        xp.asarray([p[k] for p in pairs], dtype=xp.int64, device=_array.device(part.scales)) for k in (0, 1)
    )
    s, t = xp.take(part.scales, first, axis=0), xp.take(part.scales, second, axis=0)
    one = xp.ones_like(s)
    ratio, equal = xp.where(s == t, one, t / s), xp.ones_like(s, dtype=xp.bool)  # a complex s / s may not be 1
    for U in part.columns:
        V, W = xp.take(U, first, axis=1), xp.take(U, second, axis=1)
        step = xp.sum(xp.conj(V) * W, axis=0) / xp.sum(xp.conj(V) * V, axis=0)
        off = _array.frobenius(W - step[None, :] * V, axis=0) > tol * _array.frobenius(W, axis=0)
        same = xp.all(V == W, axis=0)
        equal, ratio = xp.logical_and(equal, same), ratio * xp.where(same, one, xp.where(off, 0 * one, step))
    return list(zip(_array.to_numpy(ratio).tolist(), _array.to_numpy(equal).tolist(), strict=True))


def khatri_rao(A: Array, B: Array) -> Array:
    """The columnwise Kronecker product: (a, r) and (b, r) give (a b, r)."""
    xp = array_namespace(A, B)
    return xp.reshape(A[:, None, :] * B[None, :, :], (A.shape[0] * B.shape[0], A.shape[1]))


def thin(U: Array) -> Array:
    """A matrix with the same Gram matrix and no more rows than columns: R of U = Q R."""
    return _array.qr_triangle(U) if U.shape[0] > U.shape[1] else U


def _reduced_khatri_rao(A: Array, B: Array) -> Array:
    """thin(khatri_rao(A, B)), block by block, so that the memory stays near terms²."""
    xp = array_namespace(A, B)
    rows = max(1, KHATRI_RAO_BLOCK // max(1, B.shape[0] * B.shape[1]), 4 * B.shape[1] // max(1, B.shape[0]))
    total = thin(khatri_rao(A[: min(rows, A.shape[0]), :], B))
    for i in range(rows, A.shape[0], rows):
        part = khatri_rao(A[i : min(i + rows, A.shape[0]), :], B)
        total = thin(xp.concat((total, part), axis=0))
    return total
