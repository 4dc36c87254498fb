"""Nearest matrices: the closed forms against least squares over a basis, the fits against their optimum or floor."""

import importlib
import itertools

import numpy as np
import pytest
from conftest import ROUNDOFF, check, dtype_of, host, library

import sepmat as sm
from sepmat._bounds import BOUNDS
from sepmat.approximate import STRUCTURES

SHAPES = [(1, 1), (1, 4), (4, 1), (2, 2), (5, 5), (6, 4), (4, 7), (7, 3), (8, 8)]
DTYPES = ["float64", "complex128", "float32", "complex64"]
PROJECTIONS = {
    "circulant": sm.nearest_circulant,
    "skew_circulant": sm.nearest_skew_circulant,
    "toeplitz": sm.nearest_toeplitz,
    "symmetric_toeplitz": lambda M: sm.nearest_toeplitz(M, symmetric=True),
    "hankel": sm.nearest_hankel,
}


def draw(rng, shape, dtype="float64"):
    M = rng.standard_normal(shape)
    if dtype.startswith("complex"):
        M = M + 1j * rng.standard_normal(shape)
    return M.astype(dtype)


def error_of(M, A):
    return np.linalg.norm(M - host(A.to_dense())) / np.linalg.norm(M)


def basis(name, m, n):
    """The 0/±1 matrices that span the class, entry by entry."""
    N = max(m, n)
    place = {
        "circulant": lambda i, j: ((i - j) % N, 1),
        "skew_circulant": lambda i, j: ((i - j) % N, 1 if i >= j else -1),
        "toeplitz": lambda i, j: (i - j + n - 1, 1),
        "symmetric_toeplitz": lambda i, j: (abs(i - j), 1),
        "hankel": lambda i, j: (i + j, 1),
    }[name]
    found = {}
    for i, j in itertools.product(range(m), range(n)):
        k, sign = place(i, j)
        found.setdefault(k, np.zeros((m, n)))[i, j] = sign
    return list(found.values())


# closed forms -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PROJECTIONS)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_projection_is_the_least_squares_solution(xp, rng, name, shape, dtype):
    M = draw(rng, shape, dtype)
    fit = PROJECTIONS[name](xp.asarray(M))
    A = np.stack([B.reshape(-1) for B in basis(name, *shape)], axis=1)
    best = A @ np.linalg.lstsq(A, M.astype("complex128").reshape(-1), rcond=None)[0]
    got = host(fit.matrix.to_dense())
    assert library(fit.matrix.arrays()[0]) == library(xp.asarray(M)) and dtype_of(fit.matrix) == dtype
    limit = 1e-13 / 2**-53  # 1e-13 in float64, in float32 as many units of its roundoff
    check(np.abs(got.reshape(-1) - best), np.max(np.abs(M)), limit, dtype, "projection")
    exact = np.linalg.norm(M.reshape(-1) - best) / np.linalg.norm(M)
    check(abs(fit.relative_error - exact), 1.0, 20, dtype)
    assert isinstance(fit.relative_error, float) and fit.optimal and fit.converged and fit.condition_number is None
    assert fit.num_parameters == fit.matrix.num_parameters


@pytest.mark.parametrize("name", PROJECTIONS)
def test_projection_is_idempotent_and_its_residual_orthogonal(rng, name):
    M = draw(rng, (9, 6))
    P = PROJECTIONS[name](M).matrix.to_dense()
    again = PROJECTIONS[name](P)
    check(np.abs(again.matrix.to_dense() - P), np.max(np.abs(M)), 40, "float64")
    assert again.relative_error < 1e-15 * 10
    check(abs(np.sum((M - P) * P)), np.linalg.norm(M) ** 2, 20, "float64")


def test_symmetric_toeplitz_stores_its_first_column_only(rng):
    M = draw(rng, (6, 6))
    fit = sm.nearest_toeplitz(M, symmetric=True)
    T = fit.matrix.to_dense()
    assert fit.num_parameters == 6 and np.array_equal(T, T.T)
    complex_fit = sm.nearest_toeplitz(M + 1j * draw(rng, (6, 6)), symmetric=True)
    T = complex_fit.matrix.to_dense()
    assert np.array_equal(T, T.T)  # symmetric, not Hermitian


