"""Preconditioners against dense definitions: optimality, definiteness, clusters of eigenvalues, regularisation."""

import math

import numpy as np
import pytest
import scipy.linalg
from conftest import check, dtype_of, host

import sepmat as sm

DTYPES = ("float32", "float64", "complex128")


def power_law(n):
    return (1 + np.arange(n)) ** -1.1


def gaussian(n):
    return np.exp(-(np.arange(n) ** 2) / 18) + 1e-3 * (np.arange(n) == 0)


def draw(rng, shape, dtype):
    x = rng.standard_normal(shape)
    return (x + 1j * rng.standard_normal(shape) if dtype.startswith("complex") else x).astype(dtype)


def asarray(xp, numbers):
    return xp.asarray(numbers, dtype=xp.float64)


def general(xp, rng, n, dtype="float64"):
    """A Toeplitz matrix without symmetry, and it as a dense one."""
    c, r = draw(rng, n, dtype), draw(rng, n, dtype)
    if n:
        r[0] = c[0]
    return sm.Toeplitz(xp.asarray(c), xp.asarray(r)), scipy.linalg.toeplitz(c, r) if n else np.zeros((0, 0))


def definite(rng, n):
    return sm.Toeplitz(rng.standard_normal(n) * 0.5 ** np.arange(n) + 4.0 * (np.arange(n) == 0))


# circulants -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", [0, 1, 2, 3, 8, 13])
def test_t_chan_is_the_nearest_circulant(xp, rng, n, dtype):
    T, D = general(xp, rng, n, dtype)
    C = sm.t_chan(T)
    assert type(C) is sm.Circulant and dtype_of(C) == dtype and C.shape == (n, n)
    if n:
        nearest = sm.nearest_circulant(D.astype(np.result_type(D, np.float64))).matrix
        check(np.abs(host(C.c) - nearest.c), np.abs(D).max(), n + 4, dtype, "t_chan")


