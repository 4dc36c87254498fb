"""SciPy's solvers on structured matrices: the true residual, preconditioners, several right-hand sides, what is refused."""

import subprocess
import sys
import warnings

import numpy as np
import pytest
import scipy.sparse.linalg
from conftest import check, namespace

import sepmat as sm
from sepmat import interop

SOLVERS = {"cg": interop.cg, "minres": interop.minres, "gmres": interop.gmres}


def power_law(n):
    return sm.Toeplitz((1 + np.arange(n)) ** -1.1)


def problem(method, dtype, rng, n=40):
    """A matrix that the method is made for: definite, indefinite, general."""
    c = rng.standard_normal(n) * 0.5 ** np.arange(n)
    if dtype.startswith("complex"):
        c = c + 1j * rng.standard_normal(n) * 0.5 ** np.arange(n)
    c[0] = {"cg": 4.0, "minres": 0.3, "gmres": 3.0}[method]
    c = c.astype(dtype)
    return sm.Toeplitz(c, np.concatenate((c[:1], 2 * np.flip(c[1:])))) if method == "gmres" else sm.Toeplitz(c)


def draw(rng, shape, dtype):
    x = rng.standard_normal(shape)
    return (x + 1j * rng.standard_normal(shape) if dtype.startswith("complex") else x).astype(dtype)


@pytest.mark.parametrize("method", SOLVERS)
@pytest.mark.parametrize("dtype", ["float32", "float64", "complex64", "complex128"])
def test_the_true_residual_meets_the_tolerance(method, dtype, rng):
    if method == "minres" and dtype.startswith("complex"):
        return
    A = problem(method, dtype, rng)
    D, single = A.to_dense(), dtype in ("float32", "complex64")
    rtol = 1e-5 if single else 1e-12
    for shape in ((40,), (40, 1), (40, 3)):
        b = draw(rng, shape, dtype)
        found = SOLVERS[method](A, b, rtol=rtol)
        assert found.x.shape == shape and found.x.dtype == dtype and found.converged
        residual = np.linalg.norm(b - D @ found.x, axis=0) / np.linalg.norm(b, axis=0)
        bound = np.linalg.norm(D, 2) * np.max(np.linalg.norm(found.x, axis=0) / np.linalg.norm(b, axis=0))
        check(np.abs(np.max(residual) - found.relative_residual), bound, 4000, dtype, "reported residual")
        assert found.relative_residual <= rtol and found.iterations >= 1
        assert np.linalg.norm(found.x - np.linalg.solve(D, b)) <= 2 * np.linalg.cond(D) * rtol * np.linalg.norm(found.x)


@pytest.mark.parametrize("method", SOLVERS)
def test_the_same_as_scipy(method, rng):
    """The first pass is SciPy's own, iteration by iteration."""
    A = problem(method, "float64", rng)
    b = rng.standard_normal(40)
    more = {"callback_type": "pr_norm"} if method == "gmres" else {}
    seen, ours = [], []
    x, info = getattr(scipy.sparse.linalg, method)(A, b, rtol=1e-3, callback=lambda v: seen.append(np.copy(v)), **more)
    found = SOLVERS[method](A, b, rtol=1e-3, callback=lambda v: ours.append(np.copy(v)))
    assert info == 0 and found.converged and len(ours) == found.iterations >= len(seen)
    np.testing.assert_allclose(ours[: len(seen)], seen, rtol=1e-12)
    if found.iterations == len(seen):
        np.testing.assert_allclose(found.x, x, rtol=1e-13)


