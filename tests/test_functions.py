"""als_solve, schulz_inverse, sign, expm, power and inverse iteration: 1 to 4 factors against dense oracles, more against residuals.

Every reported error is compared with one that is formed densely: errors are relative, so tolerances are the limits.
"""

import functools
import math
import re

import numpy as np
import pytest
import scipy.linalg
from conftest import check, dtype_of, host, library
from limits import LIMITS

import sepmat as sm
from sepmat._bounds import BOUNDS
from sepmat.algebra import relative_distance
from sepmat.als_solve import Reducer

U = 2.0**-53
SIZES = {1: (5,), 2: (4, 3), 3: (3, 4, 2), 4: (2, 3, 2, 3)}


def second_difference(n):
    return 2 * np.eye(n) - np.eye(n, k=1) - np.eye(n, k=-1)


def laplacian(*sizes):
    return sm.convert(sm.KroneckerSum(*map(second_difference, sizes)), sm.Separated)


def coupled(*sizes, strength):
    """A Hamiltonian of particles on a line: the Laplacian and x_i x_{i+1} between neighbours."""
    A = laplacian(*sizes)
    x = [np.diag(np.linspace(-1, 1, n)) for n in sizes]
    for i in range(len(sizes) - 1):
        factors = [strength * X if j == i else X if j == i + 1 else np.eye(len(X)) for j, X in enumerate(x)]
        A = A + sm.convert(sm.Kronecker(*factors), sm.Separated)
    return A


def drawn(rng, dtype, *shape):
    x = rng.standard_normal(shape)
    return (x + 1j * rng.standard_normal(shape) if dtype.startswith("complex") else x).astype(dtype)


def near_identity(xp, rng, dtype, sizes, terms=2, size=0.3):
    """I + terms of norm `size` together, as a Separated of a library."""
    stacks = [drawn(rng, dtype, terms, n, n) for n in sizes]
    stacks = [F / np.linalg.norm(F, 2, axis=(1, 2))[:, None, None] for F in stacks]
    units = [np.concatenate([np.eye(n, dtype=dtype)[None], F]) for n, F in zip(sizes, stacks, strict=True)]
    scales = np.array([1.0] + [size / terms] * terms, dtype)
    return sm.Separated([xp.asarray(F) for F in units], xp.asarray(scales))


def dense(A):
    return host(A.to_dense())


def exponential(F):
    """exp(F) in extended precision (SciPy's is off by 300 u for some 5×5 matrices)."""
    F = F.astype(np.clongdouble if F.dtype.kind == "c" else np.longdouble)
    X = I = np.eye(len(F))
    for j in range(24, 0, -1):
        X = I + F / 2**10 @ X / j
    for _ in range(10):
        X = X @ X
    return X


def error(found, exact):
    return float(np.sqrt(np.sum(np.abs(found - exact) ** 2) / np.sum(np.abs(exact) ** 2)))


def consistent(fit, true, tol):
    """The error that is reported is the true one, and the tolerance is met."""
    assert fit.converged and fit.relative_error <= tol
    assert abs(fit.relative_error - true) <= 1e-2 * true + 1e3 * U
    assert fit.condition_number == fit.matrix.condition_number and fit.num_parameters == fit.matrix.num_parameters


# --- als_solve -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float64", "complex128"])
@pytest.mark.parametrize("d", SIZES)
def test_als_solve_finds_a_solution_of_few_terms(d, dtype, xp, rng):
    sizes = SIZES[d]
    A = near_identity(xp, rng, dtype, sizes)
    X = sm.Separated([xp.asarray(drawn(rng, dtype, 2, n, 1 + i % 2)) for i, n in enumerate(sizes)])
    F = A @ X
    fit = sm.als_solve(A, F, tol=1e-9)
    D, G, Y = dense(A), dense(F), dense(fit.matrix)
    consistent(fit, error(D @ Y, G), 1e-9)
    assert error(Y, np.linalg.solve(D, G)) <= 1e-9 * np.linalg.cond(D)
    assert fit.matrix.shapes == X.shapes and dtype_of(fit.matrix) == dtype
    assert library(fit.matrix.factors[0]) == library(F.factors[0])


