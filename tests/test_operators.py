"""Operators of the literature against dense oracles for few variables, and against their theory for many."""

import functools
import itertools
import math
import re
import warnings

import numpy as np
import pytest
from conftest import check, dtype_of, host, library
from limits import LIMITS

import sepmat as sm
from sepmat.symmetric_powers import power_sum

U = 2.0**-53


def kron(matrices):
    return functools.reduce(np.kron, matrices)


def tridiagonal(n):
    return 2 * np.eye(n) - np.eye(n, k=1) - np.eye(n, k=-1)


def dense_sum(F, d):
    """Σ_i I ⊗ … ⊗ F ⊗ … ⊗ I."""
    n = F.shape[0]
    return sum(kron([F if j == i else np.eye(n) for j in range(d)]) for i in range(d))


def finite_differences(n, d, q, h):
    """Σ_j w_j Π (I + j h V) / h, j = ±1 … ±q: the coefficient of h in Π (I + hV) but for O(h^2q)."""
    moments = np.array([[2.0 * j ** (2 * i - 1) for j in range(1, q + 1)] for i in range(1, q + 1)])
    w = np.linalg.solve(moments, np.eye(q)[0])
    factor = np.stack([np.eye(n) + s * j * h * tridiagonal(n) for s in (1, -1) for j in range(1, q + 1)])
    return sm.Separated([factor] * d, np.concatenate([w, -w]) / h)


def relative(A, B):
    return float(sm.distance(A, B)) / float(sm.norm(A))


# --- the Laplacian ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "d"), [(1, 1), (1, 3), (2, 4), (3, 3), (5, 2), (7, 1), (2, 5)])
def test_laplacian_is_exact_with_d_terms(n, d, xp):
    L = sm.laplacian(n, d, like=xp.zeros(1, dtype=xp.float64))
    assert L.terms == d and L.shapes == ((n, n),) * d and library(L.factors[0]) == library(xp.zeros(1))
    assert np.array_equal(host(L.to_dense()), dense_sum(tridiagonal(n), d))
    assert sm.laplacian(n, d, terms=d + 3).terms == d


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_laplacian_in_few_terms_on_every_backend(dtype, xp):
    L = sm.laplacian(3, 4, terms=2, max_condition=8, like=xp.zeros(1, dtype=getattr(xp, dtype)))
    assert dtype_of(L.factors[0]) == dtype and library(L.factors[0]) == library(xp.zeros(1))
    assert L.terms == 2 and L.condition_number <= 8
    expected = host(sm.laplacian(3, 4, terms=2, max_condition=8).to_dense())
    check(np.linalg.norm(host(L.to_dense()) - expected), np.linalg.norm(expected), 2e4, dtype)


@pytest.mark.parametrize(("n", "d", "terms"), [(2, 3, 1), (3, 3, 2), (4, 4, 3), (5, 3, 2), (2, 5, 4), (3, 2, 1)])
def test_error_of_few_terms_is_the_one_of_the_dense_matrices(n, d, terms):
    A = dense_sum(tridiagonal(n), d)
    fit = sm.laplacian(n, d, terms, max_condition=20)
    target = [2.0 * d, math.sqrt(d * (2 * n - 2) / n), *[0.0] * (d - 1)]
    found = power_sum(target, terms, 20.0, U)
    error = np.linalg.norm(fit.to_dense() - A) / np.linalg.norm(A)
    assert error == pytest.approx(found.error, rel=1e-3) and fit.condition_number == pytest.approx(
        found.condition_number, rel=1e-3
    )


# papers: err κ^(2q) of the finite differences, V = tridiag(−1, 2, −1), n = 8
DIFFERENCES = {
    1: {3: 0.026, 6: 0.056, 10: 0.067, 20: 0.076, 50: 0.080, 100: 0.082},
    2: {6: 0.0045, 10: 0.012, 20: 0.019, 50: 0.024, 100: 0.026},
}


