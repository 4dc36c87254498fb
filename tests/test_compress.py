"""Fewer terms: errors against dense arrays, κ against its bound, matrices of every range and every kind of degeneracy.

The numbers of the identities are those of test_identities.py.
"""

import dataclasses
import functools
import itertools
import math
import re
import sys
import warnings

import hypothesis.strategies as st
import numpy as np
import pytest
from conftest import ROUNDOFF, check, dtype_of, host, library, namespace
from hypothesis import given, settings

import sepmat as sm
from sepmat.compress import fewer_terms

U = 2.0**-53
SHAPES = [(2, 3), (3, 2), (2, 2), (1, 2), (2, 1)]
DTYPES = ["float64", "complex128", "float32", "complex64"]


def draw(rng, dtype, *shape):
    x = rng.standard_normal(shape)
    return (x + 1j * rng.standard_normal(shape) if dtype.startswith("complex") else x).astype(dtype)


def random(rng, count, shapes, dtype="float64", xp=None):
    xp = xp or namespace("numpy")
    return sm.Separated([xp.asarray(draw(rng, dtype, count, *s)) for s in shapes])


def columns(A):
    """(scales, [(terms, m_i n_i)]) in extended precision."""
    wide = np.clongdouble if "complex" in dtype_of(A.factors[0]) else np.longdouble
    s = np.ones(A.terms) if A.scales is None else host(A.scales)
    return s.astype(wide), [host(F).reshape(A.terms, F.shape[1] * F.shape[2]).astype(wide) for F in A.factors]


def array(A):
    """The rearranged matrix, one axis a factor, in extended precision."""
    s, factors = columns(A)
    total = np.zeros([F.shape[1] for F in factors], s.dtype)
    for l in range(A.terms):
        total = total + s[l] * functools.reduce(np.multiply.outer, [F[l] for F in factors])
    return total


def norm(x):
    return float(np.sqrt(np.sum(np.abs(x) ** 2)))


def weight(A):
    s, factors = columns(A)
    return float(np.sum(np.abs(s) * np.prod([np.sqrt(np.sum(np.abs(F) ** 2, axis=1)) for F in factors], axis=0)))


def kappa(A):
    s, factors = columns(A)
    sizes = np.abs(s) * np.prod([np.sqrt(np.sum(np.abs(F) ** 2, axis=1)) for F in factors], axis=0)
    return float(np.sqrt(np.sum(sizes**2))) / norm(array(A))


def truth(A, fit):
    """‖A − Â‖ / ‖A‖ with nothing of the library."""
    return norm(array(A) - array(fit.matrix)) / norm(array(A))


def honest(A, fit):
    """The reported error is the true one to 20 d u N, in double precision whatever the data is; the rest is in order."""
    N = (weight(A) + weight(fit.matrix)) / norm(array(A))
    check(abs(fit.relative_error - truth(A, fit)), len(A.factors) * N, 20, "float64", "id 35 reported error")
    assert type(fit.matrix) is sm.Separated and fit.matrix.shapes == A.shapes
    assert fit.matrix.dtype == A.dtype and library(fit.matrix.factors[0]) == library(A.factors[0])
    assert fit.condition_number == pytest.approx(kappa(fit.matrix), rel=1e-6)
    assert fit.num_parameters == fit.matrix.num_parameters
    for F in fit.matrix.factors:
        check(np.abs(np.sqrt(np.sum(np.abs(host(F)) ** 2, axis=(1, 2))) - 1), 1.0, 20, dtype_of(F))
    s = host(fit.matrix.scales)
    assert np.all(s.real > 0) and np.all(np.diff(s.real) <= 0)
    return fit


def w_state(d):
    a, b = np.eye(2)
    return sm.Separated([np.stack([(b if l == k else a)[:, None] for l in range(d)]) for k in range(d)])


def laplacian(d, n):
    V = 2 * np.eye(n) - np.eye(n, k=1) - np.eye(n, k=-1)
    return sm.convert(sm.KroneckerSum(*[V] * d), sm.Separated)


