"""Where the iterations begin: an algebraic start that is exact for exact data, and random ones."""

from typing import Any

from .. import _array
from .._array import Array, adjoint
from .cores import Core, Factors, unit

PENCILS = 4  # random combinations of slices that the mode spaces are read off; the first two are the pencil
SINGULAR = 1e-12


def random_start(core: Core, terms: int, rng: Any) -> Factors:
    """Unit vectors, the terms together as large as the target."""
    size = (1.0 / max(1, terms)) ** (0.5 / len(core.sizes))
    return [unit(_array.normal(rng, (n, terms), core.like)) * size for n in core.sizes]


def pencil_start(core: Core, terms: int, rng: Any) -> Factors | None:
    """The terms from the eigenvectors of a matrix pencil, exact where C has so many terms and no noise.

    Two random combinations of slices, S_i = A D_i Bᵀ with diagonal D_i, share their first two factors: A are the
    eigenvectors of S_1 S_2⁻¹. The other modes follow from the diagonals of A⁺ S (B⁺)ᵀ for one slice S after the other
    (Leurgans, Ross and Abel 1993). None where the first two modes are shorter than the number of terms, the pencil is
    singular, or its eigenvectors are not real for real data. As a method alone it is unstable; as a start it need not be.
    """
    xp, (n0, n1, *rest) = _array.array_namespace(core.like), core.sizes
    if not rest or terms > min(n0, n1):
        return None
    weights = [[_array.normal(rng, (n,), core.like) for n in rest] for _ in range(PENCILS)]
    slices = [core.contract(w) for w in weights]
    U, s, _ = xp.linalg.svd(xp.concat(slices, axis=1), full_matrices=False)
    V, t, _ = xp.linalg.svd(xp.concat([xp.matrix_transpose(S) for S in slices], axis=1), full_matrices=False)
    U, V = U[:, :terms], V[:, :terms]
    if not all(_array.to_float(x[terms - 1]) > SINGULAR * _array.to_float(x[0]) for x in (s, t)):
        return None
    S1, S2 = (adjoint(U) @ S @ xp.matrix_transpose(adjoint(V)) for S in slices[:2])
    sizes = xp.linalg.svdvals(S2)
    if not _array.to_float(sizes[terms - 1]) > SINGULAR * _array.to_float(sizes[0]):
        return None
    _, X = _array.eig(xp.matrix_transpose(xp.linalg.solve(xp.matrix_transpose(S2), xp.matrix_transpose(S1))))
    if not _array.is_complex(core.like):
        if _array.to_float(xp.max(xp.abs(xp.imag(X)))) > 0:
            return None
        X = xp.real(X)
    spread = xp.linalg.svdvals(X)
    if not _array.to_float(spread[terms - 1]) > SINGULAR * _array.to_float(spread[0]):
        return None
    B = xp.matrix_transpose(xp.linalg.solve(X, S2))
    first, second = U @ X, V @ unit(B)
    factors = [first, second]
    left, right = xp.linalg.pinv(first), xp.linalg.pinv(second)

    def diagonal(w: list[Array]) -> Array:
        return xp.sum((left @ core.contract(w)) * right, axis=1)  # of A⁺ S (B⁺)ᵀ

    for k, n in enumerate(rest):
        eye = xp.eye(n, dtype=core.like.dtype, device=_array.device(core.like))
        rows = [diagonal([eye[i, :] if j == k else w for j, w in enumerate(weights[0])]) for i in range(n)]
        factors.append(unit(xp.stack(rows)))
    return factors


def grown(core: Core, factors: Factors, terms: int, rng: Any) -> Factors:
    """The factors of fewer terms with small random ones beside them."""
    xp, more = _array.array_namespace(core.like), terms - factors[0].shape[1]
    fresh = random_start(core, more, rng)
    return [xp.concat((U, 0.3 * V), axis=1) for U, V in zip(factors, fresh, strict=True)]