@pytest.mark.parametrize("name", PROJECTIONS)
def test_projection_passes_gradients(rng, name):
    torch = pytest.importorskip("torch")
    M = torch.tensor(draw(rng, (4, 3)), requires_grad=True)
    assert torch.autograd.gradcheck(lambda M: PROJECTIONS[name](M).matrix.to_dense(), (M,))


@pytest.mark.parametrize("shape", [(5, 8), (8, 5), (6, 6), (1, 3)])
@pytest.mark.parametrize("dtype", DTYPES)
def test_low_rank_is_the_truncated_svd(xp, rng, shape, dtype):
    M = draw(rng, shape, dtype)
    s = np.linalg.svd(M.astype("complex128"), compute_uv=False)
    tails = np.sqrt(np.append(np.cumsum(s[::-1] ** 2)[::-1], 0)) / np.linalg.norm(s)
    for rank in range(1, min(shape) + 1):
        fit = sm.nearest_low_rank(xp.asarray(M), rank=rank)
        check(abs(fit.relative_error - tails[rank]), 1.0, 100, dtype)
        assert fit.matrix.rank == rank and fit.optimal and fit.num_parameters == rank * sum(shape)
        if tails[rank] > 1e-3:
            assert sm.nearest_low_rank(xp.asarray(M), tol=1.001 * tails[rank]).matrix.rank == rank
    assert error_of(M, sm.nearest_low_rank(M, tol=1e-3).matrix) <= 1e-3


