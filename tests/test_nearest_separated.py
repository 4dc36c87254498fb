"""Separated representations of given matrices: every source against the dense answer, every fit against its optimum."""

import functools
import importlib
import itertools
import math

import numpy as np
import pytest
import scipy.sparse
from conftest import ROUNDOFF, check, dtype_of, host, library
from scipy.sparse.linalg import LinearOperator, aslinearoperator

import sepmat as sm
from sepmat import modes
from sepmat.nearest_separated import splittings
from sepmat.sources import blocks, sparse

DTYPES = ["float64", "complex64"]  # real and complex, double and single
SHAPES = {
    2: [((3, 4), (5, 2)), ((6, 5), (3, 4)), ((1, 6), (7, 1))],
    3: [((2, 3), (4, 3), (3, 2)), ((4, 4), (4, 4), (4, 4)), ((1, 5), (6, 1), (2, 3))],
    4: [((2, 2), (3, 2), (2, 3), (2, 2)), ((2, 1), (1, 3), (2, 2), (3, 3))],
}
ALL = [shapes for d in SHAPES for shapes in SHAPES[d]]


def draw(rng, shape, dtype="float64"):
    M = rng.standard_normal(shape)
    if dtype.startswith("complex"):
        M = M + 1j * rng.standard_normal(shape)
    return M.astype(dtype)


def planted(rng, shapes, terms, dtype="float64", noise=0.0):
    """Σ of random Kronecker products, and noise of that relative size."""
    M = sm.Separated([draw(rng, (terms, *pair), dtype) for pair in shapes]).to_dense().astype(dtype)
    N = draw(rng, M.shape, dtype)
    return (M + noise * np.linalg.norm(M) / np.linalg.norm(N) * N).astype(dtype)


def true_error(M, A):
    """In double precision, from the stored factors."""
    wide = "complex128" if np.iscomplexobj(M) else "float64"
    terms = [host(F).astype(wide) for F in A.factors]
    dense = sm.Separated(terms, host(A.scales).astype(wide)).to_dense()
    return np.linalg.norm(M.astype(wide) - dense) / (np.linalg.norm(M.astype(wide)) or 1.0)


def honest(M, fit):
    """The reported error is the true one within 1 %, down to round-off; returns it."""
    true = true_error(M, fit.matrix)
    assert abs(fit.relative_error - true) <= 0.01 * true + 20 * ROUNDOFF["float64"]
    return true


def columnwise_kron(A, B):
    return np.stack([np.kron(a, b) for a, b in zip(A.T, B.T, strict=True)], axis=1)


def p5(seed, cosine, noise, m=8, terms=5):
    """Unit-norm terms with given cosines in every mode, and noise: (m³ × m³, factors m×m)."""
    rng, factors = np.random.default_rng(seed), []
    for _ in range(3):
        G = rng.standard_normal((m * m, terms))
        G /= np.linalg.norm(G, axis=0)
        if cosine:
            Q = np.linalg.qr(rng.standard_normal((m * m, terms)))[0]
            G = Q @ np.linalg.cholesky((1 - cosine) * np.eye(terms) + cosine * np.ones((terms, terms))).T
        factors.append(G.T.reshape(terms, m, m))
    M = sm.Separated(factors).to_dense()
    N = rng.standard_normal(M.shape)
    return M + noise * np.linalg.norm(M) / np.linalg.norm(N) * N


# dense --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shapes", ALL, ids=str)
@pytest.mark.parametrize("dtype", DTYPES)
def test_an_exact_sum_is_recovered(xp, rng, shapes, dtype):
    terms = 1 if min(m * n for m, n in shapes) < 3 else 2
    M = planted(rng, shapes, terms, dtype)
    fit = sm.nearest_separated(xp.asarray(M), shapes, rank=terms)
    A = fit.matrix
    assert isinstance(A, sm.Separated) and A.shapes == shapes and A.terms == terms and fit.converged
    assert dtype_of(A) == dtype and library(A.factors[0]) == library(xp.asarray(M))
    check(honest(M, fit), 1.0, 60, dtype, "exact sum")
    assert fit.num_parameters == A.num_parameters
    check(abs(fit.condition_number - A.condition_number), 1.0, 20, dtype)


@pytest.mark.parametrize("shapes", ALL, ids=str)
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_tolerance_is_reached_and_the_error_is_the_true_one(rng, shapes, dtype):
    M = planted(rng, shapes, 2, dtype, noise=1e-3)
    fit = sm.nearest_separated(M, shapes, tol=2e-3)
    assert honest(M, fit) <= 2e-3 and fit.matrix.terms <= 2


