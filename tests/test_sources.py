"""What the fits see of a matrix: R(M) from every source against the rearranged array, and the compression of its modes."""

import importlib
import math

import numpy as np
import pytest
import scipy.sparse
from conftest import check, host
from scipy.sparse.linalg import LinearOperator, aslinearoperator

import sepmat as sm
from sepmat import modes
from sepmat.sources import as_source, blocks, sparse

PAIRS = [((3, 4), (5, 2)), ((2, 6), (7, 1)), ((6, 1), (1, 5)), ((9, 8), (8, 9))]


def draw(rng, shape, dtype="float64"):
    M = rng.standard_normal(shape)
    return (M + 1j * rng.standard_normal(shape) if dtype == "complex128" else M).astype(dtype)


class Pieces:
    """What HDF5 and Zarr look like: sizes, and rows on request."""

    chunks = None

    def __init__(self, M):
        self.M, self.shape, self.dtype = M, M.shape, M.dtype

    def __getitem__(self, rows):
        return self.M[rows]


def sparse_without_array(M, monkeypatch):
    monkeypatch.setattr(sparse, "DENSE", 0)
    return scipy.sparse.coo_array(M)


SOURCES = {
    "dense": lambda M, _: M,
    "sparse": lambda M, _: scipy.sparse.csc_array(M),
    "nonzeros": sparse_without_array,
    "operator": lambda M, _: aslinearoperator(M),
    "structured": lambda M, _: sm.Dense(M),
    "pieces": lambda M, _: Pieces(M),
    "dask": lambda M, _: importlib.import_module("dask.array").from_array(M, chunks=(4, 5)),
}


@pytest.mark.parametrize("dtype", ["float64", "complex128"])
@pytest.mark.parametrize("pairs", PAIRS, ids=str)
@pytest.mark.parametrize("name", SOURCES)
def test_every_source_answers_as_the_rearranged_array(monkeypatch, rng, name, pairs, dtype):
    if name == "dask":
        pytest.importorskip("dask.array")
    monkeypatch.setattr(blocks, "SLAB", 30 if name == "pieces" else 700)
    M = draw(rng, (pairs[0][0] * pairs[1][0], pairs[0][1] * pairs[1][1]), dtype)
    M = M * (rng.random(M.shape) < 0.4) if name in ("sparse", "nonzeros") else M
    source = as_source(SOURCES[name](M, monkeypatch), "test", np.random.default_rng(0))
    scale = 2.0 ** -sum(source.exponents)
    R, exact = source.rearranged(pairs), sm.rearrange(M, pairs) * scale
    assert R.shape == exact.shape and source.shape == M.shape
    X, Y = draw(rng, (R.shape[1], 3), dtype), draw(rng, (R.shape[0], 3), dtype)
    check(np.abs(R.times(X) - exact @ X), np.abs(exact) @ np.abs(X), 100, "float64", "R X")
    check(np.abs(R.adjoint_times(Y) - exact.conj().T @ Y), np.abs(exact).T @ np.abs(Y), 100, "float64", "Rᴴ Y")
    U, s, V = R.svd()
    check(np.linalg.norm((U * s) @ V.T - exact), np.linalg.norm(exact), 100, "float64", "R = U diag(s) Vᵀ")
    true = [np.linalg.norm(exact), np.linalg.norm(exact - Y @ X.T)]
    found = [R.norm, R.residual(Y, X)]
    if name in ("operator", "structured"):
        R.leading(min(R.shape), np.random.default_rng(1))
        found = [R.norm, R.residual(Y, X)]  # now all of R is known
    check(np.abs(np.subtract(found, true)), true, 1e3, "float64", "norm and residual")


def test_estimates_of_an_operator_are_unbiased():
    rng = np.random.default_rng(7)
    M = draw(rng, (60, 60))
    pairs = ((6, 6), (10, 10))
    zero = [np.zeros((36, 1)), np.zeros((100, 1))]
    ratios = []
    for seed in range(30):
        source = as_source(aslinearoperator(M), "test", np.random.default_rng(seed))
        norm = np.linalg.norm(M) * 2.0 ** -sum(source.exponents)
        ratios.append(source.rearranged(pairs).residual(*zero) ** 2 / norm**2)
    assert abs(np.mean(ratios) - 1) < 4 * np.std(ratios) / math.sqrt(len(ratios)) and np.std(ratios) < 0.15


@pytest.mark.parametrize("terms", [1, 2])
def test_an_operator_of_few_sparse_terms_is_found_exactly(terms):
    """What R(M) leaves of the random columns is rounding in unit vectors, not in random directions."""
    n = 48
    stencil = scipy.sparse.diags([-1.0, 2.0, -1.0], [-1, 0, 1], (n, n)).toarray()
    A = sm.KroneckerSum(stencil, 0.5 * stencil) if terms == 2 else sm.Kronecker(np.eye(n), np.eye(n))
    fit = sm.nearest_separated(aslinearoperator(A), ((n, n), (n, n)), rank=2)
    check(float(sm.distance(fit.matrix, A)), float(sm.norm(A)), 100, "float64", "operator of few terms")
    assert fit.relative_error < 1e-13


@pytest.mark.parametrize("place", ["blocks of a row", "rows of a block", "blocks of a column", "columns of a block"])
def test_an_operator_whose_terms_live_in_few_rows(rng, place):
    """Four random combinations of the blocks do not show 24 of them."""
    n = 24
    T = np.zeros((n, n, n, n))  # digits of the row, digits of the column
    where = {"blocks of a row": 0, "rows of a block": 1, "blocks of a column": 2, "columns of a block": 3}[place]
    T[tuple([slice(None)] * where + [0])] = rng.standard_normal((n, n, n))
    M = np.reshape(T, (n * n, n * n))
    fit = sm.nearest_separated(aslinearoperator(M), ((n, n), (n, n)), rank=6)
    best = sm.nearest_kronecker(M, ((n, n), (n, n)), rank=6, exact=True).relative_error
    assert np.linalg.norm(M - fit.matrix.to_dense()) <= 1.05 * best * np.linalg.norm(M)


