"""Kronecker sums beyond what every class is asked: kept forms, least squares of normal factors, gradients of both orders."""

import functools

import numpy as np
import pytest
from conftest import check, dtype_of, host, namespace
from test_contract import DTYPES

import sepmat as sm
from sepmat._bounds import BOUNDS
from sepmat.kernels.sylvester import triangular_sum_solve


def hermitian(rng, n, dtype):
    X = drawn(rng, n, dtype)
    return X + X.conj().T


def drawn(rng, n, dtype):
    X = rng.standard_normal((n, n))
    return (X + 1j * rng.standard_normal((n, n)) if "complex" in dtype else X).astype(dtype)


def normal(rng, n, dtype):
    """Not Hermitian: a skew part that commutes."""
    S = drawn(rng, n, dtype)
    S = S - S.conj().T
    return (S + 0.3 * np.eye(n) + 0.1 * S @ S).astype(dtype)


def dense(factors):
    sizes = [len(F) for F in factors]
    total = np.zeros((np.prod(sizes),) * 2, np.clongdouble)
    for i, F in enumerate(factors):
        total += functools.reduce(np.kron, [F if j == i else np.eye(n) for j, n in enumerate(sizes)])
    return total


@pytest.mark.parametrize("dtype", ["complex128", "complex64"])
@pytest.mark.parametrize("columns", [0, 1, 3])
@pytest.mark.parametrize("sizes", [(5,), (4, 6), (3, 1, 5), (2, 3, 2, 4)])
def test_triangular_sums_by_every_row(sizes, columns, dtype, rng):
    """B16 for the reference and for LAPACK's, beside a shift."""
    T = [np.triu(drawn(rng, n, dtype)) + (2 * np.eye(n)).astype(dtype) for n in sizes]
    b, shift = drawn(rng, max(np.prod(sizes), 3), dtype)[: np.prod(sizes), :columns], np.asarray(0.5 + 1j, dtype)
    D = dense(T) + shift * np.eye(np.prod(sizes))
    scale = sum(np.linalg.norm(X) for X in T) + abs(shift)
    for row in ("reference", "trsyl")[: len(sizes)]:
        x = triangular_sum_solve(T, b, shift, kernel=row)
        assert x.shape == b.shape and str(x.dtype) == dtype
        error = np.linalg.norm((b - D @ x).astype(complex), axis=0)
        check(error, scale * np.linalg.norm(x, axis=0), BOUNDS["B16"](sum(sizes)), dtype, f"triangular sum, {row}")


@pytest.mark.parametrize("backend", DTYPES)
@pytest.mark.parametrize("make", [hermitian, normal, drawn])
@pytest.mark.parametrize("sizes", [(5,), (4, 6), (3, 1, 5), (2, 3, 2, 4)])
def test_solve_factorize_inverse(sizes, make, backend, rng):
    """B16 for every way; for a real b the solution is real."""
    xp = namespace(backend)
    for dtype in DTYPES[backend]:
        factors = [make(rng, n, dtype) for n in sizes]
        A, D = sm.KroneckerSum(*(xp.asarray(F, copy=True) for F in factors)), dense(factors)
        N, ways = len(D), (functools.partial(sm.solve, A), sm.factorize(A).solve, sm.inverse(A).__matmul__)
        scale = sum(np.linalg.norm(F.astype(complex)) for F in factors)
        for b in (rng.standard_normal((N, 2)).astype(dtype), rng.standard_normal(N).astype(dtype)):
            for f in ways:
                x = f(xp.asarray(b, copy=True))
                assert dtype_of(x) == dtype and tuple(x.shape) == b.shape
                x = host(x)
                error = np.linalg.norm((b - D @ x).astype(complex), axis=0)
                check(
                    error,
                    scale * np.linalg.norm(x, axis=0),
                    BOUNDS["B16"](sum(sizes)),
                    dtype,
                    "B16 Kronecker sum, kept forms",
                )