@pytest.mark.parametrize("shapes", [((3, 2), (5, 7)), ((9, 8), (8, 9))], ids=str)
def test_two_factors_are_the_nearest_kronecker_products(rng, shapes):
    M = draw(rng, (shapes[0][0] * shapes[1][0], shapes[0][1] * shapes[1][1]))
    for rank in (1, 3):
        a, b = sm.nearest_separated(M, shapes, rank=rank), sm.nearest_kronecker(M, shapes, rank=rank)
        assert a.relative_error == b.relative_error and isinstance(a.matrix, sm.Separated)
        assert np.allclose(a.matrix.to_dense(), b.matrix.to_dense(), rtol=0, atol=1e-13)


@pytest.mark.parametrize("cosine", [0, 0.9])
@pytest.mark.parametrize("noise", [0.0, 1e-3, 1e-8])
def test_noise_is_met_at_the_optimum(cosine, noise):
    """The least squares error of 950 parameters in 64³ entries: η √(1 − 950/262144) = 0.9982 η (goals G1 and G2)."""
    for seed in range(2):
        M = p5(seed, cosine, noise)
        fit = sm.nearest_separated(M, ((8, 8),) * 3, rank=5, seed=seed)
        assert fit.relative_error <= (1.001 * 0.9982 * noise or 1e-14)
        assert fit.converged and honest(M, fit)
        assert abs(fit.condition_number - (0.505 if cosine else 1.0)) < 0.01
    fit = sm.nearest_separated(M, ((8, 8),) * 3, tol=1.01 * noise or 1e-12)
    assert fit.matrix.terms == 5 and fit.relative_error <= (1.01 * noise or 1e-12)


@pytest.mark.slow
def test_a_large_cube_is_met_at_the_optimum():
    """Goal G3: 256³, 10 terms."""
    M = p5(0, 0, 1e-6, m=16, terms=10)
    fit = sm.nearest_separated(M, ((16, 16),) * 3, rank=10)
    assert fit.relative_error <= 1.01e-6


def test_refined_mode_spaces_are_better_than_singular_vectors(rng):
    """A target that no few terms explain: the spaces of the best terms are not those of the unfoldings."""
    T = draw(rng, (12, 12, 12))
    whole = modes.unfolded(T)
    fit = sm.nearest_separated(sm.rearrange_back(T, ((3, 4),) * 3), ((3, 4),) * 3, rank=2)
    spaces, _ = modes.compress_modes(whole, rank=2, rng=rng)
    inside = np.linalg.norm(spaces.core) / np.linalg.norm(T)
    assert fit.relative_error < 0.995 * math.sqrt(1 - inside**2)


@pytest.mark.parametrize("cap", [1.0, 3.0, 20.0])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.filterwarnings("ignore::sepmat.ConvergenceWarning")
def test_the_condition_number_stays_below_its_bound(rng, cap, dtype):
    """Border rank 2: the error of two terms falls as κ grows, err κ² → 1/(6√3)."""
    a, b = (U.reshape(2, 2) for U in np.linalg.qr(rng.standard_normal((4, 2)))[0].T)
    M = sum(np.kron(np.kron(x, y), z) for x, y, z in ((a, a, b), (a, b, a), (b, a, a))).astype(dtype)
    fit = sm.nearest_separated(M, ((2, 2),) * 3, rank=2, max_condition=cap)
    assert fit.condition_number <= cap and fit.matrix.condition_number <= cap * (1 + 8 * np.finfo(dtype).eps)
    honest(M, fit)
    if cap > 1:
        assert fit.relative_error < 1.1 / (6 * math.sqrt(3) * (0.9 * cap) ** 2)


# the other sources ----------------------------------------------------------------------------------------------------------


@pytest.fixture(params=["whole", "slabs of rows", "parts of slabs"])
def reading(request, monkeypatch):
    """How much is read at a time."""
    monkeypatch.setattr(blocks, "SLAB", {"whole": 2**23, "slabs of rows": 4000, "parts of slabs": 700}[request.param])