def test_als_solve_reaches_round_off_and_repeats(rng):
    A = near_identity(np, rng, "float64", (4, 3, 5))
    X = sm.Separated([drawn(rng, "float64", 3, n, 1) for n in (4, 3, 5)])
    fit = sm.als_solve(A, A @ X, rank=3)
    check(error(dense(fit.matrix), dense(X)), np.linalg.cond(dense(A)), 200, "float64", "als_solve, exact rank")
    assert fit.converged and fit.matrix.equals(sm.als_solve(A, A @ X, rank=3).matrix)


def test_als_solve_least_squares(rng):
    """Rectangular factors: the solution of a consistent system; the least residual of one factor."""
    A = sm.Separated([drawn(rng, "float64", 1, 6, 4), drawn(rng, "float64", 1, 5, 3)])
    X = sm.Separated([drawn(rng, "float64", 2, 4, 1), drawn(rng, "float64", 2, 3, 2)])
    fit = sm.als_solve(A, A @ X, rank=2)
    check(error(dense(fit.matrix), dense(X)), np.linalg.cond(dense(A)), 200, "float64", "als_solve, rectangular")
    A, F = (sm.Separated([drawn(rng, "float64", 2, 7, n)]) for n in (3, 2))
    fit = sm.als_solve(A, F, rank=1)
    best = np.linalg.lstsq(dense(A), dense(F))[0]
    check(error(dense(fit.matrix), best), np.linalg.cond(dense(A)) ** 2, 500, "float64", "als_solve, least squares")


def test_als_solve_ten_factors():
    """N = 8^10: residual and κ without an oracle; the solution is the same in all modes, as A and F are."""
    A, F = laplacian(*[8] * 10), sm.Separated([np.ones((1, 8, 1))] * 10)
    fit = sm.als_solve(A, F, tol=2e-3)
    assert fit.converged and relative_distance(F, A @ fit.matrix) == fit.relative_error <= 2e-3
    assert fit.condition_number < 2 and fit.matrix.terms <= 6


def test_als_solve_preconditioned():
    A, F = laplacian(16, 16, 16), sm.Separated([np.ones((1, 16, 1))] * 3)
    w, V = np.linalg.eigh(second_difference(16))
    t = np.geomspace(3e-2, 60, 12)  # ∫ exp(−t λ) dt by the trapezoid rule in log t: 1/λ to some per cent
    heat = np.stack([V * np.exp(-s * w) @ V.T for s in t])
    P = sm.Separated([heat] * 3, t * math.log(t[1] / t[0]))
    plain, fit = (sm.als_solve(A, F, tol=1e-3, preconditioner=X) for X in (None, P))
    assert fit.converged and fit.relative_error <= 1e-3 and fit.iterations < plain.iterations
    again = sm.als_solve(A, F, tol=1e-3, start=fit.matrix)
    assert again.converged and again.iterations < 30 and again.matrix.terms <= fit.matrix.terms


@pytest.mark.parametrize("cap", [1.0, 1.2, 5.0])
def test_als_solve_keeps_the_cap(cap, rng):
    """W, of border rank 2: without a cap κ grows, with one it stays below."""
    a, b = np.eye(3)[:, :1], np.eye(3)[:, 1:2]
    W = sm.Separated([np.stack([b if i == l else a for l in range(3)]) for i in range(3)])
    A = near_identity(np, rng, "float64", (3, 3, 3))
    fit = sm.als_solve(A, A @ W, rank=2, max_condition=cap)
    assert fit.condition_number <= cap
    consistent(fit, error(dense(A @ fit.matrix), dense(A @ W)), 1.0)


