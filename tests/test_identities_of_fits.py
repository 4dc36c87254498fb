"""The identities that need an SVD, a fit or another backend: 7, 14, 18, 24 to 26, 34, 36, 38, 40, and B19, B25, B26."""

import math

import numpy as np
import pytest
import reference as ref
from cases import CASES, normal
from conftest import DEVICES, check, dtype_of, equal, host, onto
from limits import LIMITS

import sepmat as sm
from sepmat._bounds import BOUNDS
from sepmat.cp.cores import DenseCore

DTYPES = ["float64", "complex128"]
F = ref.frobenius


def close(found, expected, scale, dtype, name):
    check(np.linalg.norm(host(found) - expected), scale, LIMITS[name](), dtype, name)


def eps(dtype):
    return np.finfo(dtype).eps


@pytest.fixture(params=DTYPES)
def dtype(request):
    return request.param


@pytest.mark.parametrize("shapes", [((4, 3), (5, 2)), ((3, 3), (4, 4)), ((2, 4), (3, 5)), ((1, 3), (4, 1))])
def test_07_pseudo_inverse(shapes, dtype, rng):
    """(A⊗B)⁺ = A⁺⊗B⁺, by lstsq on the identity."""
    for _ in range(10):
        A, B = (normal(rng, s, dtype) for s in shapes)
        scale = np.prod([max(M.shape) * np.linalg.cond(M) ** 2 * F(np.linalg.pinv(M)) for M in (A, B)])
        found = sm.lstsq(sm.Kronecker(A, B), np.eye(A.shape[0] * B.shape[0], dtype=dtype))
        close(found, np.kron(np.linalg.pinv(A), np.linalg.pinv(B)), scale, dtype, "id 7")


def test_14_ranks(dtype, rng):
    for p, q in ((1, 1), (2, 3), (3, 2), (0, 2)):
        A, B = (normal(rng, (5, r), dtype) @ normal(rng, (r, 4), dtype) for r in (p, q))
        s = sm.svdvals(sm.Kronecker(A, B))
        equal(int(np.sum(s > 1e-10 * max(s[0], 1e-300))), p * q, "id 14")


def test_18_cholesky(dtype, rng):
    """The factor of a Kronecker product is that of its factors: L Lᴴ and the triangle."""
    for _ in range(10):
        A, B = (M @ M.conj().T for M in (normal(rng, (n, n + 3), dtype) for n in (3, 4)))
        K = sm.Kronecker(np.linalg.cholesky(A), np.linalg.cholesky(B))
        exact = np.linalg.cholesky(np.kron(A, B))
        scale = 12 * np.linalg.cond(A) * np.linalg.cond(B) * F(exact)
        close(K.to_dense(), exact, scale, dtype, "id 18 Cholesky")


@pytest.mark.parametrize("shapes", [((3, 4), (4, 2)), ((3, 3), (3, 3))])
def test_24_25_nearest_sum_of_products(shapes, dtype, rng):
    """‖A − A_r‖ is the tail of the singular values of R(A), the terms are orthonormal, κ = 1."""
    m, n = (math.prod(s[i] for s in shapes) for i in range(2))
    M = normal(rng, (m, n), dtype)
    s = np.linalg.svd(sm.rearrange(M, shapes), compute_uv=False)
    for rank in (1, 2, 4):
        fit = sm.nearest_kronecker(M, shapes, rank=rank, exact=True)
        error = np.linalg.norm(M - fit.matrix.to_dense())
        tail = np.linalg.norm(s[rank:])
        check(abs(error - tail), max(m, n) * F(M), LIMITS["id 24"](), dtype, "id 24")
        S = sm.convert(fit.matrix, sm.Separated)
        check(abs(S.condition_number - 1), max(m, n), LIMITS["id 25"](), dtype, "id 25")


def test_26_ranks_of_separated_matrices(dtype, rng):
    """In numbers of terms and by the singular values of R: sums, products, transposes, multiples."""
    shapes = ((3, 3), (4, 4))
    A, B = (sm.Separated([normal(rng, (r, n, n), dtype) for n, _ in shapes]) for r in (2, 3))

    def rank(M):
        s = np.linalg.svd(sm.rearrange(np.asarray(M), shapes), compute_uv=False)
        return int(np.sum(s > 1e-10 * s[0]))

    equal([rank(A), rank(B), rank(A + B), rank(A @ B), rank(A.T), rank(3 * A)], [2, 3, 5, 6, 2, 2], "id 26")
    K = sm.Kronecker(*(normal(rng, s, dtype) for s in shapes))
    equal([rank(K @ A), rank(A @ K)], [2, 2], "id 26")


def khatri_rao(A, B):
    return np.einsum("ir,jr->ijr", A, B).reshape(-1, A.shape[1])


def test_34_khatri_rao(dtype, rng):
    """(A⊙B)ᴴ(A⊙B) = AᴴA ∘ BᴴB: the Gram matrix of vectors that are separated; (A⊗B)(C⊙D) = AC⊙BD."""
    for _ in range(10):
        A, B = normal(rng, (4, 3), dtype), normal(rng, (5, 3), dtype)
        KR = khatri_rao(ref.wide(A), ref.wide(B))
        columns = [sm.Separated([A.T[r : r + 1, :, None], B.T[r : r + 1, :, None]]) for r in range(3)]
        gram = np.array([[sm.inner(a, b) for b in columns] for a in columns])
        close(gram, KR.conj().T @ KR, F(KR) ** 2, dtype, "id 34")
        P, Q = normal(rng, (3, 4), dtype), normal(rng, (2, 5), dtype)
        image = khatri_rao(ref.wide(P) @ ref.wide(A), ref.wide(Q) @ ref.wide(B))
        close(sm.Kronecker(P, Q) @ KR.astype(dtype), image, F(P) * F(Q) * F(KR), dtype, "id 34")
        w = normal(rng, (3,), dtype)
        Y = ref.wide(A) @ np.diag(ref.wide(w)) @ ref.wide(B).T
        found = sm.Separated([A.T[:, :, None], B.T[:, :, None]], w).to_dense()[:, 0]
        close(found, Y.reshape(-1), F(A) * F(B) * F(w), dtype, "id 34")


