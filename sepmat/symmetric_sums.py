"""Sums over all places, or all pairs of places, of one small matrix: Σ_i F(i), Σ_{i<j} B(i) C(j), and both in few powers.

Such a sum is unchanged when places are exchanged, and so are sums of powers Σ_l c_l (cos t_l I + sin t_l G)^⊗d. Which c and
t are best is a question in d + 1 numbers, whatever the size of F: `symmetric_powers`.
"""

import itertools
import math
from collections.abc import Sequence
from typing import cast

from . import _array
from ._array import Array
from .kronecker_sum import KroneckerSum
from .linalg import convert
from .separated import Separated, _concatenate
from .symmetric_powers import PowerSum, power_sum


def everywhere(F: Array, d: int) -> Separated:
    """Σ_i I ⊗ … ⊗ F ⊗ … ⊗ I, F in each of d places."""
    return cast(Separated, convert(KroneckerSum._of(factors=(F,) * d), Separated))


def all_pairs(B: Array, C: Array, d: int) -> Separated:
    """Σ_{i<j} I ⊗ … ⊗ B ⊗ … ⊗ C ⊗ … ⊗ I, B in place i and C in place j."""
    xp, pairs = _array.array_namespace(B), list(itertools.combinations(range(d), 2))
    unit = xp.eye(B.shape[0], dtype=B.dtype, device=_array.device(B))
    factors = [xp.stack([B if k == i else C if k == j else unit for i, j in pairs]) for k in range(d)]
    return Separated._of(factors=tuple(factors), scales=None)


def plane(F: Array) -> tuple[float, float, Array]:
    """(m, spread, G) with F = m I + spread G, tr G = 0 and ‖G‖_F = ‖I‖_F; a multiple of I has spread 0 and G = 0."""
    xp, n = _array.array_namespace(F), F.shape[0]
    m = _array.to_float(xp.linalg.trace(F)) / n
    rest = F - m * xp.eye(n, dtype=F.dtype, device=_array.device(F))
    spread = _array.to_float(_array.frobenius(rest)) / math.sqrt(n)
    return m, spread, rest / spread if spread else rest


def powers(G: Array, d: int, fit: PowerSum, scale: float = 1.0) -> Separated:
    """scale Σ_l c_l (cos t_l I + sin t_l G)^⊗d; all factors are one array."""
    xp, place = _array.array_namespace(G), {"dtype": G.dtype, "device": _array.device(G)}
    cosines, sines = (xp.asarray([f(t) for t in fit.angles], **place) for f in (math.cos, math.sin))
    unit = xp.eye(G.shape[0], **place)
    factor = cosines[:, None, None] * unit + sines[:, None, None] * G
    return Separated._of(factors=(factor,) * d, scales=xp.asarray([scale * c for c in fit.weights], **place))


def in_powers(one: Array, values: list[float], modes: list[Array], N: int, cap: float, tol: float) -> Separated:
    """Σ_i one(i) + Σ_m values[m] Σ_{i<j} B_m(i) B_m(j) with the fewest powers that keep each part to its share of tol.

    The parts are orthogonal to each other, so κ of their sum is at most the largest κ of a part.
    """
    xp = _array.array_namespace(one)
    u = N * _array.unit_roundoff(xp, one.dtype)
    cap = safe(cap, u)
    m, spread, G = plane(one)
    n, pairs = one.shape[0], N * (N - 1) // 2
    sizes = [abs(v) * math.sqrt(pairs) / n for v in values]  # norms over that of I
    form = [m * N, spread * math.sqrt(N), *[0.0] * (N - 1)]
    size = math.hypot(*form)
    share = tol * math.hypot(size, *sizes) / (1 + len(modes))
    fit = _fewest(form, N, share / size if size else 1.0, cap, u, [])
    total = everywhere(one, N) if fit is None else powers(G, N, fit)
    fits: list[PowerSum] = []  # of Σ_{i<j} G(i) G(j), the same form for every mode
    for v, B, part in zip(values, modes, sizes, strict=True):
        if part <= share:
            continue
        fit = _fewest([0.0, 0.0, 1.0, *[0.0] * (N - 2)], pairs, share / part, cap, u, fits)
        if fit is None:
            total = _concatenate(total, all_pairs(B, v * B, N))
        else:
            total = _concatenate(total, powers(B * math.sqrt(n), N, fit, math.copysign(part, v)))
    return total


def _fewest(
    form: Sequence[float], exact: int, tol: float, cap: float, u: float, fits: list[PowerSum]
) -> PowerSum | None:
    """The sum of the fewest powers with an error <= tol, None where fewer than `exact` do not have it; fits: known ones."""
    for terms in range(1, min(exact, 2 * len(form))):
        if terms > len(fits):
            fits.append(power_sum(form, terms, cap, u))
        if fits[terms - 1].error <= tol:
            return fits[terms - 1]
    return None


def safe(cap: float, u: float) -> float:
    """A bound on κ that still holds after each power has been rounded to a relative error u."""
    return max(1.0, cap * (1 - min(0.5, 8 * u * cap))) if math.isfinite(cap) else cap