@pytest.mark.parametrize("power", [200, -200, -300])
def test_huge_and_tiny_entries_give_the_same_fit(rng, power):
    M = draw(rng, (12, 12))
    big = M * 10.0**power
    fits = [
        *PROJECTIONS.values(),
        lambda M: sm.nearest_low_rank(M, rank=2),
        lambda M: sm.nearest_kronecker(M, ((3, 4), (4, 3))),
        lambda M: sm.nearest_kronecker(M, ((3, 4), (4, 3)), rank=3),
        lambda M: sm.nearest_kronecker(sm.LowRank(M[:, :2], M[:2].T / np.max(np.abs(M))), ((3, 4), (4, 3)), rank=2),
        lambda M: sm.nearest_displacement(M, rank=1),
    ]
    for fn in fits:
        a, b = fn(M), fn(big)
        check(abs(a.relative_error - b.relative_error), 1.0, 1e4, "float64")
        dense = b.matrix.to_dense()
        assert np.all(np.isfinite(dense))
        if power > -300:
            assert np.allclose(dense / 10.0**power, a.matrix.to_dense(), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("shape", [(6, 6), (4, 6), (0, 0), (1, 1)])
def test_zero_matrix_is_fitted_by_zero_without_error(xp, shape):
    M = xp.zeros(shape, dtype=xp.float64)
    fits = [fn(M) for fn in PROJECTIONS.values()]
    fits += [sm.nearest_low_rank(M, rank=1), sm.nearest_low_rank(M, tol=0.1), sm.nearest_displacement(M, rank=1)]
    if shape == (4, 6):
        shapes = ((2, 3), (2, 2))
        fits += [sm.nearest_kronecker(M, shapes), sm.nearest_kronecker(M, shapes, rank=2, exact=True)]
        fits += [sm.nearest_kronecker(M, shapes, tol=0.1)]
    for fit in fits:
        assert fit.relative_error == 0.0 and fit.optimal and np.all(host(fit.matrix.to_dense()) == 0)


def test_fit_prints_as_one_line(rng):
    fit = sm.nearest_toeplitz(draw(rng, (10, 10)))
    text = str(fit)
    assert text == repr(fit) and "\n" not in text
    for part in ("Toeplitz", "19", "19.00%", f"{fit.relative_error:.3e}", "optimal"):
        assert part in text
    with pytest.raises(AttributeError):
        fit.relative_error = 0.0


# Kronecker products -------------------------------------------------------------------------------------------------------


def kronecker_tails(M, shapes):
    s = np.linalg.svd(sm.rearrange(M, shapes).astype("complex128"), compute_uv=False)
    return np.sqrt(np.append(np.cumsum(s[::-1] ** 2)[::-1], 0)) / np.linalg.norm(s)


PAIRS = [((3, 4), (5, 2)), ((4, 4), (4, 4)), ((1, 6), (7, 1)), ((6, 5), (3, 4)), ((1, 1), (4, 3))]


@pytest.mark.parametrize("shapes", PAIRS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_exact_kronecker_is_the_optimum(xp, rng, shapes, dtype):
    """B20: |‖M − A_r‖² − Σ_{i>r} σ_i²| <= 100 u ‖M‖², alarm 40; and no random candidate is better."""
    (m1, n1), (m2, n2) = shapes
    M = draw(rng, (m1 * m2, n1 * n2), dtype)
    tails = kronecker_tails(M, shapes)
    for rank in {1, 2, 3, min(m1 * n1, m2 * n2)} & set(range(1, min(m1 * n1, m2 * n2) + 1)):
        fit = sm.nearest_kronecker(xp.asarray(M), shapes, rank=rank, exact=True)
        assert isinstance(fit.matrix, sm.Kronecker if rank == 1 else sm.Separated) and fit.optimal
        assert dtype_of(fit.matrix) == dtype and library(fit.matrix.arrays()[0]) == library(xp.asarray(M))
        true = error_of(M, fit.matrix)
        check(abs(true**2 - tails[rank] ** 2), 1.0, BOUNDS["B20"](), dtype, "B20 nearest Kronecker sum")
        check(abs(true - fit.relative_error), 1.0, 40, dtype)
        assert fit.num_parameters == rank * (m1 * n1 + m2 * n2) + (rank if rank > 1 else 0)
        assert fit.condition_number == 1.0
        B, C = draw(rng, (rank, m1, n1), dtype), draw(rng, (rank, m2, n2), dtype)
        candidate = sm.Separated((B, C)).to_dense()
        scale = np.sum(np.conj(candidate) * M) / np.sum(np.abs(candidate) ** 2)
        assert error_of(M, sm.Dense(scale * candidate)) >= (1 - 1e-6) * tails[rank] - 1e-6


@pytest.mark.parametrize("rank", [2, 5])
def test_terms_are_orthonormal(rng, rank):
    A = sm.nearest_kronecker(draw(rng, (30, 24)), ((6, 4), (5, 6)), rank=rank).matrix
    for F in A.factors:
        X = F.reshape(rank, -1)
        assert np.allclose(X @ X.T, np.eye(rank), atol=1e-13)
    assert np.all(np.diff(A.scales) <= 0) and np.all(A.scales >= 0)
    assert np.all(A.factors[0].sum(axis=(1, 2)) >= -1e-12)
    assert abs(A.condition_number - 1) < 1e-12


def spectra(rng, p):
    """The matrices of the speed comparison, p² × p²: flat, geometric and fast spectra of the rearranged matrix."""

    def unit():
        return (X := rng.standard_normal((p, p))) / np.linalg.norm(X)

    x = np.linspace(0, 1, p * p)
    return {
        "random": rng.standard_normal((p * p, p * p)),
        "decaying": sum(0.7**l * np.kron(unit(), unit()) for l in range(2 * p)),
        "kernel": np.exp(-np.abs(x[:, None] - x) / 0.1),
    }


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["random", "decaying", "kernel"])
def test_block_power_is_within_1_003_of_the_optimum(kind):
    M = spectra(np.random.default_rng(0), 32)[kind]
    shapes = ((32, 32), (32, 32))
    tails = kronecker_tails(M, shapes)
    for rank in (1, 2, 4, 8):
        fit = sm.nearest_kronecker(M, shapes, rank=rank)
        assert not fit.optimal
        assert fit.relative_error <= 1.003 * tails[rank] + 1e-14
        assert abs(fit.relative_error - error_of(M, fit.matrix)) < 1e-13


def test_kronecker_repeats_and_takes_generators(rng):
    M = draw(rng, (144, 144))
    shapes = ((12, 12), (12, 12))
    a, b = (sm.nearest_kronecker(M, shapes, rank=2) for _ in range(2))
    assert a.matrix.equals(b.matrix) and not a.optimal
    c = sm.nearest_kronecker(M, shapes, rank=2, seed=np.random.default_rng(1))
    d = sm.nearest_kronecker(M, shapes, rank=2, seed=1)
    assert c.matrix.equals(d.matrix) and not c.matrix.equals(a.matrix)
    assert sm.nearest_kronecker(M, shapes, seed=None).relative_error < 1


@pytest.mark.parametrize("kind", ["random", "decaying", "kernel"])
@pytest.mark.parametrize("tol", [0.6, 0.2, 1e-2, 1e-6])
def test_kronecker_tolerance(kind, tol):
    M = spectra(np.random.default_rng(1), 12)[kind]
    shapes = ((12, 12), (12, 12))
    fit = sm.nearest_kronecker(M, shapes, tol=tol)
    least = int(np.argmax(kronecker_tails(M, shapes) <= tol))
    terms = 1 if isinstance(fit.matrix, sm.Kronecker) else fit.matrix.terms
    assert error_of(M, fit.matrix) <= tol * (1 + 1e-12)
    assert max(1, least) <= terms <= least + 1
    assert abs(fit.relative_error - error_of(M, fit.matrix)) < 1e-13


@pytest.mark.parametrize("dtype", ["float64", "complex128"])
@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("shapes", [((3, 4), (5, 2)), ((12, 10), (11, 13)), ((40, 3), (2, 6)), ((2, 3), (30, 4))])
def test_low_rank_input_is_fitted_as_its_dense_form(xp, rng, dtype, exact, shapes):
    (m1, n1), (m2, n2) = shapes
    U, V = draw(rng, (m1 * m2, 2), dtype), draw(rng, (n1 * n2, 2), dtype)
    M = U @ V.T
    tails = kronecker_tails(M, shapes)
    for rank in (1, 3):
        fit = sm.nearest_kronecker(sm.LowRank(xp.asarray(U), xp.asarray(V)), shapes, rank=rank, exact=exact)
        assert abs(fit.relative_error - error_of(M, fit.matrix)) < 1e-13
        assert fit.relative_error <= (1 + 1e-12 if exact else 1.01) * tails[rank] + 1e-13
        assert not exact or fit.optimal
    fit = sm.nearest_kronecker(sm.LowRank(U, V), shapes, tol=0.3)
    assert error_of(M, fit.matrix) <= 0.3


def test_separable_low_rank_input_is_exact(rng):
    u, v = (np.kron(draw(rng, (30, 1)), draw(rng, (20, 1))) for _ in range(2))
    fit = sm.nearest_kronecker(sm.LowRank(u, v), ((30, 30), (20, 20)))
    assert fit.relative_error < 1e-14


SQUARES = [((4, 4), (5, 5)), ((10, 10), (10, 10)), ((1, 1), (6, 6))]


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("shapes", SQUARES)
def test_structure_of_a_single_product_is_inherited(xp, rng, shapes, exact):
    """Identity 38: nonnegative, positive (semi)definite and symmetric matrices keep it; PSD only for one term."""
    n = shapes[0][0] * shapes[1][0]
    X, Y = draw(rng, (n, n)), draw(rng, (n, n))
    Z = (X + 1j * Y) @ (X + 1j * Y).conj().T

    def factors(M):
        return [host(F) for F in sm.nearest_kronecker(xp.asarray(M), shapes, exact=exact).matrix.factors]

    for F in factors(np.abs(X)):
        assert np.all(F >= 0)
    for M in (X @ X.T, (Z + Z.conj().T) / 2):
        for F in factors(M):
            assert np.array_equal(F, F.conj().T)
            values = np.linalg.eigvalsh(F)
            assert values[0] >= -1e-13 * values[-1]
    both = np.exp(-np.abs(np.arange(n)[:, None] - np.arange(n)) / n)
    for F in factors(both):
        assert np.all(F >= 0) and np.linalg.eigvalsh(F)[0] >= -1e-13 and np.array_equal(F, F.T)


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("shapes", [((4, 4), (5, 5)), ((10, 10), (10, 10)), ((9, 9), (8, 8))])
def test_terms_of_a_symmetric_matrix_are_symmetric_or_skew(xp, rng, shapes, exact):
    n = shapes[0][0] * shapes[1][0]
    M = draw(rng, (n, n))
    M = M + M.T
    fit = sm.nearest_kronecker(xp.asarray(M), shapes, rank=6, exact=exact)
    assert fit.relative_error <= 1.01 * kronecker_tails(M, shapes)[6]
    kinds = set()
    for B, C in zip(*map(host, fit.matrix.factors), strict=True):
        sign = 1 if np.array_equal(B, B.T) else -1
        assert np.array_equal(B, sign * B.T) and np.array_equal(C, sign * C.T)
        kinds.add(sign)
    assert kinds == {1, -1}


def test_a_skew_pair_can_be_the_nearest(rng):
    S, T = draw(rng, (4, 4)), draw(rng, (5, 5))
    M = np.kron(S - S.T, T - T.T)
    M = (M + M.T) / 2
    fit = sm.nearest_kronecker(M, ((4, 4), (5, 5)))
    B = fit.matrix.factors[0]
    assert fit.relative_error < 1e-14 and np.array_equal(B, -B.T)


def test_linear_structure_of_the_blocks_is_inherited(rng):
    blocks = [sm.Toeplitz(draw(rng, 5), None).to_dense() for _ in range(16)]
    M = np.block([[blocks[4 * i + j] for j in range(4)] for i in range(4)])
    for C in sm.nearest_kronecker(M, ((4, 4), (5, 5)), rank=3).matrix.factors[1]:
        assert np.allclose(C, sm.nearest_toeplitz(C).matrix.to_dense(), atol=1e-13)


# low displacement rank ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(1, 1), (2, 2), (9, 9), (16, 16), (6, 9), (9, 6)])
@pytest.mark.parametrize("dtype", ["float64", "complex128"])
def test_the_classes_inside_are_recovered(xp, rng, shape, dtype):
    M = draw(rng, shape, dtype)
    inside = [(sm.nearest_circulant, 1), (sm.nearest_skew_circulant, 1), (sm.nearest_toeplitz, 2)]
    for nearest, rank in inside:
        if rank <= max(shape):
            target = nearest(M).matrix.to_dense()
            assert sm.nearest_displacement(xp.asarray(target), rank).relative_error < 1e-13
    if min(shape) >= 4:
        target = sm.nearest_low_rank(M, rank=2).matrix.to_dense()
        assert sm.nearest_displacement(xp.asarray(target), 4).relative_error < 1e-13


@pytest.mark.parametrize("dtype", ["float64", "complex128"])
def test_inverses_and_products_of_toeplitz_matrices_are_recovered(rng, dtype):
    c, r = draw(rng, 15, dtype), draw(rng, 15, dtype)
    c[0] = r[0] = 8
    T = sm.Toeplitz(c, r).to_dense()
    assert sm.nearest_displacement(np.linalg.inv(T), 2).relative_error < 1e-13
    assert sm.nearest_displacement(T @ T.T, 4).relative_error < 1e-13


@pytest.mark.parametrize("shape", [(12, 12), (13, 13), (8, 12), (12, 8)])
@pytest.mark.filterwarnings("ignore::sepmat.ConvergenceWarning")
def test_displacement_is_never_worse_than_the_classes_inside(rng, shape):
    M = draw(rng, shape)
    errors = {rank: sm.nearest_displacement(M, rank).relative_error for rank in (1, 2, 3, 4, 6)}
    inside = [sm.nearest_circulant(M), sm.nearest_skew_circulant(M)]
    assert errors[1] <= min(fit.relative_error for fit in inside)
    assert errors[2] <= sm.nearest_toeplitz(M).relative_error
    for rank in (2, 4, 6):
        assert errors[rank] <= sm.nearest_low_rank(M, rank=rank // 2).relative_error
    values = list(errors.values())
    assert all(b <= a for a, b in itertools.pairwise(values))


@pytest.mark.filterwarnings("ignore::sepmat.ConvergenceWarning")
def test_displacement_fit_tells_the_truth(xp, rng):
    for dtype in DTYPES:
        M = draw(rng, (10, 10), dtype)
        fit = sm.nearest_displacement(xp.asarray(M), 2)
        assert dtype_of(fit.matrix) == dtype and fit.num_parameters == 40 and not fit.optimal and fit.iterations > 0
        check(abs(fit.relative_error - error_of(M, fit.matrix)), 1.0, 100, dtype)
    again = sm.nearest_displacement(xp.asarray(M), 2)
    assert again.matrix.equals(fit.matrix)


def test_displacement_says_when_it_has_not_settled(monkeypatch, rng):
    module = importlib.import_module("sepmat.nearest_displacement")
    monkeypatch.setattr(module, "LONG", 2)
    with pytest.warns(sm.ConvergenceWarning, match="2 sweeps"):
        fit = sm.nearest_displacement(draw(rng, (20, 20)), 3)
    assert not fit.converged and fit.relative_error < 1


# n = 100, k = 5, ε = 0.05, default_rng(10), 40 sweeps of a single start: values to three digits
TERMS = (1, 2, 3, 5, 10, 20, 40)
REACHED = {
    "gaussian": (0.982, 0.965, 0.948, 0.914, 0.834, 0.684, 0.426),
    "near_low_rank": (0.948, 0.837, 0.785, 0.625, 0.020, 0.016, 0.010),
    "sin_rows": (0.974, 0.948, 0.924, 0.878, 0.769, 0.588, 0.294),
}


def near_structured(n=100, k=5, epsilon=0.05):
    rng = np.random.default_rng(10)
    gaussian = rng.standard_normal((n, n))
    G, H, R = rng.standard_normal((n, k)), rng.standard_normal((k, n)), rng.standard_normal((n, n))
    t, S = rng.standard_normal(n), rng.standard_normal((n, n))
    rows = np.sin(t[:, None] * np.arange(1, n + 1)) + epsilon * S
    return {"gaussian": gaussian, "near_low_rank": G @ H + epsilon * R, "sin_rows": rows}


@pytest.mark.slow
@pytest.mark.parametrize("kind", REACHED)
@pytest.mark.filterwarnings("ignore::sepmat.ConvergenceWarning")
def test_displacement_errors_of_the_surm_figure(kind):
    """SURM figure 5, left column: at least as good as the known values (rounded, so half a unit of the last digit)."""
    M, last = near_structured()[kind], 1.0
    for rank, reached in zip(TERMS, REACHED[kind], strict=True):
        error = sm.nearest_displacement(M, rank).relative_error
        assert error <= reached + 5e-4, f"r = {rank}: {error:.4f} > {reached}"
        assert error <= last
        last = error


# approximate --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(24, 24), (16, 30), (13, 13), (1, 12), (12, 1), (1, 1), (0, 3), (0, 0)])
@pytest.mark.parametrize("dtype", ["float64", "complex64"])
def test_approximate_keeps_the_budget_and_the_order(rng, shape, dtype):
    M = draw(rng, shape, dtype)
    m, n = shape
    budget = max(1, m * n // 3, m + n)
    fits = sm.approximate(M, max_parameters=budget)
    keys = [(fit.relative_error, fit.num_parameters) for fit in fits]
    assert fits and keys == sorted(keys) and all(fit.num_parameters <= budget for fit in fits)
    for fit in fits:
        assert fit.matrix.shape == shape and fit.num_parameters == fit.matrix.num_parameters
        if 0 not in shape:
            assert abs(fit.relative_error - error_of(M, fit.matrix)) < 100 * ROUNDOFF[dtype]


@pytest.mark.parametrize("tol", [0.5, 0.05])
def test_approximate_meets_the_tolerance(rng, tol):
    i = np.arange(24)
    M = np.exp(-np.abs(i[:, None] - i) / 8) * (1 + 0.1 * np.cos(i)) + 1e-3 * draw(rng, (24, 24))
    fits = sm.approximate(M, tol=tol)
    keys = [(fit.num_parameters, fit.relative_error) for fit in fits]
    assert fits and keys == sorted(keys)
    assert all(fit.relative_error <= tol and fit.num_parameters < M.size for fit in fits)
    assert {type(fit.matrix).__name__ for fit in fits} >= {"LowRank", "LowDisplacementRank"}


def test_approximate_tries_every_class_and_shape(rng):
    fits = sm.approximate(draw(rng, (12, 12)), max_parameters=143)
    classes = {type(fit.matrix).__name__ for fit in fits}
    expected = "LowRank Circulant SkewCirculant Toeplitz Hankel Kronecker Separated LowDisplacementRank"
    assert classes == set(expected.split())
    sizes = [fit.num_parameters for fit in fits if isinstance(fit.matrix, sm.Toeplitz)]
    assert sorted(sizes) == [12, 23]
    products = [fit.matrix for fit in fits if isinstance(fit.matrix, (sm.Kronecker, sm.Separated))]
    pairs = {tuple(tuple(F.shape[-2:]) for F in A.factors) for A in products}
    divisors = (1, 2, 3, 4, 6, 12)
    every = {((a, b), (12 // a, 12 // b)) for a in divisors for b in divisors}
    assert every - pairs == {
        pair for pair in every if (1, 1) in pair or pair in (((12, 1), (1, 12)), ((1, 12), (12, 1)))
    }


@pytest.mark.parametrize("name", STRUCTURES)
def test_approximate_finds_what_was_hidden(xp, rng, name):
    c = draw(rng, 12)
    hidden = {
        "low_rank": sm.LowRank(c[:, None], c[:, None]),
        "circulant": sm.Circulant(c),
        "skew_circulant": sm.SkewCirculant(c),
        "toeplitz": sm.Toeplitz(c, np.append(c[0], draw(rng, 11))),
        "hankel": sm.Hankel(c, np.append(c[-1], draw(rng, 11))),
        "kronecker": sm.Kronecker(draw(rng, (3, 2)), draw(rng, (4, 6))),
        "displacement": sm.LowDisplacementRank(draw(rng, (12, 2)), draw(rng, (12, 2))),
    }[name]
    best = sm.approximate(xp.asarray(hidden.to_dense()), tol=1e-12)[0]
    assert type(best.matrix) is type(hidden) and best.relative_error < 1e-12
    assert sm.approximate(xp.asarray(hidden.to_dense()), tol=1e-12, structures=[name])


def test_approximate_restricted_to_some_structures(rng):
    M = draw(rng, (8, 8))
    fits = sm.approximate(M, max_parameters=20, structures=("toeplitz", "hankel"))
    assert {type(fit.matrix) for fit in fits} == {sm.Toeplitz, sm.Hankel}
    assert sm.approximate(M, max_parameters=20, structures="circulant")[0].num_parameters == 8
    assert sm.approximate(M, max_parameters=1) == [] and sm.approximate(M, tol=1e-15) == []


def test_approximate_shows_progress(rng, capsys):
    pytest.importorskip("tqdm")
    sm.approximate(draw(rng, (4, 4)), max_parameters=8, progress=True)
    assert "fit" in capsys.readouterr().err


def test_progress_without_tqdm_says_what_to_install(rng, monkeypatch):
    monkeypatch.setitem(importlib.import_module("sys").modules, "tqdm", None)
    with pytest.raises(sm.BackendError, match=r"sepmat\[files\]"):
        sm.approximate(draw(rng, (4, 4)), max_parameters=8, progress=True)


# errors -------------------------------------------------------------------------------------------------------------------

M = np.arange(36.0).reshape(6, 6) + 1
SHAPES_OF_M = ((2, 3), (3, 2))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: sm.nearest_kronecker(np.ones((40, 6)), ((6, 2), (7, 3))), sm.ShapeError, "6·7 ≠ 40.*Divisors of 40"),
        (lambda: sm.nearest_kronecker(M, ((2, 3), (3, 2), (1, 1))), sm.ShapeError, "3 pairs"),
        (lambda: sm.nearest_kronecker(M, 6), sm.ShapeError, "pairs"),
        (lambda: sm.nearest_kronecker(M, SHAPES_OF_M, rank=7), sm.ArgumentError, "7 > 6 possible"),
        (lambda: sm.nearest_kronecker(M, SHAPES_OF_M, rank=0), sm.ArgumentError, "rank"),
        (lambda: sm.nearest_kronecker(M, SHAPES_OF_M, rank=2.5), sm.DTypeError, "rank"),
        (lambda: sm.nearest_kronecker(M, SHAPES_OF_M, rank="2"), sm.DTypeError, "rank"),
        (lambda: sm.nearest_kronecker(M, SHAPES_OF_M, rank=True), sm.DTypeError, "rank"),
        (lambda: sm.nearest_kronecker(M, SHAPES_OF_M, rank=2, tol=0.1), sm.ArgumentError, "exactly one"),
        (lambda: sm.nearest_kronecker(M, SHAPES_OF_M, tol=-1.0), sm.ArgumentError, "tol"),
        (lambda: sm.nearest_kronecker(M, SHAPES_OF_M, tol=float("nan")), sm.ArgumentError, "tol"),
        (lambda: sm.nearest_kronecker(M, SHAPES_OF_M, tol="1e-8"), sm.DTypeError, "tol"),
        (lambda: sm.nearest_kronecker(M, SHAPES_OF_M, seed=np.random.RandomState(0)), sm.DTypeError, "seed"),
        (lambda: sm.nearest_low_rank(M), sm.ArgumentError, "exactly one"),
        (lambda: sm.nearest_low_rank(M, rank=500), sm.ArgumentError, "500 > 6 possible"),
        (lambda: sm.nearest_low_rank(M, tol=1.0), sm.ArgumentError, "tol"),
        (lambda: sm.nearest_displacement(M, 7), sm.ArgumentError, "7 > 6 possible"),
        (lambda: sm.nearest_displacement(M, None), sm.DTypeError, "rank"),
        (lambda: sm.nearest_toeplitz(np.ones(3)), sm.ShapeError, "2-D"),
        (lambda: sm.nearest_toeplitz(np.ones((0, 3))), sm.ShapeError, "0×3"),
        (lambda: sm.nearest_hankel(np.ones((3, 0))), sm.ShapeError, "3×0"),
        (lambda: sm.nearest_circulant(sm.Dense(M)), sm.DTypeError, "to_dense"),
        (lambda: sm.nearest_circulant(np.ones((2, 2), "float16")), sm.DTypeError, "float16"),
        (lambda: sm.approximate(M), sm.ArgumentError, "exactly one"),
        (lambda: sm.approximate(M, max_parameters=0), sm.ArgumentError, "max_parameters"),
        (lambda: sm.approximate(M, max_parameters=9, structures=["toplitz"]), sm.ArgumentError, "one of toeplitz"),
    ],
)
def test_impossible_arguments(call, error, message):
    with pytest.raises(error, match=message):
        call()


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_non_finite_entries_are_counted_and_located(xp, bad):
    A = M.copy()
    A[0, 3] = A[2, 2] = bad
    calls = [
        *PROJECTIONS.values(),
        lambda M: sm.nearest_low_rank(M, rank=1),
        lambda M: sm.nearest_kronecker(M, SHAPES_OF_M),
        lambda M: sm.nearest_displacement(M, 1),
        lambda M: sm.approximate(M, max_parameters=9),
    ]
    for call in calls:
        with pytest.raises(sm.NonFiniteError, match=r"2 non-finite entries, first at \[0, 3\]"):
            call(xp.asarray(A))
    with pytest.raises(sm.NonFiniteError):
        sm.nearest_kronecker(sm.LowRank(xp.asarray(A), xp.asarray(M)), SHAPES_OF_M)


def test_integers_are_taken_as_float64():
    fit = sm.nearest_toeplitz([[1, 2], [4, 3]])
    assert np.array_equal(fit.matrix.to_dense(), [[2.0, 2.0], [4.0, 2.0]])


def test_a_tolerance_below_the_roundoff_is_warned_of(rng):
    A = draw(rng, (6, 6), "float32")
    for call in (
        lambda: sm.nearest_low_rank(A, tol=1e-9),
        lambda: sm.nearest_kronecker(A, SHAPES_OF_M, tol=1e-9),
        lambda: sm.approximate(A, tol=1e-9),
    ):
        with pytest.warns(sm.PrecisionWarning, match="unit roundoff"):
            call()