def test_36_compression(dtype, rng):
    """To as many terms as there are: exact; again: nothing changes; under a cap: κ stays below it."""
    A = sm.Separated([normal(rng, (3, n, n), dtype) for n in (3, 4, 2)])
    fit = sm.compress(A, rank=3)
    equal(fit.relative_error <= 1e-12, True, "id 36")
    less = sm.compress(A, rank=2)
    again = sm.compress(less.matrix, rank=2)
    equal(abs(again.relative_error) <= 1e-12, True, "id 36")
    capped = sm.compress(A, rank=2, max_condition=1.2)
    equal(capped.condition_number <= 1.2 * (1 + 1e-9), True, "id 36")
    equal(less.relative_error <= capped.relative_error * (1 + 1e-6), True, "id 36")


def test_38_inherited_structure(rng):
    """The nearest single Kronecker product of a matrix that is symmetric, SPD, nonnegative or block Toeplitz."""
    shapes = ((3, 3), (4, 4))
    X = rng.standard_normal((12, 12))
    for M, holds in (
        (X + X.T, lambda V: np.allclose(V, V.T) or np.allclose(V, -V.T)),
        (X @ X.T, lambda V: np.allclose(V, V.T) and np.all(np.linalg.eigvalsh(V * np.sign(V[0, 0])) > 0)),
        (np.abs(X), lambda V: np.all(V * np.sign(V[0, 0]) >= 0)),
        (np.kron(*(np.asarray(sm.Toeplitz(*_toeplitz(rng, n))) for n in (3, 4))), _is_toeplitz),
    ):
        factors = sm.nearest_kronecker(M, shapes, rank=1, exact=True).matrix.factors
        equal([bool(holds(np.asarray(V))) for V in factors], [True, True], "id 38")


def _toeplitz(rng, n):
    c, r = rng.standard_normal(n), rng.standard_normal(n)
    r[0] = c[0]
    return c, r


def _is_toeplitz(V):
    return all(np.allclose(np.diagonal(V, k), np.diagonal(V, k)[0]) for k in range(1 - len(V), len(V)))


@pytest.mark.parametrize("angle", [1e-1, 1e-3, 1e-6])
def test_b19_one_step_of_least_squares(angle, rng):
    """Exact data, other modes known: a step by QR errs by u κ(Khatri–Rao); normal equations would by its square."""
    n, r = 6, 3
    for _ in range(5):
        V = [rng.standard_normal((n, r)) for _ in range(3)]
        for F in V[1:]:  # nearly parallel columns
            F[:, 1] = F[:, 0] + angle * F[:, 1]
        V = [F / np.linalg.norm(F, axis=0) for F in V]
        tensor = np.einsum("ir,jr,kr->ijk", *V)
        found = DenseCore(tensor).sweep([rng.standard_normal((n, r)), V[1], V[2]], 0.0)[0]
        kappa = np.linalg.cond(khatri_rao(V[1], V[2]))
        check(np.linalg.norm(np.abs(found) - np.abs(V[0])), kappa, BOUNDS["B19"](), "float64", "B19 one ALS step")


@pytest.mark.parametrize("tol", [1e-1, 1e-4, 1e-8])
def test_b26_truncation(tol, dtype, rng):
    """‖A − T(A)‖ <= ε ‖A‖ + 30 u √L κ ‖A‖, measured on the dense forms."""
    s = tol ** (np.arange(8) / 4)
    A = sm.Separated([normal(rng, (8, n, n), dtype) for n in (4, 5)], s.astype(dtype))
    fit = sm.compress(A, tol=tol)
    D = ref.separated(*map(ref.wide, A.factors), scales=ref.wide(A.scales))
    error = max(F(fit.matrix.to_dense() - D) - tol * F(D), 0)
    scale = A.condition_number * F(D)
    check(error, scale, BOUNDS["B26"](A.terms), dtype, "B26 truncation")
    assert fit.matrix.terms < A.terms


@pytest.mark.parametrize(
    "backend", ["array_api_strict", "torch", *(pytest.param(name, marks=pytest.mark.gpu) for name in DEVICES)]
)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_b25_40_backends_agree(case, backend):
    """Twice the bound of the product, the same class and dtype: against NumPy, on the same numbers."""
    rng = np.random.default_rng(11)
    for dtype in ("float32", "float64", "complex64", "complex128"):
        data = case.data(rng, dtype)
        A, oracle = case.make(*data), case.oracle(*data)
        B = case.make(*(onto(backend, a) for a in data))
        x = normal(rng, (A.shape[1], 2), dtype)
        y = B @ onto(backend, x)
        equal([type(B).__name__, dtype_of(y), tuple(y.shape)], [type(A).__name__, dtype, (A.shape[0], 2)], "id 40")
        bound = oracle.E @ np.abs(x)
        check(np.abs(host(y) - A @ x), bound, BOUNDS["B25"](), dtype, f"B25 {backend}")