BIG = [((6, 5), (4, 7)), ((12, 10), (11, 13)), ((3, 4), (5, 2), (4, 4)), ((3, 2), (2, 4), (5, 3), (2, 2))]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shapes", BIG, ids=str)
def test_blocks_give_the_dense_answer(tmp_path, rng, reading, shapes, dtype):
    dask = pytest.importorskip("dask")
    M = planted(rng, shapes, 2, dtype, noise=0.03)
    file = np.memmap(tmp_path / "M", dtype=dtype, mode="w+", shape=M.shape)
    file[:] = M
    file.flush()
    held = np.memmap(tmp_path / "M", dtype=dtype, mode="r", shape=M.shape)
    for goal in ({"rank": 2}, {"tol": 0.04}):
        dense = sm.nearest_separated(M, shapes, **goal)
        for source in (held, importlib.import_module("dask.array").from_array(M, chunks=(17, 29))):
            with dask.config.set(scheduler="synchronous"):  # threads cost more than these products
                fit = sm.nearest_separated(source, shapes, **goal)
            assert dtype_of(fit.matrix) == dtype and fit.matrix.terms == dense.matrix.terms
            check(abs(fit.relative_error - dense.relative_error), 1.0, 100, dtype)
            honest(M, fit)


@pytest.mark.parametrize("dtype", ["float64", "complex128"])
@pytest.mark.parametrize("shapes", BIG[1:3], ids=str)
def test_low_rank_gives_the_dense_answer(xp, rng, shapes, dtype):
    m, n = (math.prod(p[i] for p in shapes) for i in (0, 1))
    rows, cols = ([draw(rng, (p[i], 2), dtype) for p in shapes] for i in (0, 1))
    U, V = (functools.reduce(columnwise_kron, F) + 0.03 * draw(rng, (k, 2), dtype) for F, k in ((rows, m), (cols, n)))
    M = U @ V.T
    fit = sm.nearest_separated(sm.LowRank(xp.asarray(U), xp.asarray(V)), shapes, rank=2)
    dense = sm.nearest_separated(M, shapes, rank=2)
    honest(M, fit)
    assert fit.relative_error <= (1.003 if len(shapes) == 2 else 1.05) * dense.relative_error
    assert library(fit.matrix.factors[0]) == library(xp.asarray(U))


def test_an_elementary_low_rank_matrix_has_as_many_terms(rng):
    columns = [[draw(rng, (n, 1)) for n in (3, 4, 5)] for _ in range(4)]
    u, v, x, y = (np.kron(np.kron(a, b), c) for a, b, c in columns)
    fit = sm.nearest_separated(sm.LowRank(np.hstack([u, v]), np.hstack([x, y])), ((3, 3), (4, 4), (5, 5)), rank=2)
    assert fit.relative_error < 1e-14