# --- errors ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("d, dtype", list(itertools.product(range(1, 6), DTYPES)))
def test_35_the_error_is_the_true_one(rng, d, dtype):
    A = random(rng, 4, SHAPES[:d], dtype)
    honest(A, sm.compress(A, rank=1))
    if d > 1:
        honest(A, sm.compress(A, rank=2, max_condition=5))
    exact = honest(A + A, sm.compress(A + A, tol=1e-4))
    assert exact.relative_error <= 1e-4 and exact.converged and exact.matrix.terms <= 4


@pytest.mark.parametrize("dtype", DTYPES)
def test_backends(xp, rng, dtype):
    A = random(rng, 3, SHAPES[:3], dtype, xp)
    fit = honest(A, sm.compress(A, rank=1, max_condition=10))
    assert fit.relative_error < 1 and fit.condition_number <= 10
    exact = honest(A, sm.compress(A, tol=1e-3))
    assert exact.relative_error <= 1e-3
    if library(A.factors[0]) != "array_api_strict":  # slow
        honest(A, sm.compress(A, rank=2, penalty=1e-3))
    B = random(rng, 3, SHAPES[:2], dtype, xp)
    honest(B, sm.compress(B, rank=2))
    assert sm.compress(0 * A, rank=2).matrix.dtype == A.dtype


@pytest.mark.parametrize(
    "dtype, power", [*(("float64", k) for k in range(1, 15)), *(("float32", k) for k in range(1, 7))]
)
def test_the_reported_error_has_no_floor(rng, dtype, power):
    """Within 1 % of the true one down to 1e-14, and 1e-6 for float32: the terms of A moved by 10^-k, as a fit."""
    A = random(rng, 3, [(4, 4), (3, 3), (2, 2)], dtype)
    from sepmat.cp.train import difference, from_terms

    s, factors = columns(A)
    moved = [F + 10.0**-power * rng.standard_normal(F.shape).astype(F.dtype) for F in factors]
    true = norm(
        sum(functools.reduce(np.multiply.outer, [F[l] for F in factors]) for l in range(3))
        - sum(
            functools.reduce(np.multiply.outer, [F[l].astype(float).astype(F.dtype) for F in moved]) for l in range(3)
        )
    )
    train = from_terms([F.astype(float).T for F in factors])
    assert difference(train, [F.astype(float).T for F in moved]) == pytest.approx(true, rel=0.01)
    assert s.size == 3


@pytest.mark.parametrize("power", range(1, 15))
def test_the_error_of_a_fit_has_no_floor(rng, power):
    """A term of size 10^-k beside two of size 1 that are orthogonal to it: what two terms leave, within 1 %."""
    Q = [np.linalg.qr(rng.standard_normal((4, 3)))[0].T.reshape(3, 2, 2) for _ in range(3)]
    A = sm.Separated(Q, [1.0, 0.7, 10.0**-power])
    fit = sm.compress(A, rank=2, max_condition=2)
    assert fit.relative_error == pytest.approx(truth(A, fit), rel=0.01)
    assert fit.relative_error == pytest.approx(10.0**-power / math.hypot(1.0, 0.7), rel=0.05)


@pytest.mark.parametrize("dtype", DTYPES)
def test_two_factors_have_their_singular_values(xp, rng, dtype):
    """The truncated SVD of the rearranged matrix, κ = 1, optimal; the smallest rank for a tolerance."""
    A = random(rng, 7, [(3, 2), (2, 4)], dtype, xp)
    s = np.linalg.svd(array(A).astype(complex), compute_uv=False)
    tails = np.sqrt(np.append(np.cumsum(s[::-1] ** 2)[::-1], 0)) / norm(s)
    for rank in range(1, 7):
        fit = honest(A, sm.compress(A, rank=rank, max_condition=1))
        assert fit.optimal and fit.condition_number == 1 and fit.iterations == 0 and fit.matrix.terms == rank
        check(np.abs(host(fit.matrix.scales) - s[:rank]), s[0], 40, dtype, "singular values")
        check(abs(fit.relative_error - tails[rank]), 1.0, 40, dtype)
    for rank in range(1, 6):
        fit = sm.compress(A, tol=float(tails[rank]) * 1.001)
        assert fit.matrix.terms == rank and fit.optimal and fit.converged