@pytest.mark.parametrize("q", [1, 2])
@pytest.mark.parametrize("d", [3, 6, 10, 20])
def test_finite_differences_have_the_published_constant(d, q):
    if d not in DIFFERENCES[q]:
        pytest.skip("exact with 4 terms")
    F = finite_differences(8, d, q, 0.003 / d if q == 1 else 0.01 / d)
    kappa, error = F.condition_number, relative(sm.laplacian(8, d), F)
    digits = 0.0005 if DIFFERENCES[q][d] > 0.01 else 0.00005
    assert error * kappa ** (2 * q) == pytest.approx(DIFFERENCES[q][d], abs=digits)


@pytest.mark.parametrize(("d", "terms", "gain"), [(3, 2, 5), (10, 2, 40), (20, 2, 100), (10, 4, 150), (20, 4, 800)])
@pytest.mark.parametrize("cap", [8.4, 100.0])
def test_best_powers_are_better_than_finite_differences(d, terms, gain, cap):
    A = sm.laplacian(8, d, terms, max_condition=cap)
    kappa = A.condition_number
    assert 0.9 * cap < kappa <= cap
    differences = DIFFERENCES[terms // 2][d] / kappa**terms
    assert relative(sm.laplacian(8, d), A) * gain <= max(differences, gain * 20 * d * U * kappa)


def test_many_dimensions_and_large_grids():
    A = sm.laplacian(64, 100, terms=2, max_condition=10)
    L = sm.laplacian(64, 100)
    assert A.condition_number <= 10 and A.num_parameters == 100 * 2 * 64 * 64 + 2
    i = [3] * 100
    at = int("".join(["3"] * 100), 8)  # any entry of the diagonal is 200
    A8 = sm.laplacian(8, 100, terms=2, max_condition=10)
    assert L.shape == (64**100, 64**100) and len(i) == 100
    assert float(A8[at, at]) == pytest.approx(200.0, rel=1e-4)


@pytest.mark.parametrize("cap", [1, 1.2, 30])
@pytest.mark.parametrize(("d", "terms"), [(3, 2), (10, 3), (40, 2)])
def test_condition_number_is_capped(d, terms, cap):
    assert sm.laplacian(4, d, terms, max_condition=cap).condition_number <= cap * (1 + 1e-12)
    assert sm.laplacian(4, d, terms, max_condition=cap, like=np.zeros(1, "float32")).condition_number <= cap * (
        1 + 1e-6
    )


@pytest.mark.parametrize(
    ("d", "terms", "error", "kappa"), [(4, 3, 8.5e-5, 2.46), (10, 2, 9.5e-4, 1.56), (10, 4, 6.9e-5, 1.54)]
)
def test_no_worse_than_penalised_alternating_least_squares(d, terms, error, kappa):
    A = sm.laplacian(8, d, terms, max_condition=kappa)
    assert relative(sm.laplacian(8, d), A) <= 1.02 * error and A.condition_number <= kappa


def test_without_a_cap_error_and_round_off_are_balanced():
    for dtype, u in (("float64", U), ("float32", 2.0**-24)):
        A = sm.laplacian(8, 10, terms=2, like=np.zeros(1, dtype))
        error = relative(sm.laplacian(8, 10), A.astype("float64"))
        assert error <= 20 * u * A.condition_number <= 400 * error


def test_complex_and_single_precision_are_those_of_like():
    for make in (sm.laplacian, functools.partial(sm.laplacian, terms=2, max_condition=9)):
        A = make(3, 3, like=np.zeros(1, "complex64"))
        assert A.dtype == np.complex64
        assert np.allclose(A.to_dense(), make(3, 3).to_dense(), atol=1e-4)
    assert sm.inverse_laplacian(3, 2, terms=2, like=np.zeros(1, "complex128")).dtype == np.complex128
    assert sm.sin_sum(3, 2, like=np.zeros(1, "float32")).dtype == np.float32


def test_laplacian_is_the_same_every_time():
    A, B = (sm.laplacian(5, 7, terms=3, max_condition=5) for _ in range(2))
    assert all(np.array_equal(F, G) for F, G in zip(A.factors, B.factors, strict=True))
    assert A.factors[0] is A.factors[6]  # one array serves all dimensions


# --- sums of powers ---------------------------------------------------------------------------------------------------


def powers(fit, d):
    k = np.arange(d + 1)
    roots = np.sqrt([float(math.comb(d, i)) for i in k])
    c, t = np.array(fit.weights), np.array(fit.angles)
    return c @ (roots * np.cos(t)[:, None] ** (d - k) * np.sin(t)[:, None] ** k)


def test_power_sum_reports_its_error_and_condition_number(rng):
    for d, terms in ((2, 1), (3, 2), (15, 3)):
        target = rng.standard_normal(d + 1) * np.exp(-np.arange(d + 1.0))
        fit = power_sum(target.tolist(), terms, 50.0, U)
        found = powers(fit, d)
        assert np.linalg.norm(found - target) / np.linalg.norm(target) == pytest.approx(fit.error, rel=1e-6)
        kappa = np.linalg.norm(fit.weights) / np.linalg.norm(found)
        assert kappa == pytest.approx(fit.condition_number, rel=1e-6) and kappa <= 50 * (1 + 1e-9)


def test_border_rank_two_follows_the_theory():
    """b ⊗ a ⊗ … + … of unit orthogonal a, b: err κ² → √((d−1)(d−2)/6) / (2d)."""
    for d in (3, 4, 10, 30):
        constant = math.sqrt((d - 1) * (d - 2) / 6) / (2 * d)
        for cap in (30.0, 300.0):
            fit = power_sum([0.0, 1.0, *[0.0] * (d - 1)], 2, cap, U)
            assert fit.error * fit.condition_number**2 == pytest.approx(constant, rel=0.01)


def test_power_sum_of_one_power_and_of_nothing():
    assert power_sum([3.0, 0.0, 0.0], 4, 10.0, U) == ([3.0], [0.0], 0.0, 1.0)
    assert power_sum([0.0, 0.0], 1, 10.0, U).weights == [0.0]


# --- exponential sums -------------------------------------------------------------------------------------------------

BEST = {  # found by Levenberg-Marquardt and Lawson weights, which stalls near 1e-7: upper bounds to two digits
    10: [8.6e-2, 8.8e-3, 7.2e-4, 5.6e-5, 4.2e-6, 3.2e-7],
    100: [8.7e-2, 2.0e-2, 5.0e-3, 1.1e-3, 2.3e-4, 4.8e-5, 1.0e-5, 2.4e-6, 4.8e-7, 9.8e-8],
    1000: [8.6e-2, 1.9e-2, 5.9e-3, 1.9e-3, 7.5e-4, 2.5e-4, 8.1e-5, 2.6e-5, 7.7e-6, 2.8e-6],
    10000: [8.6e-2, 1.9e-2, 5.8e-3, 2.0e-3, 7.7e-4, 3.0e-4, 1.3e-4, 6.1e-5, 2.6e-5, 1.1e-5],
}
HALF_LINE = [8.556e-2, 1.785e-2, 5.05e-3, 1.70e-3, 6.43e-4, 2.65e-4, 1.16e-4, 5.39e-5, 2.61e-5, 1.31e-5]


def errors(s, R, power=1.0, relative=False, points=20001):
    x = np.geomspace(1, R, points)
    e = x**-power - np.exp(-np.outer(x, s.exponents)) @ s.weights
    return e * x**power if relative else e


@pytest.mark.parametrize("R", list(BEST))
def test_exponential_sums_meet_or_beat_the_table(R):
    for k, bound in enumerate(BEST[R], 1):
        s = sm.exponential_sum(R, terms=k)
        assert len(s.weights) == k and s.error <= bound * 1.012  # the table has two digits
        assert np.max(np.abs(errors(s, R))) == pytest.approx(s.error, rel=1e-3)


def test_exponential_sums_on_the_half_line():
    found = [sm.exponential_sum(1e12, terms=k).error for k in range(1, 11)]
    assert found == pytest.approx(HALF_LINE, rel=0.003)


@pytest.mark.parametrize(("power", "relative"), [(1.0, False), (1.0, True), (0.5, True), (3.0, False), (0.1, False)])
@pytest.mark.parametrize("R", [1.3, 7.0, 32.2, 1e4])
def test_errors_alternate_at_one_size(R, power, relative):
    """2k + 1 extrema of one size and alternating signs: no other sum with k terms is better (Braess)."""
    for k in (1, 2, 4):
        s = sm.exponential_sum(R, terms=k, power=power, relative=relative)
        if s.error < 1e-10:
            continue  # rounding errors of this test would alternate as well
        e = errors(s, R, power, relative)
        lobes = np.split(e, np.flatnonzero(np.sign(e[1:]) != np.sign(e[:-1])) + 1)
        sizes = [np.max(np.abs(lobe)) for lobe in lobes]
        assert len(sizes) == 2 * k + 1 and max(sizes) <= min(sizes) * 1.002 and min(s.weights) > 0


@pytest.mark.parametrize("R", [2, 10, 100, 1e5])
def test_tolerance_gives_the_fewest_terms(R):
    for tol in (1e-2, 1e-5, 1e-8, 1e-10):
        s = sm.exponential_sum(R, tol=tol)
        assert np.max(np.abs(errors(s, R))) <= tol * (1 + 1e-6)
        if len(s.weights) > 1:
            assert sm.exponential_sum(R, terms=len(s.weights) - 1).error > tol


def test_the_last_digits():
    s = sm.exponential_sum(32.2, terms=40)  # more than double precision can use
    assert len(s.weights) < 20 and np.max(np.abs(errors(s, 32.2))) < 1e-11
    with pytest.warns(sm.PrecisionWarning, match="tol: 1.0e-15 is below what double precision gives"):
        assert sm.exponential_sum(32.2, tol=1e-15).error < 1e-11


def test_an_interval_that_is_a_point():
    w, t, error = sm.exponential_sum(1, terms=2, power=3.0)
    assert float(w[0] * math.exp(-t[0])) == pytest.approx(1.0) and error == 0.0


def test_exponential_sum_on_every_backend(xp):
    s = sm.exponential_sum(50, terms=4, like=xp.zeros(1, dtype=xp.float32))
    assert dtype_of(s.weights) == dtype_of(s.exponents) == "float32" and library(s.weights) == library(xp.zeros(1))
    assert np.allclose(host(s.weights), sm.exponential_sum(50, terms=4).weights, rtol=1e-6)


# --- the inverse Laplacian --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "d"), [(1, 1), (1, 4), (2, 3), (3, 4), (4, 2), (9, 1), (2, 5)])
def test_inverse_laplacian_against_the_dense_inverse(n, d, xp):
    like = xp.zeros(1, dtype=xp.float64)
    exact = np.linalg.inv(dense_sum(tridiagonal(n), d))
    ratio = (1 / math.tan(math.pi / (2 * n + 2))) ** 2
    for terms in (1, 3, 5):
        X = sm.inverse_laplacian(n, d, terms=terms, like=like)
        error = np.linalg.norm(host(X.to_dense()) - exact, 2) / np.linalg.norm(exact, 2)
        bound = sm.exponential_sum(max(ratio, 1.0), terms=terms).error
        assert error <= bound * 1.001 + 1e-13 and X.condition_number <= 1.0 + 1e-12
        Y = sm.inverse_laplacian(n, d, terms=terms, relative=True, like=like)
        residual = np.linalg.norm(dense_sum(tridiagonal(n), d) @ host(Y.to_dense()) - np.eye(n**d), 2)
        assert residual <= sm.exponential_sum(max(ratio, 1.0), terms=terms, relative=True).error * 1.001 + 1e-13


# ‖A X − I‖_F / ‖I‖ and κ for n = 8
RESIDUALS = {2: {2: (2.3e-1, 0.82), 4: (5.3e-3, 0.62), 6: (1.2e-4, 0.53)}, 6: {4: (5.0e-3, 0.83), 6: (1.1e-4, 0.71)}}


@pytest.mark.parametrize("d", list(RESIDUALS))
def test_inverse_laplacian_has_the_published_residuals(d):
    A, I = sm.laplacian(8, d), sm.Separated([np.eye(8)[None]] * d)
    for k, (residual, kappa) in RESIDUALS[d].items():
        X = sm.inverse_laplacian(8, d, terms=k)
        assert float(sm.norm(A @ X - I) / sm.norm(I)) <= residual * 1.05
        assert X.condition_number == pytest.approx(kappa, abs=0.02)


def spectral_residual(n, d, X):
    """‖A X − I‖_F / ‖I‖ from the eigenvalues: all matrices are functions of V, so each factor is a vector."""
    vectors = np.linalg.eigh(tridiagonal(n))[1]
    values = np.einsum("ij,lik,kj->lj", vectors, host(X.factors[0]), vectors)
    ones, own = np.ones((1, n)), np.linalg.eigvalsh(tridiagonal(n))[None]
    terms = [np.concatenate([own * values if i == j else values for j in range(d)] + [ones]) for i in range(d)]
    R = sm.Separated([T[:, :, None] for T in terms], np.concatenate([host(X.scales)] * d + [[-1.0]]))
    return float(sm.norm(R)) / n ** (d / 2)


def test_inverse_laplacian_in_fifty_dimensions():
    X = sm.inverse_laplacian(8, 50, terms=6)
    assert X.condition_number <= 0.8
    assert spectral_residual(8, 50, X) <= 1.1e-4
    assert spectral_residual(8, 20, sm.inverse_laplacian(8, 20, terms=6, relative=True)) <= 4e-5


def test_tolerance_of_the_inverse():
    exact = np.linalg.inv(dense_sum(tridiagonal(4), 3))
    for tol in (1e-2, 1e-6, 1e-10):
        X = sm.inverse_laplacian(4, 3, tol=tol)
        assert np.linalg.norm(X.to_dense() - exact, 2) <= tol * np.linalg.norm(exact, 2) * (1 + 1e-5)


EPS_RANKS = {8: [3, 4, 6, 7, 8], 16: [3, 5, 7, 10, 11], 32: [4, 5, 9, 12, 15], 64: [4, 6, 11, 15, 18]}


@pytest.mark.parametrize("n", list(EPS_RANKS))
def test_two_factors_the_optimum_is_a_cauchy_matrix(n):
    """The singular values of the rearranged A⁻¹ are those of 1/(l_i + l_j); exponential sums need few terms more."""
    l = np.linalg.eigvalsh(tridiagonal(n))
    s = np.linalg.svd(1 / (l[:, None] + l), compute_uv=False)
    tails = np.sqrt(np.cumsum(s[::-1] ** 2))[::-1] / np.linalg.norm(s)
    assert [int(np.argmax(np.append(tails, 0) <= eps)) for eps in (1e-2, 1e-3, 1e-6, 1e-9, 1e-12)] == EPS_RANKS[n]
    if n == 8:
        inverse = np.linalg.inv(dense_sum(tridiagonal(n), 2))
        values = np.linalg.svd(host(sm.rearrange(inverse, ((n, n), (n, n)))), compute_uv=False)
        assert np.allclose(values[:n], s, rtol=0, atol=1e-13)
        for k in (2, 4, 6):
            error = np.linalg.norm(sm.inverse_laplacian(n, 2, terms=k).to_dense() - inverse) / np.linalg.norm(inverse)
            assert tails[k] <= error <= tails[k // 2]


# --- sin(x_1 + … + x_d) -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "d"), [(1, 1), (8, 1), (2, 2), (5, 2), (4, 3), (3, 4), (3, 5), (8, 5)])
def test_sin_sum_against_the_sine(n, d, xp):
    S = sm.sin_sum(n, d, like=xp.zeros(1, dtype=xp.float64))
    x = 2 * np.pi * (np.arange(n) + 0.5) / n
    exact = np.sin(functools.reduce(np.add.outer, [x] * d)).ravel()
    assert S.terms == d and S.shapes == ((n, 1),) * d
    check(
        np.linalg.norm(host(S.to_dense())[:, 0] - exact),
        np.linalg.norm(exact) + 1e-300,
        LIMITS["id 39"]() * d,
        "float64",
        "id 39 sin_sum",
    )


KAPPA = {
    2: 1,
    3: 1.1547,
    4: 1.4142,
    5: 1.7889,
    6: 2.3094,
    7: 3.0237,
    10: 7.1554,
    15: 33.05,
    20: 161.9,
    30: 4.23e3,
    50: 3.36e6,
}


def test_condition_number_of_sin_sum():
    for d in range(1, 51):
        kappa = sm.sin_sum(8, d).condition_number
        exact = math.sqrt(2.0 ** (d - 1) / d)
        assert kappa == pytest.approx(exact, rel=max(1e-12, 200 * U * exact))
        if d in KAPPA:
            assert kappa == pytest.approx(KAPPA[d], rel=2e-3)


def test_norm_of_sin_sum_in_many_dimensions():
    for d in (10, 20, 30):
        S = sm.sin_sum(16, d)
        check(abs(float(sm.norm(S)) / (16 ** (d / 2) / math.sqrt(2)) - 1), S.condition_number, 20 * d, "float64")


# --- radial kernels ---------------------------------------------------------------------------------------------------


def radii(grids):
    return np.sqrt(functools.reduce(np.add.outer, [np.asarray(x) ** 2 for x in grids])).ravel()


@pytest.mark.parametrize("d", [1, 2, 3, 4])
@pytest.mark.parametrize("power", [1.0, 0.5, 3.0])
def test_radial_kernel_against_the_kernel(d, power, xp):
    grids = [np.linspace(-1, 1, 8), np.linspace(0.01, 1, 5), np.geomspace(0.01, 1, 6), [0.0, 0.3, 2.0]][:d]
    r = radii(grids)
    for tol in (1e-3, 1e-8):
        K = sm.radial_kernel([xp.asarray(x, dtype=xp.float64) for x in grids], power, tol=tol)
        assert K.shape == (len(r), 1) and library(K.factors[0]) == library(xp.zeros(1))
        assert np.max(np.abs(host(K.to_dense())[:, 0] * r**power - 1)) <= tol * (1 + 1e-5)
        A = sm.radial_kernel(grids, power, tol=tol, relative=False)
        assert np.max(np.abs(host(A.to_dense())[:, 0] - r**-power)) <= tol * np.max(r**-power) * (1 + 1e-5)
        assert A.terms <= K.terms and K.condition_number <= 1 + 1e-12


def test_radial_kernel_as_an_operator():
    x = np.linspace(-0.9, 0.9, 4)
    column = sm.radial_kernel([x, x], terms=5).to_dense()[:, 0]
    assert np.allclose(sm.radial_kernel([x, x], terms=5, diagonal=True).to_dense(), np.diag(column), rtol=1e-14)


def test_radial_kernel_in_many_dimensions():
    x = (np.arange(32) + 0.5) / 32
    K = sm.radial_kernel([x] * 40, tol=1e-6)
    for i in (0, 17, 31):
        at = sum(i * 32**k for k in range(40))
        assert float(K[at, 0]) * x[i] * math.sqrt(40) == pytest.approx(1, rel=1e-6)


def test_gaussian_sum_against_the_gaussians(rng, xp):
    for d in (1, 2, 3, 5):
        grids = [rng.standard_normal(k) for k in (3, 2, 4, 1, 2)[:d]]
        w, t = rng.standard_normal(3), rng.uniform(0, 2, 3)
        G = sm.gaussian_sum([xp.asarray(x) for x in grids], xp.asarray(w), xp.asarray(t))
        exact = np.exp(-np.outer(radii(grids) ** 2, t)) @ w
        check(np.abs(host(G.to_dense())[:, 0] - exact), np.sum(np.abs(w)), 30, "float64", "gaussian_sum")


# --- particles --------------------------------------------------------------------------------------------------------


def dense_hamiltonian(x, N, V, W):
    n, h = len(x), x[1] - x[0]
    at = np.array(np.unravel_index(np.arange(n**N), (n,) * N))
    pairs = sum((W[at[i], at[j]] for i, j in itertools.combinations(range(N), 2)), np.zeros(n**N))
    return dense_sum(tridiagonal(n) / (2 * h**2) + np.diag(V), N) + np.diag(pairs)


def repulsion(r):
    return 1 / (r**2 + 1) ** 0.5


@pytest.mark.parametrize("N", [1, 2, 3])
def test_schroedinger_against_the_dense_matrix(N, xp):
    x = np.linspace(-4, 4, 9)
    D = dense_hamiltonian(x, N, x**2 / 2, repulsion(x[:, None] - x))
    H = sm.schroedinger(xp.asarray(x), N, lambda x: 0.5 * x**2, repulsion)
    modes = (H.terms - N) // max(1, N * (N - 1) // 2)
    assert H.shapes == ((9, 9),) * N and modes <= 9 and library(H.factors[0]) == library(xp.zeros(1))
    check(np.linalg.norm(host(H.to_dense()) - D), np.linalg.norm(D), 5e4, "float64")  # tol = 1e-12
    given = sm.schroedinger(xp.asarray(x), N, xp.asarray(x**2 / 2), xp.asarray(repulsion(x[:, None] - x)))
    check(np.linalg.norm(host(given.to_dense()) - D), np.linalg.norm(D), 5e4, "float64")


def test_schroedinger_without_potential_or_interaction():
    x = np.linspace(0, 1, 5)
    D = dense_hamiltonian(x, 3, np.zeros(5), np.zeros((5, 5)))
    assert np.allclose(sm.schroedinger(x, 3).to_dense(), D) and sm.schroedinger(x, 3).terms == 3


@pytest.mark.parametrize(("tol", "cap"), [(1e-2, 10), (1e-3, 100), (1e-6, 1e4)])
def test_schroedinger_in_powers_keeps_its_promises(tol, cap):
    x = np.linspace(-3, 3, 6)
    for N in (2, 3, 6):
        H = sm.schroedinger(x, N, x**2 / 2, lambda r: np.exp(-(r**2) / 2), tol=1e-12)
        P = sm.schroedinger(x, N, x**2 / 2, lambda r: np.exp(-(r**2) / 2), tol=tol, max_condition=cap)
        assert relative(H, P) <= tol and P.condition_number <= cap and P.terms <= H.terms


def test_terms_in_powers_do_not_grow_with_the_particles():
    x = np.linspace(-3, 3, 7)
    few, many = (
        sm.schroedinger(x, N, x**2 / 2, lambda r: np.exp(-(r**2) / 2), tol=1e-4, max_condition=1e3) for N in (8, 30)
    )
    assert many.terms <= few.terms + 8 and many.shape == (7**30, 7**30)


def test_gradients_reach_the_potential():
    torch = pytest.importorskip("torch")
    x = torch.linspace(-1, 1, 4, dtype=torch.float64)
    v = (0.5 * x**2).requires_grad_()

    def entry(v):
        return sm.schroedinger(x, 2, v, repulsion).to_dense().diagonal()

    assert torch.autograd.gradcheck(entry, (v,))
    for w in (repulsion(x[:, None] - x), (x[:, None] - x) ** 2):  # the second one has rank one beside the means
        assert torch.autograd.gradcheck(
            lambda w: sm.schroedinger(x, 2, v.detach(), 0.5 * (w + w.T)).to_dense().diagonal(), (w.requires_grad_(),)
        )
    assert not sm.schroedinger(x, 3, v, repulsion, max_condition=10).factors[0].requires_grad


# --- bad input --------------------------------------------------------------------------------------------------------

X = np.linspace(-1, 1, 5)
BAD = [
    (lambda: sm.laplacian(0, 2), sm.ArgumentError, "laplacian: n: 0"),
    (lambda: sm.laplacian(2.5, 2), sm.DTypeError, "laplacian: n: 2.5"),
    (lambda: sm.laplacian(3, 0), sm.ArgumentError, "laplacian: d: 0"),
    (lambda: sm.laplacian(3, 4, terms=0), sm.ArgumentError, "laplacian: terms: 0"),
    (lambda: sm.laplacian(3, 4, terms=2, max_condition=0.5), sm.ArgumentError, "laplacian: max_condition: 0.5"),
    (lambda: sm.laplacian(3, 1001, terms=2), sm.ArgumentError, "laplacian: d: 1001 > 1000 possible"),
    (lambda: sm.laplacian(3, 4, like="float32"), sm.DTypeError, "laplacian: like"),
    (lambda: sm.inverse_laplacian(3, 4), sm.ArgumentError, "inverse_laplacian: terms | tol: 0 given"),
    (lambda: sm.inverse_laplacian(3, 4, terms=2, tol=0.1), sm.ArgumentError, "inverse_laplacian: terms | tol: 2 given"),
    (lambda: sm.inverse_laplacian(3, 4, tol=2.0), sm.ArgumentError, "tol: 2.0"),
    (lambda: sm.inverse_laplacian(3, 4, terms="2"), sm.DTypeError, "terms: '2'"),
    (lambda: sm.exponential_sum(0.5, terms=2), sm.ArgumentError, "exponential_sum: R: 0.5; expected 1 <= R"),
    (lambda: sm.exponential_sum(math.nan, terms=2), sm.SepmatError, "exponential_sum: R: nan"),
    (lambda: sm.exponential_sum(1e13, terms=2), sm.ArgumentError, "R: 10000000000000.0; expected 1 <= R <= 1e+12"),
    (lambda: sm.exponential_sum("10", terms=2), sm.DTypeError, "exponential_sum: R: '10'"),
    (lambda: sm.exponential_sum(10, terms=2, power=-1), sm.ArgumentError, "exponential_sum: power: -1"),
    (lambda: sm.exponential_sum(50, terms=2, power=1000), sm.ArgumentError, "50 with power 1000"),
    (lambda: sm.sin_sum(0, 3), sm.ArgumentError, "sin_sum: n: 0"),
    (lambda: sm.sin_sum(3, True), sm.DTypeError, "sin_sum: d: True"),
    (lambda: sm.gaussian_sum([], [1.0], [1.0]), sm.ShapeError, "gaussian_sum: grids: empty"),
    (lambda: sm.gaussian_sum(X, [1.0], [1.0]), sm.ShapeError, "gaussian_sum: grids: a ndarray"),
    (lambda: sm.gaussian_sum([X], [1.0, 2.0], [1.0]), sm.ShapeError, "gaussian_sum: exponents: 1 entries"),
    (lambda: sm.gaussian_sum([[1j]], [1.0], [1.0]), sm.ArgumentError, r"grids[0]: complex"),
    (lambda: sm.radial_kernel([X, X], tol=1e-3), sm.ArgumentError, "radial_kernel: grids: 0 in every grid"),
    (lambda: sm.radial_kernel([X + 3, [np.nan]], tol=1e-3), sm.NonFiniteError, r"radial_kernel: grids[1]"),
    (lambda: sm.radial_kernel([X + 3, []], tol=1e-3), sm.ArgumentError, r"grids[1]: no points"),
    (lambda: sm.radial_kernel([X + 3]), sm.ArgumentError, "radial_kernel: terms | tol: 0 given"),
    (lambda: sm.schroedinger([0.0, 1.0, 3.0], 2), sm.ArgumentError, "schroedinger: x: steps that differ"),
    (lambda: sm.schroedinger([0.0], 2), sm.ArgumentError, "schroedinger: x: 1 points"),
    (lambda: sm.schroedinger([1.0, 0.0], 2), sm.ArgumentError, "schroedinger: x: descending"),
    (lambda: sm.schroedinger(X, 0), sm.ArgumentError, "schroedinger: particles: 0"),
    (lambda: sm.schroedinger(X, 2, X[:3]), sm.ShapeError, "schroedinger: potential: shape (3,)"),
    (lambda: sm.schroedinger(X, 2, 1j * X), sm.DTypeError, "schroedinger: potential: complex"),
    (lambda: sm.schroedinger(X, 2, lambda x: x / 0), sm.NonFiniteError, "schroedinger: potential"),
    (lambda: sm.schroedinger(X, 2, X, X), sm.ShapeError, "schroedinger: interaction"),
    (lambda: sm.schroedinger(X, 2, X, lambda r: r), sm.ArgumentError, "schroedinger: interaction: asymmetric"),
    (lambda: sm.schroedinger(X, 2, X, tol=0), sm.ArgumentError, "schroedinger: tol: 0"),
    (lambda: sm.schroedinger(X, 2, X, max_condition=0.1), sm.ArgumentError, "schroedinger: max_condition: 0.1"),
    (lambda: sm.schroedinger(np.linspace(-1, 1, 64), 40, None, repulsion), sm.SizeLimitError, "Set max_condition"),
]


@pytest.mark.parametrize("case", range(len(BAD)))
def test_bad_input(case):
    call, error, text = BAD[case]
    with warnings.catch_warnings(), pytest.raises(error, match=re.escape(text)) as raised:
        warnings.simplefilter("ignore", RuntimeWarning)
        call()
    assert len(raised.value.args) == 5 and str(raised.value).endswith(".") and ".." not in str(raised.value)