def test_als_solve_more_terms_less_error():
    A, F = laplacian(6, 6, 6, 6), sm.Separated([np.ones((1, 6, 1))] * 4)
    errors = [sm.als_solve(A, F, rank=r).relative_error for r in (1, 2, 4)]
    assert errors[0] > 3 * errors[1] > 9 * errors[2]


def test_als_solve_data_in_single_precision(rng):
    A = near_identity(np, rng, "float32", (4, 3, 2))
    X = sm.Separated([drawn(rng, "float32", 2, n, 1) for n in (4, 3, 2)])
    fit = sm.als_solve(A, A @ X, tol=1e-5)
    assert dtype_of(fit.matrix) == "float32"
    wide = sm.Separated(fit.matrix.factors, fit.matrix.scales).astype("float64")
    consistent(fit, error(dense(A.astype("float64") @ wide), dense((A @ X).astype("float64"))), 1e-5)


def test_als_solve_range():
    A, F = laplacian(3, 4, 2) * 1e150, sm.Separated([np.ones((1, n, 1)) for n in (3, 4, 2)]) * 1e-120
    fit = sm.als_solve(A, F, tol=1e-8)
    assert fit.relative_error <= 1e-8 and math.isfinite(fit.condition_number)


def test_als_solve_trivial():
    A, F = laplacian(3, 2), sm.Separated([np.ones((1, n, 1)) for n in (3, 2)])
    fit = sm.als_solve(A, 0.0 * F, rank=2)
    assert fit.matrix.terms == 0 and fit.relative_error == 0 and fit.condition_number == 1
    empty = sm.als_solve(sm.Separated([np.ones((1, 0, 0))] * 2), sm.Separated([np.ones((1, 0, 1))] * 2), tol=1e-6)
    assert empty.matrix.shape == (0, 1) and empty.relative_error == 0


# --- schulz_inverse --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float64", "complex128"])
@pytest.mark.parametrize("d", SIZES)
def test_schulz_inverse(d, dtype, xp, rng):
    A = near_identity(xp, rng, dtype, SIZES[d], terms=1, size=0.2)
    tol = 1e-6 if d < 3 else 1e-2
    fit = sm.schulz_inverse(A, tol)
    D, X = dense(A), dense(fit.matrix)
    eye = np.eye(len(D))
    consistent(fit, error(D @ X, eye), tol)
    # B26 with the tolerance of the residual: X − A⁻¹ = A⁻¹ (A X − I)
    assert np.linalg.norm(X - np.linalg.inv(D)) <= tol * np.linalg.norm(np.linalg.inv(D), 2) * math.sqrt(len(D))
    assert dtype_of(fit.matrix) == dtype and library(fit.matrix.factors[0]) == library(A.factors[0])


@pytest.mark.parametrize("d", [1, 2])
def test_schulz_steps(d):
    """ρ^(2^k) with ρ = (c − 1)/(c + 1): 8 steps to 1e-6 and 9 to 1e-12 for cond 32, whatever the number of factors."""
    A = laplacian(*[8] * d)
    w = np.linalg.eigvalsh(second_difference(8)) * d
    for tol, steps in ((1e-6, 8), (1e-12, 9)):
        assert sm.schulz_inverse(A, tol, start=2 / (w[0] + w[-1])).iterations <= steps
        bound = math.ceil(2 * math.log2(w[-1] / w[0])) + 8  # B18
        assert sm.schulz_inverse(A, tol).iterations <= bound


def test_schulz_at_stagnation(rng):
    """B18: ‖I − A X‖_F <= 10 n u κ₂(A), where the last steps are steps of round-off."""
    A = sm.Separated([drawn(rng, "float64", 1, 12, 12)])
    condition = np.linalg.cond(dense(A))
    fit = sm.schulz_inverse(A, tol=10 * 12 * U * condition / math.sqrt(12))
    check(
        np.linalg.norm(np.eye(12) - dense(A @ fit.matrix)),
        condition,
        BOUNDS["B18"](12),
        "float64",
        "B18 Schulz inverse",
    )