@pytest.mark.parametrize("backend", DTYPES)
@pytest.mark.parametrize("make", [hermitian, normal])
def test_least_squares_of_normal_factors(make, backend, rng):
    """The shortest solution, whatever the rank; to the cut-off a singular value is relative to the largest."""
    xp = namespace(backend)
    for dtype in DTYPES[backend]:
        factors = [make(rng, n, dtype) for n in (4, 5)]
        w = [np.linalg.eigvals(F.astype(complex)) for F in factors]
        for zeros in (0, 1, 2):
            if zeros:  # an eigenvalue of the sum is 0, and for real data its conjugate too
                shift = w[0][0] + w[1][0]
                if "complex" not in dtype and abs(shift.imag) > 1e-5:
                    break
                F = factors[0] - (shift if "complex" in dtype else shift.real) * np.eye(4)
            else:
                F = factors[0]
            F = F.astype(dtype)
            A, D = (
                sm.KroneckerSum(*(xp.asarray(X, copy=True) for X in (F, factors[1]))),
                dense((F, factors[1])).astype(complex),
            )
            s = np.linalg.svd(D, compute_uv=False)
            rank = 20 - int(np.sum(s < 1e-4 * s[0]))
            assert rank == 20 - bool(zeros)
            b = rng.standard_normal((20, 2)).astype(dtype)
            x = host(sm.lstsq(A, xp.asarray(b, copy=True), rcond=1e-4))
            U, s, Vh = np.linalg.svd(D)
            exact = Vh[:rank].conj().T @ (U[:, :rank].conj().T @ b / s[:rank, None])
            assert x.dtype == dtype
            check(
                np.linalg.norm(x - exact),
                (s[0] / s[rank - 1]) ** 2 * np.linalg.norm(exact),
                30 * 9,
                dtype,
                "lstsq Kronecker sum",
            )


def test_least_squares_without_normal_factors(rng):
    """A nonsingular sum is solved; a singular one is refused with the ways that work."""
    F, G = drawn(rng, 3, "float64"), drawn(rng, 4, "float64")
    b = rng.standard_normal(12)
    A = sm.KroneckerSum(F, G)
    np.testing.assert_array_equal(sm.lstsq(A, b), sm.solve(A, b))
    F, G = np.triu(F, 1) + np.eye(3), np.triu(G, 1) - np.eye(4)
    singular = sm.KroneckerSum(F, G)
    with pytest.raises(sm.SingularMatrixError, match=r"lstsq: A: .*not normal.* sm\.interop\.lsmr\(A, b\)"):
        sm.lstsq(singular, b)
    for f in (lambda A: sm.solve(A, b), sm.factorize, sm.inverse):
        with pytest.raises(sm.SingularMatrixError, match=r"rcond .*Use sm.lstsq\(A, b\)"):
            f(sm.KroneckerSum(np.diag([1.0, 2.0, 3.0]), np.diag([-1.0, 5.0, 6.0, 7.0])))


def test_forms_are_found_once(rng, monkeypatch):
    A = sm.KroneckerSum(drawn(rng, 3, "float64"), drawn(rng, 4, "float64"))
    F, calls = sm.factorize(A), []
    monkeypatch.setattr("sepmat._array.schur", lambda X: calls.append(X))
    X, b = sm.inverse(A), rng.standard_normal(12)
    np.testing.assert_array_equal(F.solve(b), X @ b)
    assert not calls


@pytest.mark.parametrize("make", [hermitian, drawn])
def test_gradients_of_first_and_second_order(make):
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(5)
    F, G = (torch.tensor(make(rng, n, "float64")).requires_grad_() for n in (3, 2))
    b = torch.tensor(rng.standard_normal(6)).requires_grad_()

    def f(F, G, b):
        F, G = ((X + X.T) / 2 if make is hermitian else X for X in (F, G))
        return sm.solve(sm.KroneckerSum(F, G), b)

    assert torch.autograd.gradcheck(f, (F, G, b)) and torch.autograd.gradgradcheck(f, (F, G, b))
    assert torch.autograd.gradcheck(lambda b: sm.lstsq(sm.KroneckerSum(F.detach(), G.detach()), b), (b,))
