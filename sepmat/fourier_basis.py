"""Toeplitz matrices beside circulants, in the Fourier basis: where an iterative solver works on both of them in fewer transforms."""

from collections.abc import Callable
from typing import NamedTuple

from . import _array
from ._array import Array
from .kernels.fourier_basis import coordinates, diagonal, plain, sequence, toeplitz
from .matrix import StructuredMatrix
from .toeplitz import Circulant, SkewCirculant, Toeplitz

__all__ = ["Coordinates", "fourier_coordinates", "splitting"]

LEAST = 2048  # from here on fewer transforms weigh more than more calls
Map = Callable[[Array], Array]


class Coordinates(NamedTuple):
    """An orthonormal change of basis F, and what A and M are in it. Residuals keep their norms, so a Krylov method takes the same
    steps there as where it came from."""

    enter: Map  # x -> F x
    leave: Map  # v -> Fᴴ v
    A: Map  # v -> F A Fᴴ v
    M: Map | None  # v -> F M Fᴴ v; None where there is no M


def splitting(t: Array) -> tuple[Circulant, SkewCirculant]:
    """(C, S) with T = C + S for the n×n Toeplitz matrix T of the diagonals t (2n - 1,), n >= 1. O(n).

    c_k = (t_k + t_{k-n}) / 2 and s_k = (t_k - t_{k-n}) / 2, where t_{-n}, which T does not have, is t_0.

    Source: R. Chan, Jin & Yeung, SIAM J. Numer. Anal. 28 (1991).
    """
    n = (t.shape[0] + 1) // 2
    ahead, behind = t[n - 1 :], _array.array_namespace(t).concat((t[n - 1 : n], t[: n - 1]))
    C = Circulant._of(c=(ahead + behind) / 2, corner=(n, n))
    return C, SkewCirculant._of(c=(ahead - behind) / 2, corner=(n, n))


def fourier_coordinates(A: StructuredMatrix, M: StructuredMatrix, *, with_complex: bool) -> Coordinates | None:
    """The Fourier basis for a Toeplitz A = C + S and a circulant M of its size n; None where it saves nothing.

    F A Fᴴ = Λ_C + F S Fᴴ and F M Fᴴ = Λ_M: four transforms of length n for both, the two of S for real x complex ones of
    length n/2, in place of two of length 2n for A and two of length n for M. That takes 0.3 to 0.9 of the time from
    n = 2000 on. with_complex: for complex x, whatever A and M are.

    None for other classes, below n = 2048, where products by themselves are as fast, where the length n has no fast transform (M then
    is multiplied by padded ones), and for data so far from 1 that exponents have to be watched.
    """
    if not (isinstance(A, Toeplitz) and isinstance(M, Circulant)) or (M._is_complex and not with_complex):
        return None
    n = A.shape[0]
    if n < LEAST or M._remember("length", M._length) != n:
        return None
    if with_complex:
        dtype = A.xp.result_type(A.dtype, A.xp.complex64)
        A, M = A.astype(dtype), M.astype(dtype)
    C, S = A._remember("splitting", lambda: splitting(A._diagonals()))
    at_C, at_S, at_M = (plain(X._remember("spectrum", X._spectrum)) for X in (C, S, M))
    if at_C is None or at_S is None or at_M is None:
        return None
    return Coordinates(coordinates, sequence, lambda v: toeplitz(at_C, at_S, v), lambda v: diagonal(at_M, v))