def test_schulz_squares_the_residual(rng):
    """I − A X_{k+1} = (I − A X_k)² without truncation, in separated form."""
    A = near_identity(np, rng, "float64", (3, 4))
    I = sm.Separated([np.eye(3)[None], np.eye(4)[None]])
    X = 0.9 * I
    E = I - A @ X
    Y = X + X @ E
    check(error(dense(I - A @ Y), dense(E @ E)), 1.0, LIMITS["id 37"](), "float64", "id 37 Schulz step")


def test_schulz_start(rng):
    A = laplacian(4, 3, 3)
    first = sm.schulz_inverse(A, tol=1e-2)
    fit = sm.schulz_inverse(A, tol=1e-4, start=first.matrix, max_condition=2.0)
    assert fit.converged and fit.iterations <= 2 and fit.condition_number <= 2
    for start in (1.0, 0.2):  # 1 − λ_max = −9.4 and 1 − 0.2 λ_max = −1.09
        with pytest.raises(sm.ArgumentError, match=r"start: ‖I − A X.* (= [1-9]|grew to).*; expected ‖I − A X_0‖ < 1"):
            sm.schulz_inverse(A, tol=1e-4, start=start)


def test_schulz_range():
    for scale in (1e150, 1e-150):
        fit = sm.schulz_inverse(sm.KroneckerSum(second_difference(3), second_difference(2)) * scale, tol=1e-8)
        assert fit.relative_error <= 1e-8 and np.all(np.isfinite(fit.matrix.scales))


# --- sign ------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("sizes", "shift", "tol"), [((6,), 1.7, 1e-10), ((4, 3), 3.9, 1e-8), ((3, 2, 3), 5.2, 1e-3)])
def test_sign(sizes, shift, tol, xp):
    A = laplacian(*sizes).map(lambda a: xp.asarray(a, copy=True))
    fit = sm.sign(A, tol, shift=shift)
    w, V = np.linalg.eigh(dense(A) - shift * np.eye(A.shape[0]))
    exact, S, gap = V * np.sign(w) @ V.T, dense(fit.matrix), np.min(np.abs(w))
    assert fit.converged and fit.relative_error <= tol
    # S = sign up to (I − S²) / 2 on the blocks that commute with A, and ‖A S − S A‖ / gap on the others
    assert error(S, exact) <= tol * (1 + np.max(np.abs(w)) / gap)
    below = (np.trace(np.eye(len(S))) - np.trace(S)) / 2  # the projector (I − S) / 2
    assert abs(below - np.sum(w < 0)) <= 0.1


def test_sign_complex():
    rng = np.random.default_rng(1)
    H = [X + X.conj().T for X in (drawn(rng, "complex128", n, n) for n in (3, 4))]
    A = sm.KroneckerSum(*H)
    fit = sm.sign(A, 1e-9, shift=0.5)
    exact = scipy.linalg.signm(dense(A) - 0.5 * np.eye(12))
    assert fit.converged and error(dense(fit.matrix), exact) <= 1e-6


def test_sign_without_an_answer():
    """An eigenvalue on the shift, or complex ones: a warning, and no NaN."""
    for A, shift in ((laplacian(3, 2), 3.0), (sm.KroneckerSum(np.array([[0, 1.0], [-1, 0]]), np.zeros((2, 2))), 0.0)):
        with pytest.warns(sm.ConvergenceWarning, match="sign: not converged after") as caught:
            fit = sm.sign(A, 1e-6, shift=shift)
        assert len(caught) == 1 and not fit.converged and fit.relative_error > 1e-6
        assert np.all(np.isfinite(dense(fit.matrix)))