@pytest.mark.parametrize(
    "shapes", [[(2, 3), (1, 1), (3, 2)], [(1, 1), (1, 1), (2, 2), (2, 1)], [(1, 1)] * 3, [(1, 1), (2, 2)]]
)
@pytest.mark.parametrize("dtype", DTYPES[:2])
def test_factors_of_one_entry_are_numbers(rng, shapes, dtype):
    A = random(rng, 4, shapes, dtype)
    flat = array(A).reshape([m * n for m, n in shapes if m * n > 1] or [1]).astype(complex)
    flat = flat if flat.ndim == 2 else flat.reshape(-1, 1)
    s = np.linalg.svd(flat, compute_uv=False)
    for rank in range(1, len(s) + 1):
        fit = honest(A, sm.compress(A, rank=rank))
        assert fit.optimal and fit.condition_number == 1
        found = np.zeros(rank)
        found[: fit.matrix.terms] = host(fit.matrix.scales).real  # what is zero to round-off may be left out
        check(np.abs(found - s[:rank]), weight(A), 20, "float64")


def test_a_mode_of_rank_one_leaves_a_matrix(rng):
    factors = [rng.standard_normal((5, *s)) for s in [(2, 2), (3, 3), (2, 2)]]
    factors[1][:] = factors[1][0]
    A = sm.Separated(factors)
    s = np.linalg.svd(np.sum(array(A), axis=1).astype(float), compute_uv=False)
    fit = honest(A, sm.compress(A, rank=2))
    assert fit.relative_error == pytest.approx(norm(s[2:]) / norm(s), rel=1e-9) and fit.condition_number == 1


@pytest.mark.parametrize("d", [3, 4, 5])
def test_36_compressing_again_changes_nothing(rng, d):
    A = random(rng, 4, SHAPES[:d])
    first = sm.compress(A, rank=2, max_condition=4)
    again = sm.compress(first.matrix, rank=2, max_condition=4)
    assert again.relative_error <= 1e-13
    assert truth(A, again) == pytest.approx(first.relative_error, rel=1e-9)


@pytest.mark.parametrize("d", [3, 4, 6])
@pytest.mark.parametrize("more", [0, 1, 3])
def test_36_as_many_terms_as_there_are_is_exact(rng, d, more):
    A = random(rng, 3, [(2, 2)] * d)
    fit = honest(A, sm.compress(A, rank=3 + more)) if d < 6 else sm.compress(A, rank=3 + more)
    assert fit.relative_error <= 1e-14 and fit.converged and fit.matrix.terms <= 3 + more
    assert fit.condition_number <= 3


def test_duplicated_and_parallel_terms(rng):
    A = random(rng, 3, SHAPES[:3])
    for B in (A + A, A + 2 * A - 0.5 * A, (A + A) - A):
        fit = honest(B, sm.compress(B, tol=1e-10))
        assert fit.matrix.terms == 3 and fit.relative_error <= 1e-14


def test_never_more_terms_than_there_are(rng):
    """Also where the tolerance is out of reach: then it is said, and nothing is fitted to round-off."""
    A = random(rng, 3, SHAPES[:3])
    with pytest.warns(sm.PrecisionWarning, match=r"compress: tol: 1\.0e-16 < 1\.\de-16 = u κ"):
        fit = sm.compress(A, tol=1e-16)
    assert fit.matrix.terms == 3 and fit.relative_error <= 2e-15 and fit.converged
    assert sm.compress(A, tol=1e-15).matrix.terms == 3


# --- κ -----------------------------------------------------------------------------------------------------------------


@st.composite
def targets(draw_):
    """Random, over-ranked, near-cancelling and W-type sums with 3 to 5 factors."""
    rng = np.random.default_rng(draw_(st.integers(0, 2**32 - 1)))
    d = draw_(st.integers(3, 5))
    kind = draw_(st.sampled_from(["random", "cancelling", "W"]))
    if kind == "W":
        A = w_state(d)
    else:
        A = random(rng, draw_(st.integers(1, 5)), SHAPES[:d])
        if kind == "cancelling":
            A = A - sm.Separated(
                [F + 10.0 ** -draw_(st.integers(1, 6)) * rng.standard_normal(F.shape) for F in A.factors]
            )
    if draw_(st.booleans()):
        A = A.astype("float32")
    return A, draw_(st.integers(1, 3)), draw_(st.sampled_from([1, 1.0000001, 1.2, 3, 10]))


