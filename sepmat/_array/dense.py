"""The few dense routines that the array API standard lacks, one function each."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import scipy.linalg

from .libraries import Array, array_namespace, astype, complex_dtype, device, is_cupy, is_numpy, is_torch, size
from .scaling import power_of_two
from .values import attached, copy, stop_gradient, to_float, to_numpy

NEAR_ONE = 16  # powers of two around 1 in which a matrix is factored as it is


class Factors(NamedTuple):
    """A square matrix as `lu_solve` wants it, and an estimate of 1/(‖A‖₁‖A⁻¹‖₁), 0 where it is exactly singular."""

    lu: Any  # LAPACK's LU and pivots of A / scale; None: A itself
    scale: float
    A: Array
    rcond: float


def lu_factor(A: Array) -> Factors:
    """In the memory of the host LAPACK's LU and its estimator, O(n²) more; elsewhere the inverse says how good A is."""
    plain = stop_gradient(A)
    if not A.shape[-1]:
        return Factors(None, 1.0, A, 1.0)
    if is_numpy(A) or (is_torch(A) and A.device.type == "cpu"):
        B = to_numpy(plain)
        size = np.abs(B)
        exponent = math.frexp(float(size.max()))[1]
        scale = 1.0 if abs(exponent) <= NEAR_ONE else to_float(power_of_two(B))
        B = B if scale == 1.0 else B / scale
        getrf, gecon = scipy.linalg.get_lapack_funcs(("getrf", "gecon"), (B,))
        norm = float((size if scale == 1.0 else np.abs(B)).sum(axis=0).max())
        lu, pivots, info = getrf(B)
        return Factors((lu, pivots), scale, A, 0.0 if info > 0 else float(gecon(lu, norm)[0]))
    scale = to_float(power_of_two(plain))
    return Factors(None, scale, A, _rcond_by_inverse(plain / astype(power_of_two(plain), A.dtype)))


def _rcond_by_inverse(A: Array) -> float:
    xp = array_namespace(A)
    try:
        X = xp.linalg.inv(A)
    except (np.linalg.LinAlgError, RuntimeError):  # torch raises its own subclass of RuntimeError
        return 0.0
    value = 1.0 / (to_float(xp.max(xp.sum(xp.abs(A), axis=0))) * to_float(xp.max(xp.sum(xp.abs(X), axis=0))))
    return value if math.isfinite(value) else 0.0


def lu_solve(F: Factors, B: Array) -> Array:
    """A⁻¹ B for columns B (n, k), or for each of a stack of them (l, n, k), of the dtype of B; with gradients where they
    are asked for."""
    xp = array_namespace(B)
    if not F.A.shape[-1]:
        return copy(B)
    if F.lu is None or attached(F.A, B):
        A = astype(F.A, B.dtype)
        return folded(lambda C: xp.linalg.solve(A, C), B)
    x = _lapack_solve(F, to_numpy(B))
    return xp.asarray(x / F.scale if F.scale != 1.0 else x, dtype=B.dtype, device=device(B))


def folded(solve: Callable[[Array], Array], B: Array) -> Array:
    """What a function makes of columns (n, k), or of those of a stack (l, n, k), all side by side."""
    if B.ndim == 2:
        return solve(B)
    xp, (l, n, k) = array_namespace(B), B.shape
    X = solve(xp.reshape(xp.permute_dims(B, (1, 0, 2)), (n, l * k)))
    return xp.permute_dims(xp.reshape(X, (X.shape[0], l, k)), (1, 0, 2))


MANY = 16  # columns from which the triangles stand on the right
SLAB = 64  # columns from which the members of a stack are solved with one by one, where they lie