def test_sign_of_what_is_definite_needs_no_step():
    """Every term is, or outweighs the others: found from the eigenvalues of the factors, for any number of factors."""
    for A, shift, expected in (
        (sm.laplacian(10, 6), 0.0, 1),
        (laplacian(5, 4, 3), 13.0, -1),
        (laplacian(4, 3), 0.5, 1),
    ):
        fit = sm.sign(A, 1e-6, shift=shift)
        I = sm.Separated([np.eye(m)[None] for m, _ in fit.matrix.shapes])
        assert fit.converged and fit.iterations == 0 and relative_distance(expected * I, fit.matrix) <= 1e-14
    F = np.array([[1.0, 0.5], [0.0, 1.0]])  # not Hermitian: the eigenvalues of its Hermitian part say nothing
    assert sm.sign(sm.KroneckerSum(F, F), 1e-6).iterations > 0


def test_sign_ends_where_terms_grow(capsys):
    with pytest.warns(sm.ConvergenceWarning, match=r"sign: .* more than 12 terms: try a shift in a wider gap"):
        fit = sm.sign(laplacian(*[4] * 10), 1e-5, shift=17.05, progress=True)
    assert not fit.converged and 0 < fit.iterations <= 4 and np.isfinite(fit.relative_error)
    shown = capsys.readouterr().err
    assert "sign" in shown and f"{fit.iterations}step" in shown and "terms=" in shown


def test_many_terms_are_reduced_to_round_off():
    """Beyond 256 columns too, where Gram matrices used to keep half of the digits."""
    A = laplacian(5, 4, 3)
    S = functools.reduce(lambda X, Y: X @ Y, [A] * 6)
    assert S.terms == 729
    X = Reducer("test", None, math.inf, np.random.default_rng(0))(S, 1e-12)
    assert X.terms < 40 and relative_distance(S, X) <= 1e-12


# --- expm ------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float64", "complex128"])
@pytest.mark.parametrize("d", SIZES)
def test_expm_of_a_kronecker_sum(d, dtype, xp, rng):
    factors = [drawn(rng, dtype, n, n) for n in SIZES[d]]
    A = sm.KroneckerSum(*(xp.asarray(F) for F in factors))
    fit = sm.expm(A, tol=1e-10)
    assert fit.matrix.terms == 1 and fit.condition_number == pytest.approx(1) and dtype_of(fit.matrix) == dtype
    exact = functools.reduce(np.kron, map(exponential, factors))
    condition = sum(scipy.linalg.expm_cond(F) for F in factors)
    check(error(dense(fit.matrix), exact), A.shape[0] * condition, LIMITS["id 12"](), "float64", "id 12 expm")
    assert fit.relative_error <= 1e-10 and library(fit.matrix.factors[0]) == library(A.arrays()[0])


def test_expm_of_a_kronecker_sum_without_oracle():
    """exp(A)² = exp(2A) for N = 6^12, and terms given in pieces: c I, several of one factor."""
    A = laplacian(*[6] * 12) * -0.1
    half, whole = sm.expm(A, tol=1e-10).matrix, sm.expm(A + A, tol=1e-10).matrix
    assert relative_distance(whole, half @ half) < 1e-13
    I = sm.Separated([np.eye(6)[None]] * 12)
    assert relative_distance(math.e * whole, sm.expm(A + I + A, tol=1e-10).matrix) < 1e-13


def test_expm_range():
    """exp of a stiff matrix: no factor overflows on the way to a result in range; beyond it, infinity."""
    A = laplacian(5, 4)
    fit = sm.expm(-1000.0 * A, tol=1e-8)
    smallest = np.linalg.eigvalsh(dense(A))[0]
    assert np.linalg.norm(dense(fit.matrix)) == pytest.approx(math.exp(-1000 * smallest), rel=1e-8)
    assert np.isinf(np.max(dense(sm.expm(1000.0 * A, tol=1e-8).matrix)))