def test_an_operator_of_the_wrong_dtype_is_believed_when_it_answers(rng):
    M = draw(rng, (20, 20), "complex128")
    A = LinearOperator((20, 20), matvec=lambda x: M @ x, matmat=lambda X: M @ X, dtype=np.float64)
    fit = sm.nearest_kronecker(A, ((4, 4), (5, 5)), rank=2)
    best = sm.nearest_kronecker(M, ((4, 4), (5, 5)), rank=2, exact=True).relative_error
    assert np.linalg.norm(M - fit.matrix.to_dense()) <= 1.1 * best * np.linalg.norm(M)


def test_dask_sizes_must_be_known():
    array = pytest.importorskip("dask.array").from_array(np.arange(12.0).reshape(6, 2), chunks=2)
    with pytest.raises(sm.ShapeError, match="compute_chunk_sizes"):
        sm.nearest_kronecker(array[array[:, 0] > 3], ((2, 1), (2, 2)))


def test_slabs_cover_the_matrix_once():
    pairs = ((3, 4), (5, 2))
    for entries in (1, 7, 8, 23, 40, 80, 10**6):
        rows = [a * 5 + c + k for a, b, c, d in blocks.slabs(pairs, entries) for k in range((b - a - 1) * 5 + d - c)]
        assert sorted(rows) == list(range(15))


# modes --------------------------------------------------------------------------------------------------------------------


SIZES = [(6, 7), (5, 8, 6), (30, 4, 50), (3, 4, 5, 6), (1, 9, 2)]


def tucker(rng, sizes, rank, dtype, noise):
    core = draw(rng, tuple(min(n, rank) for n in sizes), dtype)
    for k, n in enumerate(sizes):
        Q = np.linalg.qr(draw(rng, (n, core.shape[k]), dtype))[0]
        core = np.moveaxis(np.tensordot(Q, core, (1, k)), 0, k)
    N = draw(rng, sizes, dtype)
    return core + noise * np.linalg.norm(core) / np.linalg.norm(N) * N


def expanded(found):
    T = host(found.core)
    for k, Q in enumerate(found.bases):
        T = np.moveaxis(np.tensordot(host(Q), T, (1, k)), 0, k)
    return T


@pytest.mark.parametrize("dtype", ["float64", "complex128"])
@pytest.mark.parametrize("sizes", SIZES, ids=str)
@pytest.mark.parametrize("noise", [0.0, 1e-9, 0.01])
def test_mode_compression_keeps_what_matters(xp, rng, sizes, dtype, noise):
    rank = 2
    T = tucker(rng, sizes, rank, dtype, noise)
    found, rest = modes.compress_modes(xp.asarray(T), rank=rank, rng=np.random.default_rng(0))
    assert found.core.shape == tuple(min(n, rank) for n in sizes)
    for Q, n, r in zip(found.bases, sizes, found.core.shape, strict=True):
        assert Q.shape == (n, r)
        check(np.abs(host(Q).conj().T @ host(Q) - np.eye(r)), 1.0, 20, "float64")
    error = np.linalg.norm(T - expanded(found))
    assert error <= 1.05 * noise * np.linalg.norm(T) + 1e-14 * np.linalg.norm(T)
    assert abs(rest - error) <= 1e-3 * error + 1e-14 * np.linalg.norm(T)


@pytest.mark.parametrize("tol", [0.3, 1e-2, 1e-5, 1e-10])
def test_mode_compression_to_a_tolerance(rng, tol):
    x, y, z = np.meshgrid(*(np.linspace(0, 1, n) for n in (20, 15, 30)), indexing="ij")
    T = np.exp(-x * y - z * z * x) / (1 + x + y + z)
    found, rest = modes.compress_modes(T, tol=tol, rng=np.random.default_rng(0))
    error = np.linalg.norm(T - expanded(found)) / np.linalg.norm(T)
    assert error <= tol and abs(rest / np.linalg.norm(T) - error) <= 0.01 * error + 1e-15
    assert max(found.core.shape) < 15
    unfoldings = [np.linalg.svd(np.moveaxis(T, k, 0).reshape(T.shape[k], -1), compute_uv=False) for k in range(3)]
    tails = [np.sqrt(np.cumsum(s[::-1] ** 2))[::-1] / np.linalg.norm(s) for s in unfoldings]
    least = max(1, *(int(np.sum(t > tol)) for t in tails))
    assert modes.least_rank(found.core, tol * np.linalg.norm(T)) in (least, least - 1)


def test_the_split_is_balanced():
    assert [modes.balanced_split(s) for s in ((4, 4, 16), (64, 64, 64), (2, 3, 4, 5), (100, 2, 2))] == [2, 1, 2, 1]


def test_refined_spaces_hold_the_terms_of_a_noisy_sum(rng):
    """One alternating step from the exact terms keeps their error, to the second order in the noise."""
    factors = [np.linalg.qr(draw(rng, (12, 3)))[0] for _ in range(3)]
    clean = np.einsum("ia,ja,ka->ijk", *factors)
    N = draw(rng, clean.shape)
    T = clean + 1e-3 * N / np.linalg.norm(N) * np.linalg.norm(clean)
    found, rest = modes.refine_modes(modes.unfolded(T), factors, 3, np.random.default_rng(0))
    assert found.core.shape == (3, 3, 3) and rest <= 1e-3 * np.linalg.norm(T)