def _lapack_solve(F: Factors, B: Any) -> Any:
    """(A / scale)⁻¹ B on the host.

    Many columns in C order are rows to BLAS: X Lᵀ = Y runs at a higher rate than L X = Y, which getrs solves, and nothing is turned.
    """
    n, k = B.shape[-2:]
    lu, pivots = np.asarray(F.lu[0], dtype=B.dtype, order="F"), F.lu[1]
    if B.size < n * max(MANY, n // 8):
        (getrs,) = scipy.linalg.get_lapack_funcs(("getrs",), (B,))
        return folded(lambda C: getrs(lu, pivots, C)[0], B)
    (trsm,) = scipy.linalg.get_blas_funcs(("trsm",), (B,))

    def solve(X: Any) -> Any:  # in place
        trsm(1.0, lu, X.T, side=1, lower=1, trans_a=1, diag=1, overwrite_b=1)
        trsm(1.0, lu, X.T, side=1, trans_a=1, overwrite_b=1)
        return X

    rows = list(range(n))  # of Pᵀ B, A = P L U
    for i, j in enumerate(pivots.tolist()):
        rows[i], rows[j] = rows[j], rows[i]
    if B.ndim == 2:
        return solve(np.take(B, rows, axis=0))
    if k >= SLAB and n * k >= SLAB**2:
        X = np.take(B, rows, axis=1)
        for Y in X:
            solve(Y)
        return X
    return folded(lambda C: solve(np.take(C, rows, axis=0)), B)


def qr_triangle(A: Array) -> Array:
    """R of the QR factorization, without the orthogonal factor where a library offers that (half the time)."""
    if is_numpy(A):
        return np.linalg.qr(A, mode="r")
    xp = array_namespace(A)
    return xp.linalg.qr(A, mode="r" if is_torch(A) and not attached(A) else "reduced")[1]


def qr(A: Array) -> tuple[Array, Array]:
    """The thin QR decomposition of a finite matrix."""
    if is_numpy(A) and 0 not in A.shape:  # NumPy's takes three times as long for a tall one
        Q, R = scipy.linalg.qr(A, mode="economic", check_finite=False)
        return Q, R
    Q, R = array_namespace(A).linalg.qr(A)
    return Q, R


def solve_triangular(R: Array, B: Array, upper: bool = True) -> Array:
    """R⁻¹ B for a triangular R."""
    xp = array_namespace(R)
    if is_numpy(R):
        return scipy.linalg.solve_triangular(R, B, lower=not upper, check_finite=False)
    return xp.linalg.solve_triangular(R, B, upper=upper) if is_torch(R) else xp.linalg.solve(R, B)


def lstsq(A: Array, B: Array, rcond: float) -> Array:
    """The X of least norm among those that minimise ‖B - A X‖_F; singular values up to rcond times the largest are 0.

    Full rank: by a QR factorization, with gradients; else by the SVD of its triangle.
    """
    xp = array_namespace(A, B)
    wide = A.shape[0] < A.shape[1]
    Q, R = qr(xp.conj(xp.matrix_transpose(A)) if wide else A)
    if not size(R):
        return xp.zeros((A.shape[1], B.shape[1]), dtype=B.dtype, device=device(B))
    s = xp.linalg.svdvals(stop_gradient(R))
    full = to_float(s[-1]) > rcond * to_float(s[0])
    Qh = xp.conj(xp.matrix_transpose(Q))
    if full and wide:  # A = Rᴴ Qᴴ
        return Q @ solve_triangular(xp.conj(xp.matrix_transpose(R)), B, upper=False)
    if full:
        return solve_triangular(R, Qh @ B)
    U, s, Vh = xp.linalg.svd(R, full_matrices=False)
    kept = s > rcond * s[0]
    inverse = astype(xp.where(kept, 1.0 / xp.where(kept, s, xp.ones_like(s)), xp.zeros_like(s)), B.dtype)[:, None]
    if wide:  # A = V S Uᴴ Qᴴ
        return Q @ (U @ (inverse * (Vh @ B)))
    return xp.conj(xp.matrix_transpose(Vh)) @ (inverse * (xp.conj(xp.matrix_transpose(U)) @ (Qh @ B)))


def eig(A: Array) -> tuple[Array, Array]:
    """The eigenvalues and the eigenvectors, in columns, of a square matrix, always complex."""
    xp = array_namespace(A)
    if is_torch(A):
        return tuple(xp.linalg.eig(A))
    dtype = complex_dtype(xp, A.dtype)
    values, vectors = np.linalg.eig(to_numpy(A))
    return tuple(xp.asarray(np.asarray(x), dtype=dtype, device=device(A)) for x in (values, vectors))


def eigvals(A: Array) -> Array:
    """The eigenvalues of a square matrix, always complex."""
    xp = array_namespace(A)
    if is_torch(A):
        return xp.linalg.eigvals(A)
    values = np.linalg.eigvals(to_numpy(A)) if not is_cupy(A) else xp.linalg.eigvals(A)
    return xp.asarray(values, dtype=complex_dtype(xp, A.dtype), device=device(A))


def schur(A: Array) -> tuple[Array, Array]:
    """Complex Schur form A = Q T Qᴴ, Q unitary and T upper triangular (LAPACK through SciPy; no gradient)."""
    xp = array_namespace(A)
    T, Q = scipy.linalg.schur(to_numpy(A), output="complex")
    dtype = complex_dtype(xp, A.dtype)
    return xp.asarray(T, dtype=dtype, device=device(A)), xp.asarray(Q, dtype=dtype, device=device(A))


def expm(A: Array) -> Array:
    """exp(A) of a square matrix (SciPy; torch has its own)."""
    xp = array_namespace(A)
    if is_torch(A):
        return xp.linalg.matrix_exp(A)
    return xp.asarray(scipy.linalg.expm(to_numpy(A)), dtype=A.dtype, device=device(A))