@pytest.mark.parametrize(("sizes", "strength", "tol"), [((4, 3), 1.0, 1e-8), ((2, 3, 2), 0.1, 1e-2)])
def test_expm_scaling_and_squaring(sizes, strength, tol, xp):
    A = (coupled(*sizes, strength=strength) * -1.0).map(lambda a: xp.asarray(a, copy=True))
    fit = sm.expm(A, tol)
    assert fit.converged and error(dense(fit.matrix), scipy.linalg.expm(dense(A))) <= fit.relative_error <= tol
    assert math.isfinite(fit.condition_number) and fit.iterations > 0


def test_expm_of_four_factors():
    A = coupled(2, 2, 2, 2, strength=0.1) * -1.0
    fit = sm.expm(A, 1e-2)
    assert fit.converged and error(dense(fit.matrix), scipy.linalg.expm(dense(A))) <= fit.relative_error <= 1e-2


def test_expm_complex(rng):
    """A rotation: unitary, from a skew-Hermitian matrix with coupling, and far from the origin."""
    H = coupled(3, 4, strength=1.0).astype("complex128")
    fit = sm.expm(H * 1j, tol=1e-9)
    U_ = dense(fit.matrix)
    assert error(U_, scipy.linalg.expm(1j * dense(H))) <= 1e-9
    I = sm.Separated([np.eye(3)[None], np.eye(4)[None]])
    shifted = sm.expm(H * 1j + (-300 + 2j) * I, tol=1e-9)
    assert error(dense(shifted.matrix) * math.exp(300), np.exp(2j) * U_) <= 2e-9


# --- eigenpairs --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("sizes", "tol"), [((6,), 1e-8), ((4, 3), 1e-5), ((3, 2, 3), 1e-2)])
def test_eigenpairs_of_a_symmetric_matrix(sizes, tol, xp):
    A = coupled(*sizes, strength=0.7)
    peak = sm.convert(sm.Kronecker(*(3 * np.ones((n, n)) / n for n in sizes)), sm.Separated)  # a largest one by itself
    A, B = (X.map(lambda a: xp.asarray(a, copy=True)) for X in (A, A + peak @ peak))
    w, v = (np.linalg.eigvalsh(dense(X)) for X in (A, B))
    shift = w[2] + 0.1 * (w[1] - w[2])
    for pair, M, target in (
        (sm.power_iteration(B, tol=tol), B, v[-1]),
        (sm.inverse_iteration(A, tol=tol), A, w[0]),
        (sm.inverse_iteration(A, tol=tol, shift=shift), A, w[2]),
    ):
        x, D = dense(pair.vector)[:, 0], dense(M)
        true = np.linalg.norm(D @ x - pair.value * x) / np.linalg.norm(D @ x)
        assert pair.converged and abs(pair.residual - true) <= 1e-2 * true + 1e3 * U and pair.residual <= tol
        assert abs(np.linalg.norm(x) - 1) < 1e-12 and isinstance(pair.value, float)
        # an eigenvalue of a normal matrix lies within the residual, to first order; the Rayleigh quotient is better
        assert abs(pair.value - target) <= 2 * pair.residual * abs(pair.value)
        assert library(pair.vector.factors[0]) == library(M.factors[0])


def test_eigenpairs_of_ten_factors():
    """N = 8^10, the ground state of the Laplacian: 10 · 4 sin²(π/18), one term."""
    A = laplacian(*[8] * 10)
    pair = sm.inverse_iteration(A, tol=1e-2)
    assert pair.converged and pair.value == pytest.approx(40 * math.sin(math.pi / 18) ** 2, rel=1e-3)


def test_eigenpairs_complex():
    rng = np.random.default_rng(3)
    Q = np.linalg.qr(drawn(rng, "complex128", 4, 4))[0]
    N = Q * np.array([4, 2 + 1j, 1, 0.5j]) @ Q.conj().T  # normal, not Hermitian
    A = sm.KroneckerSum(N, np.diag([1.0 + 2j, 0.3]))
    pair = sm.power_iteration(A, tol=1e-9)
    assert pair.value == pytest.approx(5 + 2j, rel=1e-8) and dtype_of(pair.vector) == "complex128"
    pair = sm.inverse_iteration(A, tol=1e-9, shift=4.0)
    assert pair.value == pytest.approx(4.3, rel=1e-8)


