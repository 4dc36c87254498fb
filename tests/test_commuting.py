"""Sums of Kronecker products whose factors commute: solves, inverses, determinants and eigenvalues by the eigenbases of the places."""

import numpy as np
import pytest
from conftest import check, host, namespace
from test_contract import DTYPES

import sepmat as sm
from sepmat._bounds import BOUNDS


def hermitian(rng, n, dtype):
    H = rng.standard_normal((n, n)) + (1j * rng.standard_normal((n, n)) if "complex" in dtype else 0)
    return (H + H.conj().T).astype(dtype)


def kernel(n, length, dtype):
    x = np.linspace(0.0, 1.0, n)
    return np.exp(-(((x[:, None] - x) / length) ** 2) / 2).astype(dtype)


def noisy(rng, a, dtype):
    """A covariance of numerical rank 20 or so, and its noise."""
    return sm.Kronecker(a(kernel(9, 0.3, dtype)), a(kernel(11, 0.2, dtype))) + 0.01 * sm.Identity(
        99, like=a(np.ones(1, dtype))
    )


def indefinite(rng, a, dtype):
    H, s = [hermitian(rng, n, dtype) for n in (5, 1, 6)], 0.5j if "complex" in dtype else -0.5
    return sm.Kronecker(*map(a, H)) + s * sm.Identity(30, like=a(np.ones(1, dtype)))


def normal_equations(rng, a, dtype):
    R = [rng.standard_normal((n + 2, n)).astype(dtype) for n in (4, 5)]
    K = sm.Kronecker(*map(a, R))
    return K.H @ K + 0.1 * sm.Identity(20, like=a(np.ones(1, dtype)))


def polynomial(rng, a, dtype):
    """L² + L + I with repeated eigenvalues, and a term whose scale is 0."""
    L = sm.laplacian(4, 3, like=a(np.ones(1, dtype)))
    return L @ L + L + sm.Identity(64, like=a(np.ones(1, dtype))) + 0.0 * L


MATRICES = [noisy, indefinite, normal_equations, polynomial]


@pytest.mark.parametrize("backend", DTYPES)
@pytest.mark.parametrize("make", MATRICES)
def test_against_the_dense_matrix(make, backend, rng):
    xp = namespace(backend)
    for dtype in DTYPES[backend]:
        A = make(rng, lambda x: xp.asarray(x, copy=True), dtype)
        assert isinstance(A, sm.Separated) and A.terms > 1
        D = np.asarray(host(A.to_dense()), complex)
        n, size, kappa = len(D), np.linalg.norm(D, 2), np.linalg.cond(D)
        b = rng.standard_normal((n, 2)).astype(dtype)
        for f in (sm.solve, lambda A, b: sm.factorize(A).solve(b)):
            x = host(f(A, xp.asarray(b, copy=True)))
            assert x.dtype == dtype and x.shape == (n, 2)
            scale = size * np.linalg.norm(x, axis=0)
            check(np.linalg.norm(D @ x - b, axis=0), scale, n, dtype, "commuting terms: solve")
        X = host(sm.inverse(A).to_dense())
        check(np.linalg.norm(X @ D - np.eye(n)), kappa, 10 * n, dtype, "commuting terms: inverse")
        sign, logabs = sm.slogdet(A)
        s, l = np.linalg.slogdet(D)
        check(abs(host(sign) - s) + abs(host(logabs) - l), n * kappa, 30, dtype, "commuting terms: slogdet")
        values = np.sort_complex(host(sm.eigvals(A)))
        check(
            np.abs(values - np.sort_complex(np.linalg.eigvals(D))).max(),
            size,
            BOUNDS["B22"](n),
            dtype,
            "commuting terms: eigvals",
        )


REFUSED = [
    (lambda rng: sm.Kronecker(rng.standard_normal((3, 3)), np.eye(2)) + sm.Identity(6), "not Hermitian"),
    (lambda rng: sm.Kronecker(np.diag([1.0, 2.0]), np.ones((2, 2))) + sm.Kronecker(np.ones((2, 2)), np.eye(2)), "not commute"),
    (lambda rng: sm.Separated([np.ones((2, 2, 3)), np.ones((2, 3, 2))]), "rectangular"),
]  # fmt: skip


@pytest.mark.parametrize("make, why", REFUSED)
def test_terms_without_a_common_basis_are_refused(make, why, rng):
    A = make(rng)
    for f in (lambda A: sm.solve(A, np.ones(A.shape[0])), sm.inverse, sm.slogdet, sm.eigvals, sm.factorize):
        with pytest.raises(sm.UnsupportedError, match=why):
            f(A)


def test_a_nearly_common_basis_is_none(rng):
    """Factors that commute to 1e-10 would be solved to 1e-10: refused."""
    Q = np.linalg.qr(rng.standard_normal((6, 6)))[0]
    E = hermitian(rng, 6, "float64") * 1e-10
    F = Q @ np.diag(np.arange(1.0, 7)) @ Q.T
    G = Q @ np.diag(np.arange(7.0, 1, -1) ** 2) @ Q.T
    exact, near = (sm.Kronecker(F, F) + sm.Kronecker((H + H.T) / 2, np.eye(6)) for H in (G, G + E))
    assert np.allclose(exact @ sm.solve(exact, np.ones(36)), 1)
    with pytest.raises(sm.UnsupportedError, match="not commute"):
        sm.solve(near, np.ones(36))


def test_singular_to_its_precision():
    K = sm.Kronecker(kernel(30, 0.3, "float64"), kernel(20, 0.3, "float64"))
    for A in (K + 1e-18 * sm.Identity(600), K - K[0, 0] * sm.Kronecker(np.eye(30), np.zeros((20, 20)))):
        for f in (lambda A: sm.solve(A, np.ones(600)), sm.inverse, sm.factorize):
            with pytest.raises(sm.SingularMatrixError, match="rcond"):
                f(A)


def test_extreme_scales():
    A = sm.Separated([np.stack([kernel(4, 0.3, "float64"), np.eye(4)])] * 2, [1.0, 0.1])
    big = sm.Separated([A.factors[0] * 1e-200, A.factors[1] * 1e-150], [1e300, 1e299])
    assert np.allclose(sm.solve(big, 1e-50 * np.ones(16)), sm.solve(A, np.ones(16)), rtol=1e-12)
    assert np.isclose(sm.slogdet(big)[1], sm.slogdet(A)[1] - 16 * 50 * np.log(10))


def test_gradients_of_first_and_second_order():
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(3)
    F, G = (torch.tensor(hermitian(rng, n, "float64")) for n in (3, 2))
    b, one = torch.tensor(rng.standard_normal(6)), torch.ones(1, dtype=torch.float64)

    def x(F, b):
        return sm.solve(sm.Kronecker((F + F.T) / 2, G) + 0.5 * sm.Identity(6, like=one), b)

    inputs = (F.requires_grad_(), b.requires_grad_())
    assert torch.autograd.gradcheck(x, inputs) and torch.autograd.gradgradcheck(x, inputs)
    with pytest.raises(sm.UnsupportedError, match="gradient"):
        sm.slogdet(sm.Kronecker(F, G) + 0.5 * sm.Identity(6, like=one))