def test_minres_is_started_again_until_the_residual_is_true():
    """SciPy's test is relative to ‖A‖ ‖x‖: for an ill-conditioned matrix it stops far above rtol ‖b‖."""
    n = 60
    A = sm.Diagonal(np.concatenate((np.linspace(1e-3, 1.0, n // 2), -np.linspace(2e-3, 1.0, n // 2))))
    b = np.ones(n)
    x, info = scipy.sparse.linalg.minres(A, b, rtol=1e-6, maxiter=1000)
    assert info == 0 and np.linalg.norm(b - A @ x) > 5e-6 * np.linalg.norm(b)
    found = interop.minres(A, b, rtol=1e-6, maxiter=1000)
    assert found.converged and np.linalg.norm(b - A @ found.x) <= 1e-6 * np.linalg.norm(b)


@pytest.mark.parametrize("preconditioner, most", [(sm.strang, 10), (sm.t_chan, 11), (sm.superoptimal, 12)])
def test_circulant_preconditioners_bound_the_iterations(preconditioner, most):
    """9 to 10 iterations for Strang and T. Chan whatever n is, 50 to 60 without."""
    for n in (256, 1024, 4096):
        T, b = power_law(n), np.random.default_rng(n).standard_normal(n)
        found = interop.cg(T, b, rtol=1e-12, M=sm.inverse(preconditioner(T)))
        assert found.converged and found.iterations <= most
    assert interop.cg(T, b, rtol=1e-12).iterations >= 40


def test_preconditioner_as_matrix_operator_or_function(rng):
    T, b = power_law(200), rng.standard_normal(200)
    M = sm.inverse(sm.strang(T))
    for form in (M, interop.aslinearoperator(M), lambda r: M @ r, M.astype("float32")):
        found = interop.cg(T, b, rtol=1e-10, M=form)
        assert found.converged and found.iterations <= 12
    for method in ("minres", "gmres"):
        found = SOLVERS[method](T, b, rtol=1e-10, M=M)
        assert found.converged and found.iterations <= 13
    K = sm.KroneckerSum(*[2 * np.eye(20) - np.eye(20, k=1) - np.eye(20, k=-1)] * 2)
    b = rng.standard_normal(400)
    plain = interop.cg(K, b, rtol=1e-8).iterations
    for M in (sm.separated_inverse(K, tol=0.1), sm.inverse(sm.kronecker_preconditioner(K, terms=2))):
        assert 2 * interop.cg(K, b, rtol=1e-8, M=M).iterations <= plain


def test_history_start_and_callback(rng):
    T, b = power_law(100), rng.standard_normal(100)
    seen = []
    found = interop.cg(T, b, rtol=1e-9, history=True, callback=lambda x: seen.append(np.copy(x)))
    assert len(found.history) == found.iterations + 1 == len(seen) + 1
    np.testing.assert_allclose(
        found.history[1:], [np.linalg.norm(b - T @ x) / np.linalg.norm(b) for x in seen], rtol=1e-3
    )
    assert found.history[0] == 1.0 and found.history[-1] == pytest.approx(found.relative_residual)
    again = interop.cg(T, b, x0=found.x, rtol=1e-9)
    assert again.iterations == 0 and again.converged and np.array_equal(again.x, found.x)
    nearer = interop.cg(T, b, x0=found.x, rtol=1e-12, callback=lambda x: seen.append(np.copy(x)))
    assert nearer.iterations < found.iterations and np.allclose(seen[-1], nearer.x)
    inner = interop.gmres(T, b, rtol=1e-9, restart=10, history=True)
    assert len(inner.history) == inner.iterations + 1
    assert interop.cg(T, b).history == ()


def test_real_and_complex_meet(rng):
    T, b = power_law(60), rng.standard_normal(60) + 1j * rng.standard_normal(60)
    found = interop.cg(T, b, rtol=1e-10, M=sm.inverse(sm.strang(T)))
    assert found.x.dtype == "complex128" and np.linalg.norm(T @ found.x - b) <= 1e-10 * np.linalg.norm(b)
    narrow = interop.cg(T.astype("float32"), b.real, rtol=1e-10)
    assert narrow.x.dtype == "float64" and narrow.converged


def test_range_of_the_numbers(rng):
    T, b = power_law(50), rng.standard_normal(50)
    reference = interop.cg(T, b, rtol=1e-10)
    for s in (1e-200, 1e-12, 1e12, 1e200):  # SciPy squares norms
        seen = []
        found = interop.cg(T, s * b, rtol=1e-10, callback=lambda x: seen.append(np.copy(x)))  # noqa: B023
        np.testing.assert_allclose(found.x, s * reference.x, rtol=1e-9)
        np.testing.assert_allclose(seen[-1], found.x, rtol=1e-12)


def test_trivial_systems():
    T = power_law(5)
    for f in SOLVERS.values():
        found = f(T, np.zeros(5))
        assert found.converged and found.iterations == 0 and not found.x.any() and found.relative_residual == 0
        assert f(T, np.ones((5, 0))).x.shape == (5, 0)
        assert f(sm.Dense(np.zeros((0, 0))), np.zeros(0)).x.shape == (0,)
        assert f(sm.Diagonal([2.0]), np.ones(1), rtol=1e-12).x == pytest.approx([0.5])
    assert interop.lsmr(sm.Dense(np.ones((3, 2))), np.zeros(3)).x.shape == (2,)


@pytest.mark.parametrize("method", SOLVERS)
def test_not_converged_is_said(method, rng):
    T, b = power_law(400), rng.standard_normal(400)
    with pytest.warns(sm.ConvergenceWarning, match=f"{method}: not converged after .* relative residual"):
        found = SOLVERS[method](T, b, rtol=1e-13, maxiter=1 if method == "gmres" else 5)
    assert not found.converged and found.relative_residual > 1e-13 and "not converged" in repr(found)
    assert found.relative_residual == pytest.approx(np.linalg.norm(b - T @ found.x) / np.linalg.norm(b))
    with pytest.warns(sm.ConvergenceWarning):  # two columns, one of them hopeless
        found = SOLVERS[method](T, np.stack((0 * b, b), axis=1), rtol=1e-13, maxiter=1)
    assert not found.converged and not found.x[:, 0].any()


def test_an_iterate_comes_back_although_its_residual_has_grown(rng):
    """CG lowers the error in the norm of A, not the residual: what it reached is worth more than the start."""
    A = sm.Diagonal(np.geomspace(1e-6, 1.0, 50))
    b = A @ np.ones(50)
    with pytest.warns(sm.ConvergenceWarning):
        found = interop.cg(A, b, rtol=1e-12, maxiter=3, M=sm.Diagonal(np.geomspace(1e6, 1e3, 50)))
    x, _ = scipy.sparse.linalg.cg(A, b, rtol=1e-12, maxiter=3, M=sm.Diagonal(np.geomspace(1e6, 1e3, 50)))
    np.testing.assert_allclose(found.x, x, rtol=1e-12)


def test_older_cupy_names_the_tolerance_tol():
    def solver(A, b, x0=None, *, tol=1e-5, maxiter=None):
        return None

    assert interop._name_of_tolerance(solver) == "tol"
    assert interop._name_of_tolerance(scipy.sparse.linalg.cg) == "rtol"


def test_below_what_the_precision_gives(rng):
    with pytest.warns(sm.ConvergenceWarning):
        found = interop.cg(power_law(50), rng.standard_normal(50), rtol=1e-18, maxiter=300)
    assert found.relative_residual < 1e-13  # the best that there is comes back


def test_an_indefinite_matrix_or_preconditioner(rng):
    A, b = sm.Diagonal([1.0, -1.0, 2.0]), np.ones(3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", sm.ConvergenceWarning)
        found = interop.cg(A, b, maxiter=1)
    assert np.isfinite(found.relative_residual) and np.isfinite(found.x).all()
    with pytest.raises(sm.ArgumentError, match=r"minres.*positive definite M"):
        interop.minres(A, b, M=sm.Diagonal([1.0, -1.0, -1.0]))


def test_least_squares(rng):
    A = sm.Dense(rng.standard_normal((9, 5)))
    D, b = A.to_dense(), rng.standard_normal((9, 2))
    found = interop.lsmr(A, b, atol=1e-14, btol=1e-14)
    np.testing.assert_allclose(found.x, np.linalg.lstsq(D, b, rcond=None)[0], atol=1e-11)
    assert found.converged and 0.1 < found.relative_residual < 1
    damped = interop.lsmr(A, b[:, 0], damp=0.5, atol=1e-14, btol=1e-14)
    np.testing.assert_allclose(damped.x, np.linalg.solve(D.T @ D + 0.25 * np.eye(5), D.T @ b[:, 0]), atol=1e-11)
    with pytest.warns(sm.ConvergenceWarning, match="lsmr"):
        assert not interop.lsmr(A, b, atol=1e-15, btol=1e-15, maxiter=1).converged


def test_linear_operator(rng):
    A = sm.Toeplitz(*(lambda c: (c, np.concatenate((c[:1], rng.standard_normal(4)))))(draw(rng, 7, "complex128")))
    op, D = interop.aslinearoperator(A), A.to_dense()
    x, y, X, Y = (draw(rng, s, "complex128") for s in (5, 7, (5, 3), (7, 3)))
    for found, exact in ((op @ x, D @ x), (op @ X, D @ X), (op.H @ y, D.conj().T @ y), (op.H @ Y, D.conj().T @ Y)):
        np.testing.assert_allclose(found, exact, atol=1e-13)
    assert op.shape == A.shape and op.dtype == A.dtype
    T = power_law(64)
    values = scipy.sparse.linalg.eigsh(interop.aslinearoperator(T), k=2, return_eigenvectors=False)
    np.testing.assert_allclose(values, np.linalg.eigvalsh(T.to_dense())[-2:], rtol=1e-10)


# what is refused ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", ["torch", "array_api_strict"])
def test_other_libraries_are_refused_with_advice(backend):
    xp = namespace(backend)
    T = sm.Toeplitz(xp.asarray([4.0, 1.0, 0.0], dtype=xp.float64))
    b = xp.ones(3, dtype=xp.float64)
    for call in (lambda: interop.cg(T, b), lambda: interop.aslinearoperator(T), lambda: interop.lsmr(T, b)):
        with pytest.raises(sm.BackendError, match=r"NumPy or CuPy.*A\.map"):
            call()
    assert interop.cg(T.map(np.asarray), np.ones(3)).converged


def test_bad_input():
    T, b = power_law(6), np.ones(6)
    for f in SOLVERS.values():
        with pytest.raises(sm.ShapeError, match="square"):
            f(sm.Dense(np.ones((3, 2))), np.ones(3))
        with pytest.raises(sm.ShapeError, match=r"\(6,\) or \(6, k\)"):
            f(T, np.ones(5))
        with pytest.raises(sm.ShapeError, match="x0"):
            f(T, b, x0=np.ones(5))
        with pytest.raises(sm.ShapeError, match="inverse of A"):
            f(T, b, M=power_law(5))
        with pytest.raises(sm.NonFiniteError):
            f(T, np.full(6, np.nan))
        with pytest.raises(sm.DTypeError, match=r"sm\.Dense"):
            f(np.eye(6), b)
        with pytest.raises(sm.DTypeError, match=r"sm\.Dense\(M\)"):
            f(T, b, M=np.eye(6))
        for name, value in (("rtol", -1.0), ("rtol", np.nan), ("atol", "x"), ("maxiter", 0)):
            with pytest.raises((sm.ArgumentError, sm.DTypeError), match=name):
                f(T, b, **{name: value})
    with pytest.raises(sm.DTypeError, match="minres"):
        interop.minres(T, b + 1j)
    with pytest.raises(sm.ArgumentError, match="damp"):
        interop.lsmr(T, b, damp=-1.0)


def test_it_comes_with_the_package():
    code = "import sys, sepmat; sepmat.interop.cg; assert 'torch' not in sys.modules and 'cupy' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0