def test_inverse_iteration_with_an_inexact_inverse():
    """P is wrong by a per cent or so; the eigenpair is right."""
    A = coupled(3, 2, 3, strength=0.7)
    P = sm.schulz_inverse(A, tol=3e-2).matrix
    pair = sm.inverse_iteration(A, tol=1e-3, preconditioner=P)
    assert pair.converged and pair.value == pytest.approx(np.linalg.eigvalsh(dense(A))[0], rel=1e-5)


def test_eigenpairs_of_few_terms():
    A = coupled(4, 4, strength=0.7)
    w = np.linalg.eigvalsh(dense(A))
    pair = sm.inverse_iteration(A, rank=1, max_condition=1.0)
    assert pair.vector.terms == 1 and pair.converged
    assert w[0] <= pair.value <= w[0] * 1.05  # a Rayleigh quotient is an upper bound
    start = sm.Separated([pair.vector.factors[0], pair.vector.factors[1]])
    assert sm.power_iteration(A, tol=1e-6, start=start).value == pytest.approx(w[-1])
    with pytest.warns(sm.ConvergenceWarning, match="power_iteration: not converged after"):
        pair = sm.power_iteration(sm.KroneckerSum(np.array([[0, 1.0], [-1, 0]]), np.zeros((2, 2))), tol=1e-6)
    assert not pair.converged and np.all(np.isfinite(dense(pair.vector)))


@pytest.mark.parametrize("cap", [1.0, 1.5])
def test_every_result_keeps_the_cap(cap):
    A, H = laplacian(3, 2, 3), coupled(2, 2, 3, strength=0.3)
    results = (
        sm.schulz_inverse(A, 1e-2, max_condition=cap),
        sm.sign(A, 1e-2, shift=5.2, max_condition=cap),
        sm.expm(H * -1.0, 1e-2, max_condition=cap),
        sm.power_iteration(A @ A, tol=0.1, max_condition=cap),
        sm.inverse_iteration(
            H, tol=1e-2, max_condition=cap, start=sm.Separated([np.ones((3, n, 1)) for n in (2, 2, 3)])
        ),
    )
    assert all(found.condition_number <= cap for found in results)


# --- bad input ---------------------------------------------------------------------------------------------------------------------