@settings(max_examples=max(8, settings.default.max_examples // 8))
@given(targets())
def test_the_condition_number_stays_under_its_bound(target):
    A, rank, cap = target
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.simplefilter("ignore", sm.ConvergenceWarning)
        fit = sm.compress(A, rank=rank, max_condition=cap)
    assert fit.condition_number <= cap
    assert kappa(fit.matrix) <= cap * (1 + 8 * ROUNDOFF[dtype_of(A.factors[0])])
    assert fit.relative_error <= 1 + 1e-12 and fit.matrix.terms <= rank
    N = (weight(A) + weight(fit.matrix)) / norm(array(A))
    assert abs(fit.relative_error - truth(A, fit)) <= 20 * len(A.factors) * N * U


@pytest.mark.parametrize("cap", [1, 1.0000001, 1.5, 2, 8, 30])
def test_border_rank_follows_the_bound(cap):
    """err · κ² of the two terms that tend to W_3 is 1/(6√3): the bound is used, and not passed."""
    A = w_state(3)
    fit = honest(A, sm.compress(A, rank=2, max_condition=cap))
    assert fit.condition_number <= cap
    if cap >= 8:
        assert fit.condition_number >= 0.95 * cap
        assert fit.relative_error * fit.condition_number**2 == pytest.approx(1 / (6 * math.sqrt(3)), rel=0.05)


def test_no_bound_ends_where_round_off_begins():
    fit = sm.compress(w_state(3), rank=2, penalty=1e-16)
    assert fit.condition_number == pytest.approx((2 * (6 * math.sqrt(3)) ** -2 / 1e-16) ** (1 / 6), rel=0.05)


def test_a_tolerance_takes_no_more_cancellation_than_it_needs():
    """κ of two terms for W_3 at a tolerance is near the predicted (c / tol)^½, although two terms could go on for ever."""
    fit = sm.compress(w_state(3), tol=1e-3)
    assert fit.matrix.terms == 2 and fit.relative_error <= 1e-3 and fit.condition_number <= 30
    fit = sm.compress(w_state(3), tol=1e-3, max_condition=5)  # two terms would need κ = 10
    assert fit.matrix.terms == 3 and fit.relative_error <= 1e-3 and fit.condition_number <= 5


@pytest.mark.parametrize("penalty", [1e-2, 1e-4, 1e-8])
def test_penalty_is_that_of_the_objective(rng, penalty):
    """At its minimiser <A, Â> = ‖Â‖² + λ Σ s_l², and κ_A <= ½ λ^(-1/2)."""
    A = random(rng, 5, SHAPES[:3])
    fit = honest(A, sm.compress(A, rank=2, penalty=penalty))
    size, found = norm(array(A)), array(fit.matrix)
    gap = np.sum(array(A) * found) - norm(found) ** 2 - penalty * norm(host(fit.matrix.scales)) ** 2
    assert abs(float(gap)) <= 1e-5 * size**2
    assert norm(host(fit.matrix.scales)) / size <= 0.5 / math.sqrt(penalty) * (1 + 1e-9)


# --- range and degeneracy ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("power", [-150, 150])
@pytest.mark.parametrize("where", ["scales", "factors", "mixed"])
def test_range(rng, power, where):
    """The same fit at 1e±150, in one place, in all the factors (‖A‖ = 1e±450) and with scales that cancel."""
    A, s = random(rng, 3, SHAPES[:3]), 10.0**power
    scaled = {
        "scales": s * A,
        "factors": sm.Separated([s * F for F in A.factors]),
        "mixed": sm.Separated([s * A.factors[0], A.factors[1] / s, A.factors[2]]),
    }[where]
    fit, plain = (sm.compress(B, rank=2, max_condition=5) for B in (scaled, A))
    assert fit.relative_error == pytest.approx(plain.relative_error, rel=1e-6)
    assert fit.condition_number == pytest.approx(plain.condition_number, rel=1e-3)
    assert all(np.all(np.isfinite(F)) and np.any(F) for F in fit.matrix.arrays())


def test_float32_beyond_its_range(rng):
    A = random(rng, 3, SHAPES[:3])
    big = sm.Separated([np.float32(1e20) * F.astype("float32") for F in A.factors])
    fit = sm.compress(big, rank=2)
    assert all(np.all(np.isfinite(F)) for F in fit.matrix.arrays())
    assert fit.relative_error == pytest.approx(sm.compress(A, rank=2).relative_error, rel=1e-4)


def test_terms_of_very_different_sizes(rng):
    A = sm.Separated(random(rng, 3, SHAPES[:3]).factors, [1e150, 1.0, 1e-150])
    assert sm.compress(A, rank=1).relative_error <= 1e-14


@pytest.mark.parametrize("d", [1, 2, 3, 4])
@pytest.mark.parametrize("limit", [{"rank": 1}, {"tol": 1e-3}, {"rank": 1, "max_condition": 1}])
def test_zero(xp, rng, d, limit):
    A = random(rng, 3, SHAPES[:d], xp=xp)
    empty = sm.Separated([xp.asarray(np.zeros((0, *s))) for s in SHAPES[:d]])
    hollow = sm.Separated([xp.asarray(np.zeros((2, 0, 2))), *(xp.asarray(np.ones((2, *s))) for s in SHAPES[1:d])])
    for Z in (0 * A, A - A, 3 * (A * (1 / 3)) - A, empty, hollow):
        fit = sm.compress(Z, **limit)
        assert fit.matrix.terms == 0 and fit.matrix.shape == Z.shape and fit.matrix.dtype == Z.dtype
        assert (fit.relative_error, fit.condition_number, fit.converged) == (0.0, 1.0, True)


def test_nearly_cancelling_terms_are_data(rng):
    """A difference of 1e-8 between terms of size 1 is what is to be fitted, to the digits that it has."""
    A = random(rng, 2, SHAPES[:3])
    B = A - (1 + 1e-8) * A
    fit = sm.compress(B, tol=1e-6)
    assert fit.relative_error <= 1e-6 and fit.condition_number <= 10 and fit.matrix.terms == 2
    with pytest.warns(sm.PrecisionWarning, match="compress: tol"):
        sm.compress(B, tol=1e-9)


def test_terms_that_vanish(rng):
    A = random(rng, 2, SHAPES[:3])
    B = A + sm.Separated([np.zeros((2, *s)) for s in SHAPES[:3]])
    fit = honest(B, sm.compress(B, rank=4))
    assert fit.relative_error <= 1e-14


# --- targets of the literature -----------------------------------------------------------------------------------------


def test_sine_of_a_sum_of_six():
    """32 products of sines and cosines of x_1 + … + x_6, six terms are enough: κ of the analytic ones is 2.31."""
    d, x = 6, 2 * np.pi * (np.arange(8) + 0.5) / 8
    odd = [b for b in itertools.product((0, 1), repeat=d) if sum(b) % 2]
    factors = [np.stack([(np.sin(x) if b[i] else np.cos(x))[:, None] for b in odd]) for i in range(d)]
    A = sm.Separated(factors, [(-1.0) ** ((sum(b) - 1) // 2) for b in odd])
    fit = sm.compress(A, rank=6)
    assert A.terms == 32 and fit.matrix.terms == 6
    assert fit.relative_error <= 1e-12 and fit.condition_number <= 2 * math.sqrt(2 ** (d - 1) / d)
    grid = np.sin(functools.reduce(np.add.outer, [x] * d))
    assert norm(grid - array(fit.matrix)) <= 1e-12 * norm(grid)


@pytest.mark.parametrize("d, n", [(3, 8), (6, 5)])
def test_laplacian(d, n):
    """Two terms for d, at κ <= 10: better than 1e-3, and err · κ² no worse than that of finite differences."""
    L = laplacian(d, n)
    fit = sm.compress(L, rank=2, max_condition=10)
    assert fit.condition_number <= 10 and fit.relative_error < 1e-3
    exact = sm.compress(L, rank=d)
    assert exact.relative_error <= 1e-13 and exact.condition_number <= 10


def test_large_factors_cost_what_their_terms_do(rng):
    """64×64 factors, six of them: a matrix of 2^36 rows."""
    A = random(rng, 2, [(64, 64)] * 6)
    fit = sm.compress(A + A, rank=2)
    assert fit.relative_error <= 1e-14 and fit.matrix.terms == 2


# --- what comes in, and how --------------------------------------------------------------------------------------------


def test_what_converts_to_separated(rng):
    factors = [rng.standard_normal((2, 2)) for _ in range(3)]
    one = sm.compress(sm.Kronecker(*factors), rank=1)
    assert one.relative_error <= 1e-15 and one.condition_number == 1
    many = sm.compress(sm.KroneckerSum(*factors), tol=1e-12)
    assert many.relative_error <= 1e-12 and many.matrix.terms <= 3
    inner = sm.compress(sm.Kronecker(sm.Identity(3), factors[0], sm.Identity(2)), rank=1)
    assert inner.matrix.shapes == ((3, 3), (2, 2), (2, 2)) and inner.relative_error <= 1e-15


@pytest.mark.parametrize("M", [sm.Identity(4), sm.Dense(np.eye(4)), np.eye(4), None, "A"])
def test_what_does_not(M):
    with pytest.raises(sm.DTypeError, match=r"^compress: A: .+; expected .+ Separated.*\. Use nearest_separated"):
        sm.compress(M, rank=1)


@pytest.mark.parametrize(
    "options, kind, message",
    [
        ({}, ValueError, "rank | tol: 0 given"),
        ({"rank": 1, "tol": 0.1}, ValueError, "rank | tol: 2 given"),
        ({"rank": 0}, ValueError, "rank: 0"),
        ({"rank": 2.0}, TypeError, "rank: 2.0"),
        ({"rank": True}, TypeError, "rank: True"),
        ({"rank": 25}, ValueError, "rank: 25 > 24 possible"),
        *(({"tol": t}, ValueError, f"tol: {t}") for t in (0.0, -0.1, 1.0, math.nan, math.inf)),
        ({"tol": "small"}, TypeError, "tol: 'small'"),
        *(({"rank": 1, "max_condition": c}, ValueError, f"max_condition: {c}") for c in (0.5, -1, 0, math.nan)),
        *(({"rank": 1, "max_condition": c}, TypeError, f"max_condition: {c!r}") for c in (True, "1", 2j)),
        ({"rank": 1, "max_condition": 2, "penalty": 0.1}, ValueError, "max_condition | penalty: 2 given"),
        *(({"rank": 1, "penalty": p}, ValueError, f"penalty: {p}") for p in (0.0, 1.0, math.nan)),
        ({"rank": 1, "seed": -1}, ValueError, "seed: -1"),
        ({"rank": 1, "seed": True}, TypeError, "seed: a bool"),
        ({"rank": 1, "seed": np.random.RandomState(0)}, TypeError, "seed: a RandomState"),
    ],
)
def test_bad_arguments(rng, options, kind, message):
    A = random(rng, 2, SHAPES[:3])
    with pytest.raises(kind, match=f"^compress: {re.escape(message)}") as caught:
        sm.compress(A, **options)
    assert isinstance(caught.value, sm.SepmatError)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_entries_that_are_not_finite(value):
    factors = [np.ones((2, 2, 2)) for _ in range(3)]
    factors[1][0, 1, 1] = value
    with pytest.raises(sm.NonFiniteError, match=r"^compress: A: "):
        sm.compress(sm.Separated(factors), rank=1)


def test_inputs_are_left_alone_and_gradients_stop(rng):
    torch = pytest.importorskip("torch")
    raw = [rng.standard_normal((3, *s)) for s in SHAPES[:3]]
    kept = [F.copy() for F in raw]
    A = sm.Separated(raw)
    fit = sm.compress(A, rank=2)
    assert all(np.array_equal(F, G) for F, G in zip(raw, kept, strict=True))
    assert not any(np.shares_memory(F, G) for F in fit.matrix.arrays() for G in A.arrays())
    leaves = [torch.tensor(F, requires_grad=True) for F in raw]
    for count, limit in itertools.product((1, 2, 3), ({"rank": 1}, {"tol": 0.5}, {"tol": 1e-10})):
        found = sm.compress(sm.Separated(leaves[:count]), **limit)
        assert not any(F.requires_grad for F in found.matrix.arrays())
    zero = sm.compress(0 * sm.Separated(leaves), rank=1).matrix
    assert not any(F.requires_grad for F in zero.arrays())


def test_seeds(rng):
    A = random(rng, 4, SHAPES[:3])

    def run(seed):
        before = np.random.get_state()[1].copy()  # noqa: NPY002
        fit = sm.compress(A, rank=2, seed=seed)
        assert np.array_equal(np.random.get_state()[1], before)  # noqa: NPY002
        return [fit.relative_error, *(F.tobytes() for F in fit.matrix.arrays())]

    assert run(0) == run(0) == run(np.random.default_rng(0))
    assert run(7) == run(np.int64(7))
    assert run(None)[0] == pytest.approx(run(0)[0], rel=0.1)


@pytest.mark.parametrize("modes", ["raise", "ignore"])
def test_no_warning_of_a_library_leaks(rng, modes):
    A = random(rng, 3, SHAPES[:3])
    with np.errstate(all=modes), warnings.catch_warnings():
        warnings.simplefilter("error")
        for B in (A, 1e150 * A, 1e-150 * A, A - A, random(rng, 1, SHAPES[:3])):
            sm.compress(B, rank=2, max_condition=3)
            sm.compress(B, tol=0.1)


def test_warnings_are_for_the_caller():
    """What is not reached is said once; iterations ask fewer_terms, which says nothing, and look at `converged`."""
    A, one = w_state(3), sm.Separated([np.ones((1, 2, 1))] * 3)
    with pytest.warns(
        sm.ConvergenceWarning, match=r"^compress: the fit has not come down to tol = 1\.0e-10 \("
    ) as seen:
        fit = sm.compress(one, tol=1e-10, penalty=0.5)
    assert len(seen) == 1 and seen[0].filename == __file__ and not fit.converged
    with pytest.warns(sm.PrecisionWarning, match=r"^compress: tol: 1\.0e-16 < 1\.1e-16 = u κ") as seen:
        sm.compress(A, tol=1e-16)
    assert len(seen) == 1 and seen[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        rng = np.random.default_rng(0)
        quiet, attainable = fewer_terms(A, None, 1e-16, math.inf, None, rng)
        assert quiet.matrix.terms == 3 and attainable == pytest.approx(U, rel=1e-9)
        assert not fewer_terms(one, None, 1e-10, math.inf, 0.5, rng)[0].converged


@pytest.mark.parametrize("asked, advice", [
    ({"rank": 1}, "use more terms, or max_condition$"),
    ({"rank": 1, "penalty": 1e-18}, "use more terms, or a larger penalty$"),
    ({"rank": 1, "max_condition": 1e4}, "use more terms, or a smaller max_condition$"),
    ({"tol": 1e-6, "penalty": 0.1}, "use a larger tol, or a smaller penalty$"),
    ({"tol": 1e-6, "max_condition": 2.0}, "use a larger tol, or a larger max_condition$"),
    ({"tol": 1e-6}, "use a larger tol, or a rank$"),
])  # fmt: skip
def test_the_warning_names_what_may_be_changed(monkeypatch, asked, advice):
    """Whatever was set is what may be set otherwise; more terms only where their number was given."""
    module = sys.modules["sepmat.compress"]  # the function has its name

    def unsettled(*args):
        return dataclasses.replace(fewer_terms(*args)[0], converged=False), 0.0

    monkeypatch.setattr(module, "fewer_terms", unsettled)
    with pytest.warns(sm.ConvergenceWarning, match=f"condition number .*; {advice}"):
        sm.compress(sm.Separated([np.ones((1, 2, 1))] * 3), **asked)


def test_a_fit_shows_what_cancels():
    fit = sm.compress(w_state(3), rank=2, max_condition=10)
    assert f"  κ {fit.condition_number:.3g}  " in repr(fit) and 9 < fit.condition_number <= 10
    for kappa in (None, 0.4, 1.0, 1.001):
        assert "κ" not in repr(dataclasses.replace(fit, condition_number=kappa))
