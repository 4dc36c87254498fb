"""The orthonormal Fourier basis in which an iterative solver works on a Toeplitz matrix and a circulant preconditioner."""

import numpy as np
import pytest
import scipy.linalg
from conftest import check

import sepmat as sm
from sepmat import fourier_basis, interop
from sepmat.kernels import fourier_basis as kernels

DTYPES = ["float32", "float64", "complex64", "complex128"]
SIZES = [1, 2, 3, 4, 5, 8, 9, 31, 64]  # even, odd, prime
SOLVERS = {"cg": interop.cg, "minres": interop.minres, "gmres": interop.gmres}


def draw(rng, n, dtype):
    x = rng.standard_normal(n)
    return (x + 1j * rng.standard_normal(n) if dtype.startswith("complex") else x).astype(dtype)


def basis(n, real):
    """F by its definition: e^{-2πi jk/n} / √n, for real x rows of cosines and sines."""
    jk = np.outer(np.arange(n), np.arange(n)) % n * (2 * np.pi / n)
    if not real:
        return np.exp(-1j * jk) / np.sqrt(n)
    rows = [np.ones(n) / np.sqrt(n)] + ([np.cos(jk[n // 2]) / np.sqrt(n)] if n % 2 == 0 else [])
    for k in range(1, (n + 1) // 2):
        rows += [np.sqrt(2 / n) * np.cos(jk[k]), -np.sqrt(2 / n) * np.sin(jk[k])]
    return np.array(rows)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", SIZES)
def test_the_basis_is_orthonormal_and_turns_toeplitz_into_its_definition(n, dtype, xp, rng):
    F = basis(n, dtype.startswith("float"))
    np.testing.assert_allclose(F @ F.conj().T, np.eye(n), atol=1e-13)
    x, t = draw(rng, n, dtype), draw(rng, 2 * n - 1, dtype)
    T = scipy.linalg.toeplitz(t[n - 1 :], t[n - 1 :: -1])
    C, S = fourier_basis.splitting(xp.asarray(t))
    c, s = (np.asarray(X.to_dense()) for X in (C, S))
    check(np.max(np.abs(c + s - T)), np.max(np.abs(t)), 4, dtype, "C + S = T")
    v, size = xp.asarray(F @ x, dtype=getattr(xp, dtype)), np.linalg.norm(x)
    forced = [None, *(row.name for row in kernels.coordinates.rows if row.accepts(v))]
    for kernel in forced:
        found = np.asarray(kernels.coordinates(xp.asarray(x), kernel=kernel))
        assert found.dtype == dtype
        check(np.linalg.norm(found - F @ x), size, 40, dtype, "coordinates")
        found = np.asarray(kernels.sequence(v, kernel=kernel))
        assert found.dtype == dtype
        check(np.linalg.norm(found - x), size, 40, dtype, "sequence")
        for table, spectra, A in (
            (kernels.diagonal, (kernels.plain(C._spectrum()),), c),
            (kernels.toeplitz, tuple(kernels.plain(X._spectrum()) for X in (C, S)), T),
        ):
            if kernel in (None, *(row.name for row in table.rows if row.accepts(*spectra, v))):
                found = np.asarray(table(*spectra, v, kernel=kernel))
                assert found.dtype == dtype
                check(np.linalg.norm(found - F @ (A @ x)), np.sqrt(n) * np.linalg.norm(t) * size, 60, dtype, "F A Fᴴ v")


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("n", [8, 9])
def test_strided_vectors_and_those_of_another_precision(n, dtype, rng):
    """What the rows of NumPy do not take: SciPy's MINRES has float64 vectors for a matrix of float32."""
    t, v = rng.standard_normal(2 * n - 1).astype(dtype), rng.standard_normal(2 * n)[::2]
    C, S = (kernels.plain(X._spectrum()) for X in fourier_basis.splitting(t))
    for table in (kernels.coordinates, kernels.sequence, kernels.diagonal, kernels.toeplitz):
        spectra = {kernels.diagonal: (C,), kernels.toeplitz: (C, S)}.get(table, ())
        expected = table(*spectra, v, kernel="reference")
        for form in (v, np.copy(v)):
            found = table(*spectra, form)
            assert found.dtype == "float64" == expected.dtype
            check(np.linalg.norm(found - expected), np.linalg.norm(expected), 40, "float64", table.__name__)


def problem(method, dtype, n):
    """A matrix that the method is made for, definite, indefinite or general, and a circulant near the inverse of the definite one."""
    t = (1.0 + np.arange(n)) ** -1.1
    c = (t * np.exp(0.3j * np.arange(n)) if dtype.startswith("complex") else t).astype(dtype)
    T = sm.Toeplitz(c, np.concatenate((c[:1], 0.3 * c[1:]))) if method == "gmres" else sm.Toeplitz(c)
    M = sm.inverse(sm.strang(T))
    return sm.Toeplitz((c - 0.1 * np.cos(0.5 * np.arange(n))).astype(dtype)) if method == "minres" else T, M


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("method", SOLVERS)
@pytest.mark.parametrize("n", [96, 75])
def test_the_same_iterates_as_without(method, dtype, n, rng, monkeypatch):
    """A LinearOperator has no coordinates: the solver works where x comes in."""
    monkeypatch.setattr(fourier_basis, "LEAST", 1)
    if method == "minres" and dtype.startswith("complex"):
        return
    T, M = problem(method, dtype, n)
    assert fourier_basis.fourier_coordinates(T, M, with_complex=T._is_complex) is not None
    D, single = T.to_dense(), dtype in ("float32", "complex64")
    b, x0, rtol = draw(rng, n, dtype), draw(rng, n, dtype), 1e-4 if single else 1e-11
    solve, plain = SOLVERS[method], interop.aslinearoperator(M)
    for start in (None, x0):
        found, other = (solve(T, b, start, rtol=rtol, M=m, history=True) for m in (M, plain))
        assert found.converged and found.x.dtype == dtype and abs(found.iterations - other.iterations) <= 1
        residual = np.linalg.norm(b - D @ found.x) / np.linalg.norm(b)
        bound = np.linalg.norm(D, 2) * np.linalg.norm(found.x) / np.linalg.norm(b)
        check(abs(residual - found.relative_residual), bound, 4000, dtype, "reported residual")
        assert residual <= 1.01 * rtol
        np.testing.assert_allclose(found.history[:3], other.history[:3], rtol=1e-3 if single else 1e-9)
        seen, theirs = [], []
        for m, told in ((M, seen), (plain, theirs)):
            solve(T, b, start, rtol=rtol, M=m, callback=lambda v, told=told: told.append(np.copy(v)))
        np.testing.assert_allclose(seen[:3], theirs[:3], rtol=1e-3 if single else 1e-9, atol=1e-4 if single else 1e-11)


def test_iterations_that_end_too_early_are_said(rng, monkeypatch):
    monkeypatch.setattr(fourier_basis, "LEAST", 1)
    T, M = problem("cg", "float64", 96)
    with pytest.warns(sm.ConvergenceWarning, match="not converged after 3 iterations"):
        found = interop.cg(T, rng.standard_normal(96), rtol=1e-12, M=M, maxiter=3)
    assert found.iterations == 3 and not found.converged


def test_columns_real_matrices_and_complex_right_hand_sides(rng, monkeypatch):
    monkeypatch.setattr(fourier_basis, "LEAST", 1)
    T, M = problem("cg", "float64", 96)
    B = rng.standard_normal((96, 3)) + 1j * rng.standard_normal((96, 3))
    for b in (B, B.real, B.astype("complex64"), 1e-120 * B.real, 1e200 * B):
        rtol = 1e-5 if b.dtype == "complex64" else 1e-10
        found = interop.cg(T, b, rtol=rtol, M=M)
        assert found.converged and found.x.shape == (96, 3) and found.x.dtype == np.result_type(b, "f8")
        size = np.abs(b).max()
        assert np.linalg.norm(b / size - T @ (found.x / size)) <= 2 * rtol * np.linalg.norm(b / size)


def test_where_it_saves_nothing(rng):
    T, M = problem("cg", "float64", 2048)
    route = fourier_basis.fourier_coordinates
    assert route(T, M, with_complex=False) and route(T, M, with_complex=True)
    assert interop.cg(T, rng.standard_normal(2048), rtol=1e-10, M=M).iterations < 20
    assert route(T, sm.Diagonal(np.ones(2048)), with_complex=False) is None
    assert route(sm.Diagonal(np.ones(2048)), M, with_complex=False) is None
    assert route(T, M.astype("complex128"), with_complex=False) is None
    assert route(1e200 * T, M, with_complex=False) is None and route(T, 1e-200 * M, with_complex=False) is None
    for n in (2047, 16381):  # too small; a prime, whose products are padded
        assert route(*problem("cg", "float64", n), with_complex=False) is None