@pytest.mark.parametrize("n", [1, 2, 3, 8, 13])
def test_strang_keeps_the_central_diagonals(xp, rng, n):
    T, D = general(xp, rng, n)
    C = host(sm.strang(T).to_dense())
    for i in range(n):
        for j in range(n):
            if 2 * abs(i - j) < n:
                assert C[i, j] == D[i, j]
            elif 2 * abs(i - j) == n:
                assert C[i, j] == pytest.approx((D[n // 2, 0] + D[0, n // 2]) / 2, rel=1e-15)


@pytest.mark.parametrize("dtype", ["float64", "complex128"])
@pytest.mark.parametrize("n", [1, 2, 7, 16])
def test_superoptimal_minimises_the_distance_to_the_identity(xp, rng, n, dtype):
    """Against diag(F T Tᴴ Fᴴ) / conj(diag(F T Fᴴ)) of the dense matrix, and against circulants near it."""
    T, D = general(xp, rng, n, dtype)
    C = sm.superoptimal(T)
    F = scipy.linalg.dft(n, scale="sqrtn")
    top, bottom = np.diag(F @ D @ D.conj().T @ F.conj().T), np.diag(F @ D @ F.conj().T)
    exact = F.conj().T @ np.diag(top / bottom.conj()) @ F
    condition = np.abs(bottom).max() / np.abs(bottom).min() * np.abs(top).max() / np.abs(bottom).min()
    check(np.abs(host(C.to_dense()) - exact).max(), condition, 100 * max(1, math.log2(n)), dtype, "superoptimal")

    def distance(C):
        return np.linalg.norm(np.eye(n) - np.linalg.solve(C, D))

    best = distance(exact)
    for _ in range(5):
        assert distance(exact + 1e-3 * scipy.linalg.circulant(draw(rng, n, dtype))) >= best - 1e-12
    assert best <= distance(host(sm.t_chan(T).to_dense())) + 1e-12


def test_positive_definiteness_is_kept(rng):
    """The eigenvalues of t_chan lie between those of T; superoptimal is definite too (Tyrtyshnikov 1992)."""
    for n in (5, 16, 33):
        for T in (definite(rng, n), sm.Toeplitz(gaussian(n)), sm.Toeplitz(power_law(n))):
            low, *_, high = np.linalg.eigvalsh(T.to_dense())
            values = sm.eigvals(sm.t_chan(T))
            check(np.abs(values.imag).max(), high, n, "float64")
            assert low * (1 - 1e-12) <= values.real.min() and values.real.max() <= high * (1 + 1e-12)
            assert sm.eigvals(sm.superoptimal(T)).real.min() > 0
    H = sm.Toeplitz(np.array([4.0, 1.0 + 1.0j, 0.5j, 0.2]))
    for f in (sm.strang, sm.t_chan, sm.superoptimal):
        values = sm.eigvals(f(H))
        assert np.abs(values.imag).max() < 1e-12 and values.real.min() > 0


@pytest.mark.parametrize(
    "symbol, preconditioner, outliers",
    [(power_law, sm.strang, 2), (power_law, sm.t_chan, 2), (power_law, sm.superoptimal, 3), (gaussian, sm.strang, 6)],
)
def test_eigenvalues_cluster_at_one(symbol, preconditioner, outliers):
    """So many eigenvalues of C⁻¹ T outside (0.8, 1.25), however large n is; those of T lie all over.

    A Gaussian kernel is so ill-conditioned that the cluster of T. Chan's circulant only comes at n beyond 1000.
    """
    for n in (128, 256, 512):
        T = sm.Toeplitz(symbol(n))
        values = scipy.linalg.eigh(T.to_dense(), preconditioner(T).to_dense(), eigvals_only=True)
        assert np.sum((values < 0.8) | (values > 1.25)) <= outliers, values
        own = np.linalg.eigvalsh(T.to_dense())
        assert np.sum((own < 0.8) | (own > 1.25)) > n / 3


@pytest.mark.parametrize("f", [sm.strang, sm.t_chan])
def test_levels_are_independent(xp, rng, f):
    """f(S ⊗ T) = f(S) ⊗ f(T); and t_chan is the mean over the wrapped diagonals of all levels."""
    (S, _), (T, _) = general(xp, rng, 4), general(xp, rng, 5)
    C = f(sm.convert(sm.Kronecker(S, T), sm.MultilevelToeplitz))
    assert type(C) is sm.MultilevelCirculant and C.sizes == (4, 5)
    np.testing.assert_allclose(host(C.to_dense()), np.kron(host(f(S).to_dense()), host(f(T).to_dense())), atol=1e-13)
    A = sm.MultilevelToeplitz(xp.asarray(rng.standard_normal((5, 7))))
    D = host(A.to_dense()).reshape(3, 4, 3, 4)
    i, j = np.indices((3, 3)), np.indices((4, 4))
    mean = np.zeros((3, 4))
    for k in range(3):
        for l in range(4):
            mean[k, l] = (
                np.sum(D[(k + i[1]) % 3, :, i[1], :] * (i[0] == 0)[:, :, None, None] * ((j[0] - j[1]) % 4 == l)) / 12
            )
    np.testing.assert_allclose(host(sm.t_chan(A).c), mean, atol=1e-14)


def test_singular_circulants_are_said_and_floored(xp):
    T = sm.Toeplitz(asarray(xp, [2.0, -1.0, 0.0, 0.0, 0.0, 0.0]))
    C = sm.strang(T)  # the periodic Laplacian
    with pytest.raises(sm.SingularMatrixError):
        sm.inverse(C)
    raised = sm.strang(T, floor=1e-3)
    values = host(sm.eigvals(raised)).real
    assert values.min() == pytest.approx(4e-3) and values.max() == pytest.approx(4.0)
    assert type(sm.inverse(raised)) is sm.Circulant and dtype_of(raised) == "float64"
    indefinite = sm.Toeplitz(asarray(xp, [1.0, 1.0, 0.0, 0.0]))
    assert host(sm.eigvals(sm.strang(indefinite))).real.min() < -0.9
    assert host(sm.eigvals(sm.strang(indefinite, floor=0.01))).real.min() == pytest.approx(0.03)
    two = sm.MultilevelToeplitz(asarray(xp, [[0.0, -1.0, 0.0], [-1.0, 4.0, -1.0], [0.0, -1.0, 0.0]]))
    assert host(sm.eigvals(sm.strang(two, floor=0.5))).real.min() > 0


def test_floor_keeps_the_phase_of_general_ones(rng):
    T, _ = general(np, rng, 9)
    free, floored = sm.eigvals(sm.strang(T)), sm.eigvals(sm.strang(T, floor=0.5))
    size = np.abs(free)
    np.testing.assert_allclose(np.abs(floored), np.maximum(size, 0.5 * size.max()), rtol=1e-12)
    np.testing.assert_allclose(floored / np.abs(floored), free / size, atol=1e-12)
    zero = sm.strang(sm.Toeplitz([0.0, 1.0], [0.0, -1.0]), floor=0.1)
    np.testing.assert_allclose(zero.to_dense(), 0.0)  # nothing to be relative to
    assert dtype_of(sm.t_chan(sm.Toeplitz(np.ones(4, "complex64")), floor=0.1)) == "complex64"


def test_gradients_of_circulants():
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    t = torch.asarray(rng.standard_normal(5) + 5 * (np.arange(5) == 0)).requires_grad_()
    u = torch.asarray(rng.standard_normal((3, 5))).requires_grad_()
    for f in (sm.strang, sm.t_chan, sm.superoptimal):
        assert torch.autograd.gradcheck(lambda t: f(sm.Toeplitz(t)).c, (t,))  # noqa: B023
    assert torch.autograd.gradcheck(lambda u: sm.t_chan(sm.MultilevelToeplitz(u)).c, (u,))


# Kronecker products -----------------------------------------------------------------------------------------------------


def test_one_term_is_the_nearest_product_and_definite(rng):
    B, C = (X @ X.T + 0.1 * np.eye(len(X)) for X in (rng.standard_normal((4, 4)), rng.standard_normal((5, 5))))
    A = np.kron(B, C) + 0.05 * np.kron(C[:4, :4] @ C[:4, :4].T, np.eye(5))
    P = sm.kronecker_preconditioner(A, ((4, 4), (5, 5)))
    assert type(P) is sm.Kronecker and type(sm.inverse(P)) is sm.Kronecker
    fit = sm.nearest_kronecker(A, ((4, 4), (5, 5)))
    np.testing.assert_allclose(P.to_dense(), fit.matrix.to_dense(), atol=1e-10)
    assert np.linalg.eigvalsh(P.to_dense()).min() > 0


@pytest.mark.parametrize("shapes", [((3, 3), (4, 4)), ((5, 5), (2, 2))])
def test_bttb_is_split_by_the_weighted_svd(xp, rng, shapes):
    """Kamm & Nagy: the SVD of the weighted t gives the nearest product of the whole matrix."""
    t = rng.standard_normal(tuple(2 * n - 1 for n, _ in shapes))
    A = sm.MultilevelToeplitz(xp.asarray(t))
    D = host(A.to_dense())
    P = sm.kronecker_preconditioner(A)
    best = sm.nearest_kronecker(D, shapes, exact=True)
    error = np.linalg.norm(D - host(P.to_dense())) / np.linalg.norm(D)
    assert error == pytest.approx(best.relative_error, rel=1e-10)


def test_commuting_terms_are_inverted_exactly(xp, rng):
    """Kronecker sums of symmetric matrices, d = 2 and 3: the bases of the nearest product diagonalise all terms."""
    for sizes in ((3, 4), (4, 4), (2, 3, 2)):
        factors = [(lambda X: X @ X.T + np.eye(len(X)))(rng.standard_normal((n, n))) for n in sizes]
        A = sm.KroneckerSum(*(xp.asarray(F) for F in factors))
        P = sm.kronecker_preconditioner(A, terms=len(sizes))
        np.testing.assert_allclose(host(P.to_dense()), host(A.to_dense()), atol=1e-8 if len(sizes) == 3 else 1e-11)
        X = host(sm.inverse(P).to_dense())
        assert np.linalg.norm(X @ host(A.to_dense()) - np.eye(len(X))) < 1e-7


def test_damped_is_the_normal_matrix_of_tikhonov(rng):
    B, C = rng.standard_normal((4, 4)), rng.standard_normal((3, 3))
    A = np.kron(B, C)
    for terms in (1, 2):
        P = sm.kronecker_preconditioner(A, ((4, 4), (3, 3)), terms=terms, damp=0.3)
        np.testing.assert_allclose(P.to_dense(), A.T @ A + 0.09 * np.eye(12), atol=1e-10)
        np.testing.assert_allclose(sm.inverse(P).to_dense() @ P.to_dense(), np.eye(12), atol=1e-9)
    noise = A + 0.3 * rng.standard_normal(A.shape)  # singular or not, P is definite
    values = np.linalg.eigvalsh(sm.kronecker_preconditioner(noise, ((4, 4), (3, 3)), terms=5, damp=0.3).to_dense())
    assert values.min() >= 0.09 * (1 - 1e-10)


def test_complex_terms(rng):
    A = rng.standard_normal((12, 12)) + 1j * rng.standard_normal((12, 12))
    P = sm.kronecker_preconditioner(A, ((3, 3), (4, 4)), terms=9)
    U, V = P.factors[0].to_dense(), P.factors[2].to_dense()
    np.testing.assert_allclose(U.conj().T @ U, np.eye(12), atol=1e-12)
    np.testing.assert_allclose(np.diag(U.conj().T @ A @ V.conj().T), P.factors[1].d, atol=1e-10)


@pytest.mark.parametrize("n", [6, 12])
def test_separated_inverse(n):
    A = sm.KroneckerSum(*[2 * np.eye(n) - np.eye(n, k=1) - np.eye(n, k=-1)] * 2)
    X = sm.separated_inverse(A, tol=0.05)
    D = X.to_dense()
    assert X.terms <= 6
    assert np.linalg.norm(np.eye(n * n) - A.to_dense() @ D) < 0.06 * n
    np.testing.assert_allclose(D, D.T, atol=1e-10 * np.abs(D).max())
    assert np.linalg.eigvalsh(D).min() > 0
    B = sm.KroneckerSum(np.triu(np.ones((n, n))) + np.eye(n), np.eye(n))
    Y = sm.separated_inverse(B, tol=0.05)
    assert np.linalg.norm(np.eye(n * n) - B.to_dense() @ Y.to_dense()) < 0.06 * n


# bad input ----------------------------------------------------------------------------------------------------------------


def test_bad_input(rng):
    for f in (sm.strang, sm.t_chan, sm.superoptimal):
        with pytest.raises(sm.ShapeError, match="square"):
            f(sm.Toeplitz(np.ones(3), np.ones(4)))
        with pytest.raises(sm.UnsupportedError, match="Use kronecker_preconditioner"):
            f(sm.Dense(np.eye(3)))
        with pytest.raises(sm.UnsupportedError, match="a ndarray"):
            f(np.eye(3))
        with pytest.raises(sm.NonFiniteError):
            f(sm.Toeplitz([np.inf, 1.0]))
    with pytest.raises(sm.UnsupportedError, match="one level"):
        sm.superoptimal(sm.MultilevelToeplitz(np.ones((3, 3))))
    with pytest.raises(sm.SingularMatrixError):
        sm.superoptimal(sm.Toeplitz(np.zeros(3)))
    for floor in (0.0, 1.0, -1.0):
        with pytest.raises(sm.ArgumentError):
            sm.strang(sm.Toeplitz(np.ones(3)), floor=floor)
    A = rng.standard_normal((6, 6))
    with pytest.raises(sm.ShapeError, match="shapes"):
        sm.kronecker_preconditioner(A)
    with pytest.raises(sm.ShapeError, match="square factors"):
        sm.kronecker_preconditioner(A, ((2, 3), (3, 2)))
    with pytest.raises(sm.ArgumentError):
        sm.kronecker_preconditioner(A, ((2, 2), (3, 3)), terms=0)
    with pytest.raises(sm.ArgumentError):
        sm.kronecker_preconditioner(A, ((2, 2), (3, 3)), damp=0.0)
    with pytest.raises(sm.UnsupportedError, match="two levels"):
        sm.kronecker_preconditioner(sm.MultilevelToeplitz(np.ones((3, 3, 3))))