A = laplacian(3, 4)
B = sm.Separated([np.ones((1, 3, 1)), np.ones((1, 4, 1))])
NAN = sm.Separated([np.full((1, 3, 3), np.nan), np.ones((1, 4, 4))])
ZERO = A * 0.0
WIDE = sm.Separated([np.ones((1, 2, 3)), np.ones((1, 3, 2))])
EMPTY = sm.Separated([np.ones((1, 0, 0)), np.ones((1, 3, 3))])
BAD = {
    "als_solve: F: 3×1 ⊗ 4×1; expected factors of 2, 3 rows": lambda: sm.als_solve(WIDE, B, rank=1),
    "als_solve: F: a ndarray;": lambda: sm.als_solve(A, np.ones(12), rank=1),
    "als_solve: rank | tol: 0 given;": lambda: sm.als_solve(A, B),
    "als_solve: rank: 4 > 3 possible;": lambda: sm.als_solve(A, B, rank=4),
    "als_solve: tol: 2.0;": lambda: sm.als_solve(A, B, tol=2.0),
    "als_solve: max_condition: 0.5;": lambda: sm.als_solve(A, B, rank=1, max_condition=0.5),
    "als_solve: start: 3×3 ⊗ 4×4; expected 3×1 ⊗ 4×1": lambda: sm.als_solve(A, B, rank=1, start=A),
    "als_solve: preconditioner: 3×1 ⊗ 4×1;": lambda: sm.als_solve(A, B, rank=1, preconditioner=B),
    "als_solve: A: Separated((3×3 ⊗ 4×4) × 2 terms) is zero;": lambda: sm.als_solve(ZERO, B, rank=1),
    "als_solve: A.factors[0]: 9 non-finite entries,": lambda: sm.als_solve(NAN, B, rank=1),
    "als_solve: seed: a str;": lambda: sm.als_solve(A, B, rank=1, seed="0"),
    "schulz_inverse: A: Separated((3×3 ⊗ 4×4) × 2 terms) is zero;": lambda: sm.schulz_inverse(ZERO, 1e-6),
    "schulz_inverse: A.factors[0]: 2×3; expected a square factor": lambda: sm.schulz_inverse(WIDE, 1e-6),
    "schulz_inverse: A: 12×1; expected a square matrix": lambda: sm.schulz_inverse(B, 1e-6),
    "schulz_inverse: start: -1;": lambda: sm.schulz_inverse(A, 1e-6, start=-1),
    "schulz_inverse: start: 3×1 ⊗ 4×1;": lambda: sm.schulz_inverse(A, 1e-6, start=B),
    "sign: A: Separated((3×3 ⊗ 4×4) × 2 terms) is zero;": lambda: sm.sign(ZERO, 1e-6),
    "sign: A.factors[0]: 9 non-finite entries,": lambda: sm.sign(NAN, 1e-6),
    "expm: A.factors[0]: 2×3;": lambda: sm.expm(WIDE, 1e-6),
    "expm: tol: 0.0;": lambda: sm.expm(A, 0.0),
    "power_iteration: rank | tol: 2 given;": lambda: sm.power_iteration(A, rank=1, tol=1e-3),
    "power_iteration: A: 0×0;": lambda: sm.power_iteration(EMPTY, tol=1e-3),
    "power_iteration: start: 3×3 ⊗ 4×4;": lambda: sm.power_iteration(A, tol=1e-3, start=A),
    "inverse_iteration: A.factors[0]: 2×3;": lambda: sm.inverse_iteration(WIDE, tol=1e-3),
    "inverse_iteration: preconditioner: 3×1 ⊗ 4×1;": lambda: sm.inverse_iteration(A, tol=1e-3, preconditioner=B),
}


@pytest.mark.parametrize("message", BAD)
def test_bad_input(message):
    with pytest.raises(sm.SepmatError, match="^" + re.escape(message)) as caught:
        BAD[message]()
    assert len(caught.value.args) == 5 and isinstance(caught.value, (ValueError, TypeError))
    if "is zero" in message:
        assert isinstance(caught.value, sm.SingularMatrixError)


def test_no_solution_is_said_once():
    """Singular matrices: one warning, the true error, finite numbers."""
    S = sm.KroneckerSum(np.diag([1.0, 0.0]), np.diag([1.0, 0.0]))
    F = sm.Separated([np.ones((1, 2, 1))] * 2)
    for call in (lambda: sm.als_solve(S, F, tol=1e-6), lambda: sm.schulz_inverse(S, 1e-6)):
        with pytest.warns(sm.ConvergenceWarning, match="not converged after") as caught:
            fit = call()
        assert len(caught) == 1 and not fit.converged
        assert fit.relative_error == pytest.approx(0.5) and np.all(np.isfinite(dense(fit.matrix)))


def test_functions_of_nothing():
    for fit in (sm.schulz_inverse(EMPTY, 1e-6), sm.sign(EMPTY, 1e-6), sm.expm(EMPTY, 1e-6)):
        assert fit.matrix.shape == (0, 0) and fit.relative_error == 0 and fit.converged


def test_single_precision_stays_single():
    S = laplacian(3, 2).astype("float32")
    fits = (sm.schulz_inverse(S, 1e-5), sm.sign(S, 1e-5, shift=1.3), sm.expm(S, 1e-5))
    assert all(dtype_of(fit.matrix) == "float32" and fit.converged for fit in fits)
    assert dtype_of(sm.power_iteration(S, tol=1e-5).vector) == "float32"
