"""W(G, H) whose terms cancel, with the same G Hᵀ and other generators.

A product of W(G, H) is exact to the sum of the lengths of the terms, Σ ‖g_i‖ ‖h_i‖. Where that is much more than ‖G Hᵀ‖_F, a residual
would lose the digits that cancel. G Hᵀ alone determines W, and with orthogonal columns of G nothing cancels: ‖G Hᵀ‖_F² =
Σ ‖g_i‖² ‖h_i‖². The way there are shears g_j − κ g_i, h_i + κ h_j with any κ, done in twice the precision (Dekker, "A
floating-point technique for extending the available precision", 1971), so that only the last rounding changes W, by u ‖G Hᵀ‖.
"""

from typing import Any

from . import _array
from ._array import Array
from .displacement import LowDisplacementRank

CANCEL = 4.0  # Σ ‖g_i‖ ‖h_i‖ / ‖G Hᵀ‖_F from which the generators are exchanged
NOTHING = 2.0**-60  # terms below this share of the largest one are left out
SPLIT = 2.0**27 + 1.0  # Dekker's

Wide = tuple[Array, Array]  # a + b, |b| <= u |a|


def uncancelled(A: LowDisplacementRank) -> LowDisplacementRank:
    """A, or the same matrix from generators that do not cancel. A: in double precision, entries near 1. O(n r²)."""
    xp = A.xp
    if A.terms < 2 or not A.g.shape[0]:
        return A
    lengths = [_array.frobenius(x, axis=0) for x in (A.g, A.h)]
    R, S = (_array.qr_triangle(x) for x in (A.g, A.h))
    total = _array.to_float(_array.frobenius(R @ xp.matrix_transpose(S)))
    if _array.to_float(xp.sum(lengths[0] * lengths[1])) <= CANCEL * total:
        return A
    order = xp.argsort(lengths[0], descending=True, stable=True)  # keeps the first κ below 1
    g, h = _orthogonal(*(xp.take(x, order, axis=1) for x in (A.g, A.h)))
    size = _array.frobenius(g, axis=0) * _array.frobenius(h, axis=0)
    counts = xp.nonzero(size > NOTHING * xp.max(size))[0]
    g, h = (xp.take(x, counts, axis=1) for x in (g, h))
    scale = _array.astype(_array.power_of_two(g, 0), g.dtype)  # the elimination balances G against H itself
    return LowDisplacementRank._of(g=g / scale, h=h * scale, corner=A.corner, transposed=A.transposed)


def _orthogonal(G: Array, H: Array) -> tuple[Array, Array]:
    """Generators of the same G Hᵀ, the columns of the first orthogonal: modified Gram–Schmidt by shears, each one twice."""
    xp = _array.array_namespace(G)
    g, h = ([_parts(X[:, i]) for i in range(X.shape[1])] for X in (G, H))
    for i in range(len(g)):
        own = _joined(g[i])
        energy = _inner(own, own)
        for j in 2 * [*range(i + 1, len(g))]:
            kappa = _inner(own, _joined(g[j])) / energy
            if bool(xp.isfinite(xp.abs(kappa))):  # else a column of zeros
                g[j], h[i] = _plus(g[j], -kappa, g[i]), _plus(h[i], kappa, h[j])
    return xp.stack([_joined(x) for x in g], axis=1), xp.stack([_joined(x) for x in h], axis=1)


def _inner(x: Array, y: Array) -> Any:
    return _array.array_namespace(x).sum(_array.conj(x) * y)


def _parts(x: Array) -> list[Wide]:
    """The real part, and the imaginary one of complex numbers, in twice the precision."""
    xp = _array.array_namespace(x)
    parts = [xp.real(x), xp.imag(x)] if _array.is_complex(x) else [x]
    return [(a, xp.zeros_like(a)) for a in parts]


def _joined(x: list[Wide]) -> Array:
    return x[0][0] if len(x) == 1 else _array.complex_of(x[0][0], x[1][0])


def _plus(x: list[Wide], kappa: Array, y: list[Wide]) -> list[Wide]:
    """x + κ y."""
    if len(x) == 1:
        return [_axpy(x[0], kappa, y[0])]
    xp = _array.array_namespace(kappa)
    a, b = xp.real(kappa), xp.imag(kappa)
    return [_axpy(_axpy(x[0], a, y[0]), -b, y[1]), _axpy(_axpy(x[1], a, y[1]), b, y[0])]


def _axpy(x: Wide, k: Array, y: Wide) -> Wide:
    product = k * y[0]
    (kh, kl), (yh, yl) = _split(k), _split(y[0])
    rest = ((kh * yh - product) + kh * yl + kl * yh) + kl * yl + k * y[1]
    high = x[0] + product
    back = high - x[0]
    low = (x[0] - (high - back)) + (product - back) + (x[1] + rest)
    total = high + low
    return total, low - (total - high)


def _split(x: Array) -> Wide:
    """The upper and the lower half of the digits."""
    t = SPLIT * x
    high = t - (t - x)
    return high, x - high