@pytest.mark.parametrize("kept", ["dense", "sparse"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shapes", BIG, ids=str)
def test_sparse_matrices_give_the_dense_answer(rng, monkeypatch, kept, shapes, dtype):
    monkeypatch.setattr(sparse, "DENSE", 2**22 if kept == "dense" else 0)
    factors = [draw(rng, (2, *pair), dtype) * (rng.random((2, *pair)) < 0.6) for pair in shapes]
    M = sm.Separated(factors).to_dense().astype(dtype)
    M = M + 0.1 * draw(rng, M.shape, dtype) * (rng.random(M.shape) < 0.05)
    for form in (scipy.sparse.csr_array, scipy.sparse.coo_matrix):
        fit = sm.nearest_separated(form(M.astype(dtype)), shapes, rank=2)
        dense = sm.nearest_separated(M.astype(dtype), shapes, rank=2)
        honest(M, fit)
        assert fit.relative_error <= (1.003 if len(shapes) == 2 else 1.05) * dense.relative_error
        assert dtype_of(fit.matrix) == dtype


@pytest.mark.parametrize("kept", ["dense", "sparse"])
def test_the_five_point_laplacian_has_two_terms(monkeypatch, kept):
    monkeypatch.setattr(sparse, "DENSE", 2**22 if kept == "dense" else 0)
    n = 40
    L = scipy.sparse.diags_array([-np.ones(n - 1), 2 * np.ones(n), -np.ones(n - 1)], offsets=[-1, 0, 1])
    eye = scipy.sparse.eye_array(n)
    A = scipy.sparse.csr_array(scipy.sparse.kron(L, eye) + scipy.sparse.kron(eye, L))
    fit = sm.nearest_separated(A, ((n, n), (n, n)), tol=1e-10)
    assert fit.matrix.terms == 2 and fit.relative_error < 1e-13
    duplicates = scipy.sparse.coo_array((np.r_[1.0, 2.0, 3.0], (np.r_[0, 0, 3], np.r_[1, 1, 2])), shape=(4, 4))
    fit = sm.nearest_kronecker(duplicates, ((2, 2), (2, 2)), rank=2)
    assert np.allclose(fit.matrix.to_dense(), duplicates.toarray(), atol=1e-14)


def counted(M):
    """M as an operator that counts its products."""
    count = [0]

    def matmat(X):
        count[0] += X.shape[1]
        return M @ X

    return LinearOperator(M.shape, matvec=lambda x: matmat(x.reshape(-1, 1)), matmat=matmat, dtype=M.dtype), count


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shapes", [((6, 5), (4, 7)), ((12, 10), (11, 13)), ((3, 4), (5, 2), (4, 4))], ids=str)
def test_operators_are_near_the_dense_answer(rng, shapes, dtype):
    M = planted(rng, shapes, 3, dtype, noise=0.02)
    fit = sm.nearest_separated(aslinearoperator(M), shapes, rank=3)
    dense = sm.nearest_separated(M, shapes, rank=3)
    true = true_error(M, fit.matrix)
    assert true <= 1.1 * dense.relative_error and abs(fit.relative_error / true - 1) < 0.1
    assert dtype_of(fit.matrix) == dtype
    if len(shapes) == 2:
        exact = sm.nearest_kronecker(aslinearoperator(M), shapes, rank=3, exact=True)
        assert (
            exact.optimal and exact.relative_error <= (1 + 1e-6) * dense.relative_error <= 1.003 * exact.relative_error
        )


@pytest.mark.parametrize("terms", [1, 4])
def test_an_operator_of_few_terms_is_recovered_from_few_products(rng, terms):
    n = 32
    M = planted(rng, ((n, n), (n, n)), terms)
    A, count = counted(M)
    fit = sm.nearest_separated(A, ((n, n), (n, n)), rank=terms)
    assert count[0] < 0.7 * n * n
    assert true_error(M, fit.matrix) < 1e-12 and fit.relative_error < 1e-12


def test_structured_matrices_are_operators(xp, rng):
    n = 24
    row, column = (np.exp(-np.arange(n * n) / k) for k in (40.0, 30.0))
    T = sm.Toeplitz(xp.asarray(column), xp.asarray(row))
    M = host(T.to_dense())
    fit = sm.nearest_separated(T, ((n, n), (n, n)), rank=2)
    best = sm.nearest_kronecker(M, ((n, n), (n, n)), rank=2, exact=True)
    assert library(fit.matrix.factors[0]) == library(xp.asarray(row))
    assert true_error(M, fit.matrix) <= 1.01 * best.relative_error + 1e-12
    assert abs(fit.relative_error - true_error(M, fit.matrix)) < 0.02 * best.relative_error + 1e-12


def test_a_blur_of_16384_pixels_without_its_matrix():
    """Goal G11, smaller: the singular values of the point spread function say what the optimum is."""
    n = 128
    x = np.minimum(np.arange(n), n - np.arange(n)) * np.sign(n / 2 - np.arange(n))
    P = np.exp(-(2 * x[:, None] ** 2 + x**2 + 1.2 * x[:, None] * x) / 50)
    spectrum = np.fft.rfft2(P)

    def matmat(X):
        return np.fft.irfft2(np.fft.rfft2(X.T.reshape(-1, n, n)) * spectrum, s=(n, n)).reshape(-1, n * n).T

    A = LinearOperator((n * n,) * 2, matvec=lambda x: matmat(x.reshape(-1, 1)), matmat=matmat, dtype=np.float64)
    fit = sm.nearest_separated(A, ((n, n), (n, n)), rank=2)
    s = np.linalg.svd(P, compute_uv=False)
    optimum = np.linalg.norm(s[2:]) / np.linalg.norm(s)
    assert abs(fit.relative_error / optimum - 1) < 1e-6


def test_a_separated_matrix_goes_to_compress(rng):
    A = sm.Separated([draw(rng, (4, 3, 3)) for _ in range(3)])
    a, b = sm.nearest_separated(A + A, A.shapes, rank=4), sm.compress(A + A, rank=4)
    assert a.matrix.equals(b.matrix)


# shapes ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("noise", [0.0, 0.05])
@pytest.mark.parametrize("shapes", [((2, 3), (6, 4)), ((4, 4), (3, 3)), ((6, 2), (2, 6))], ids=str)
def test_auto_finds_planted_shapes(rng, shapes, noise):
    M = planted(rng, shapes, 1, noise=noise)
    fit = sm.nearest_separated(M, "auto", rank=1)
    assert fit.matrix.shapes == shapes
    if noise:
        assert sm.nearest_separated(M, "auto", tol=1.5 * noise).matrix.shapes == shapes
    fits = sm.factor_shapes(M, rank=1)
    assert len({f.matrix.shapes for f in fits}) == len(fits) == len(list(splittings(*M.shape, 2)))
    assert fits[0].matrix.equals(fit.matrix)


def test_auto_finds_three_factors(rng):
    shapes = ((2, 1), (2, 2), (2, 1))
    M = planted(rng, shapes, 1, noise=0.01)
    assert sm.nearest_separated(M, "auto", rank=1, factors=3).matrix.shapes == shapes
    assert sm.nearest_separated(M, "auto", tol=0.02, factors=3).matrix.shapes == shapes


def test_splittings_are_all_of_them():
    found = set(splittings(6, 4, 2))
    pairs = itertools.product([1, 2, 3, 6], [1, 2, 4])
    assert found == {((m, n), (6 // m, 4 // n)) for m, n in pairs} - {((1, 1), (6, 4)), ((6, 4), (1, 1))}
    assert all(math.prod(m for m, _ in s) == 8 and math.prod(n for _, n in s) == 6 for s in splittings(8, 6, 3))


# range, zeros, bad input ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("power", [150, -150, -300])
@pytest.mark.parametrize("shapes", [((3, 4), (4, 3)), ((3, 2), (2, 4), (3, 3))], ids=str)
def test_huge_and_tiny_entries_give_the_same_fit(tmp_path, rng, power, shapes):
    dask_array = pytest.importorskip("dask.array")
    M = planted(rng, shapes, 3, noise=0.1)
    big = M * 10.0**power

    def memmap(X):
        file = np.memmap(tmp_path / "M", dtype="float64", mode="w+", shape=X.shape)
        file[:] = X
        return file

    forms = [np.asarray, scipy.sparse.csr_array, aslinearoperator, memmap, dask_array.from_array]
    for form in forms:
        a, b = (sm.nearest_separated(form(X), shapes, rank=2) for X in (M, big))
        check(abs(a.relative_error - b.relative_error), 1.0, 1e5, "float64")
        dense = b.matrix.to_dense()
        assert np.all(np.isfinite(dense))
        if power > -300:
            assert np.allclose(dense / 10.0**power, a.matrix.to_dense(), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("shapes", [((3, 4), (4, 3)), ((3, 2), (2, 4), (3, 3)), ((1, 1), (1, 1)), ((0, 2), (3, 1))])
def test_zero_and_empty_matrices(xp, shapes):
    m, n = (math.prod(p[i] for p in shapes) for i in (0, 1))
    for M in (xp.zeros((m, n), dtype=xp.float64), scipy.sparse.csr_array((m, n)), aslinearoperator(np.zeros((m, n)))):
        for goal in ({"rank": 1}, {"tol": 0.1}):
            fit = sm.nearest_separated(M, shapes, **goal)
            assert fit.relative_error == 0.0 and fit.matrix.shapes == shapes
            assert fit.matrix.shape == (m, n) and np.all(host(fit.matrix.to_dense()) == 0)


def test_every_call_repeats(rng):
    M = draw(rng, (24, 24))
    shapes = ((2, 2), (3, 3), (4, 4))
    a, b = (sm.nearest_separated(M, shapes, rank=3) for _ in range(2))
    assert a.matrix.equals(b.matrix)
    c = sm.nearest_separated(M, shapes, rank=3, seed=np.random.default_rng(0))
    assert c.matrix.equals(a.matrix)


def test_a_tolerance_below_the_precision_of_the_terms_warns(rng):
    M = planted(rng, ((2, 2),) * 3, 2)
    with pytest.warns(sm.PrecisionWarning, match="tol: 1.0e-17"):
        sm.nearest_separated(M, ((2, 2),) * 3, tol=1e-17)
    e = np.eye(4).reshape(4, 2, 2)
    nearly = (e[0] + 0.02 * e[1], e[0])
    M = sum(s * np.kron(np.kron(x, x), x) for s, x in zip((50.0, -50.0), nearly, strict=True)).astype("float32")
    with pytest.warns(sm.PrecisionWarning, match="condition number"):
        sm.nearest_separated(M, ((2, 2),) * 3, tol=1e-6)


GOOD = np.arange(36.0).reshape(6, 6)
THREE = ((2, 2), (3, 3), (1, 1))


@pytest.mark.parametrize(
    "call, error, parts",
    [
        (lambda: sm.nearest_separated(GOOD, THREE), ValueError, ["nearest_separated", "rank", "0 given"]),
        (lambda: sm.nearest_separated(GOOD, THREE, rank=1, tol=0.1), ValueError, ["2 given"]),
        (lambda: sm.nearest_separated(GOOD, ((6, 6),), rank=1), sm.ShapeError, ["shapes", "1 pair", "two factors"]),
        (lambda: sm.nearest_separated(GOOD, ((2, 2), (2, 3)), rank=1), sm.ShapeError, ["2·2 ≠ 6", "Divisors of 6"]),
        (lambda: sm.nearest_separated(GOOD, "best", rank=1), ValueError, ["shapes", "'best'", "auto"]),
        (lambda: sm.nearest_separated(GOOD, THREE, rank=5), ValueError, ["rank", "5 > 4 possible"]),
        (lambda: sm.nearest_separated(GOOD, THREE, rank=2.0), TypeError, ["rank", "2.0"]),
        (lambda: sm.nearest_separated(GOOD, THREE, tol=2), ValueError, ["tol", "2"]),
        (lambda: sm.nearest_separated(GOOD, THREE, rank=1, max_condition=0.5), ValueError, ["max_condition", "0.5", "κ = 1"]),
        (lambda: sm.nearest_separated(GOOD, THREE, rank=1, seed="a"), TypeError, ["seed"]),
        (lambda: sm.nearest_separated(GOOD * np.nan, THREE, rank=1), sm.NonFiniteError, ["M", "36 non-finite"]),
        (lambda: sm.nearest_separated(scipy.sparse.csr_array(GOOD + np.inf), THREE, rank=1), sm.NonFiniteError, ["M.data"]),
        (lambda: sm.nearest_separated(aslinearoperator(GOOD * np.nan), THREE, rank=1), sm.NonFiniteError, ["M @ x"]),
        (lambda: sm.nearest_separated("matrix", THREE, rank=1), TypeError, ["M", "str"]),
        (lambda: sm.nearest_separated(GOOD[0], THREE, rank=1), sm.ShapeError, ["M", "(6,)"]),
        (lambda: sm.nearest_separated(scipy.sparse.coo_array(GOOD[0]), THREE, rank=1), sm.ShapeError, ["M", "(6,)"]),
        (lambda: sm.factor_shapes(np.ones((1, 1)), rank=1), sm.ShapeError, ["factor_shapes", "1×1"]),
        (lambda: sm.factor_shapes(GOOD, rank=1, factors=1), ValueError, ["factors", "1"]),
        (lambda: sm.factor_shapes(np.eye(7)[::-1] + 1, tol=1e-9), sm.ShapeError, ["7×7", "tol=1.0e-09"]),
    ],
)  # fmt: skip
def test_bad_input_is_refused_with_five_parts(call, error, parts):
    with pytest.raises(error) as info:
        call()
    assert isinstance(info.value, sm.SepmatError) and len(info.value.args) == 5
    for part in parts:
        assert part in str(info.value)


def test_blocks_that_hold_nan_are_named(tmp_path, monkeypatch):
    dask_array = pytest.importorskip("dask.array")
    monkeypatch.setattr(blocks, "SLAB", 12)
    file = np.memmap(tmp_path / "M", dtype="float64", mode="w+", shape=(6, 6))
    file[:] = GOOD
    file[3, 2] = np.nan
    with pytest.raises(sm.NonFiniteError, match=r"M\[2:4\].*\[1, 2\]"):
        sm.nearest_separated(file, THREE, rank=1)
    with pytest.raises(sm.NonFiniteError, match="NaN or infinity"):
        sm.nearest_separated(dask_array.from_array(np.asarray(file)), THREE, rank=1)


def test_what_needs_the_whole_matrix_is_refused_where_it_is_too_large(tmp_path, monkeypatch):
    monkeypatch.setattr(sm._check, "DENSE_LIMIT", 1000)
    file = np.memmap(tmp_path / "M", dtype="float64", mode="w+", shape=(36, 36))
    with pytest.raises(sm.SizeLimitError, match="smaller rank"):
        sm.nearest_separated(file, ((6, 6), (6, 6)), rank=5)
    with pytest.raises(sm.SizeLimitError, match="exact=False"):
        sm.nearest_kronecker(aslinearoperator(np.ones((36, 36))), ((6, 6), (6, 6)), exact=True)
