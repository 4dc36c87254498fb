"""Sums of Kronecker products whose factors commute: solves, inverses, determinants and eigenvalues by the eigenbases of the places."""

import numpy as np
import pytest
from conftest import check, host, namespace
from test_contract import DTYPES

import sepmat as sm
from sepmat._bounds import BOUNDS

U = 2.0**-53


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


def element(n, dtype, kind):
    """Stiffness and mass matrices of linear elements on n intervals of unequal lengths, a row and column at one end fixed."""
    h = np.linspace(1.0, 2.0, n) / n
    local = {"K": [[1.0, -1.0], [-1.0, 1.0]], "M": [[2.0, 1.0], [1.0, 2.0]]}[kind]
    total = np.zeros((n + 1, n + 1))
    for i, step in enumerate(h):
        total[i : i + 2, i : i + 2] += np.asarray(local) * (1 / step if kind == "K" else step / 6)
    phase = np.exp(1j * np.arange(n)) if "complex" in dtype else np.ones(n)
    return (phase[:, None] * total[1:, 1:] * phase.conj()).astype(dtype)


def elements(*sizes, shift=0.0):
    """Σ_i M ⊗ … ⊗ K_i ⊗ … ⊗ M − shift M ⊗ … ⊗ M."""

    def make(rng, a, dtype):
        K, M = ([a(element(n, dtype, kind)) for n in sizes] for kind in "KM")
        whole = sm.Kronecker(*M)
        A = -shift * whole if shift else 0.0 * whole
        for i in range(len(sizes)):
            A = A + sm.Kronecker(*M[:i], K[i], *M[i + 1 :])
        return sm.convert(A, sm.Separated)

    make.__name__ = f"elements{sizes}"
    return make


def negative(rng, a, dtype):
    """The definite factor may be the negative one, of any place its own."""
    H = [hermitian(rng, n, dtype) for n in (4, 5)]
    M = [hermitian(rng, n, dtype) for n in (4, 5)]
    M = [(X @ X + np.eye(len(X))).astype(dtype) for X in M]
    return sm.Kronecker(a(H[0]), a(-M[1])) + sm.Kronecker(a(-M[0]), a(H[1])) + sm.Kronecker(a(M[0]), a(M[1]))


MATRICES = [noisy, indefinite, normal_equations, polynomial]
CONGRUENT = [
    elements(9, shift=9.0),
    elements(5, 7),
    elements(4, 3, 5),
    elements(3, 2, 1, 4),
    elements(6, 5, shift=9.0),
    negative,
]


@pytest.mark.parametrize("backend", DTYPES)
@pytest.mark.parametrize("make", MATRICES + CONGRUENT)
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
        if make in CONGRUENT:
            with pytest.raises(sm.UnsupportedError, match="do not commute"):
                sm.eigvals(A)
            continue
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
    (lambda rng: sm.Kronecker(np.diag([1.0, -2.0]), np.ones((2, 2))) + sm.Kronecker(np.ones((2, 2)), np.eye(2)), "not commute"),
    (lambda rng: sm.Kronecker(*[kernel(9, 0.4, "float64")] * 2) + sm.Kronecker(*[hermitian(rng, 9, "float64")] * 2), "not commute"),
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
    exact, near = (
        sm.Kronecker(F, F) + sm.Kronecker((H + H.T) / 2, np.eye(6)) + sm.Kronecker(np.eye(6), F) for H in (G, G + E)
    )
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


def test_definite_factors_of_any_condition(rng):
    """The residual grows with κ(M)² κ(A) u and not before; beyond 1/√u there is no rule."""
    n, u = 8, 2.0**-53
    K = hermitian(rng, n, "float64")
    Q = np.linalg.qr(rng.standard_normal((n, n)))[0]
    for kappa in (1e1, 1e3, 1e5, 1e7):
        M = (Q * np.geomspace(1, 1 / kappa, n)) @ Q.T
        M = (M + M.T) / 2
        A = sm.Kronecker(K, M) + sm.Kronecker(M, K)
        D = A.to_dense()
        if kappa**2 > u**-0.5 * 1.1:
            with pytest.raises(sm.UnsupportedError, match=r"(ill|well)-conditioned"):
                sm.solve(A, np.ones(n * n))
            continue
        x0 = rng.standard_normal(n * n)
        for b in (D @ x0, x0):
            x = sm.solve(A, b)
            scale = 2 * np.linalg.norm(K, 2) * np.linalg.norm(M, 2) * (1 + u * kappa**4 * np.linalg.cond(D))
            check(np.linalg.norm(b - D @ x), scale * np.linalg.norm(x), n, "float64", "commuting terms: solve, by κ(M)")


def test_eigenvalues_are_right_to_the_size_of_the_terms(rng):
    """c n u Σ |s_l| Π ‖F_i^l‖₂, where terms cancel more than n u ‖A‖."""
    F, G = hermitian(rng, 5, "float64"), hermitian(rng, 6, "float64")
    s = 2.0**30
    A = s * sm.Kronecker(F, G) + sm.Separated(
        [((-s * F) + np.eye(5))[None], G[None]]
    )  # I ⊗ G, up to the rounding of F + I/s
    Fl, Gl = F.astype(np.longdouble), G.astype(np.longdouble)
    D = np.kron(s * Fl, Gl) + np.kron((-s * F + np.eye(5)).astype(np.longdouble), Gl)
    exact = np.linalg.eigvalsh(D.astype(float))
    error = np.abs(np.sort(sm.eigvals(A).real) - exact).max()
    sizes = 2 * s * np.linalg.norm(F, 2) * np.linalg.norm(G, 2)
    check(error, sizes, 6, "float64", "commuting terms: eigvals that cancel")
    assert error > 100 * 30 * U * np.linalg.norm(exact, np.inf)  # so the bound by ‖A‖ would be false


@pytest.mark.parametrize("dtype", ["float64", "complex128"])
@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")  # torch's own
def test_gradients_of_slogdet(dtype):
    """Reverse and forward mode, first and second order, for commuting terms and after a congruence, with phases."""
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(4)
    K, M = ([torch.tensor(hermitian(rng, n, dtype)) for n in (3, 2)] for _ in "KM")
    M = [X @ X.mH + torch.eye(len(X), dtype=X.dtype) for X in M]
    one = torch.ones(1, dtype=M[0].dtype)

    def herm(X):
        return (X + X.mH) / 2

    def congruent(K, M):
        return sm.slogdet(sm.Kronecker(herm(K), M1) + 0.5 * sm.Kronecker(herm(M), K1)).logabsdet

    def commuting(K, s):
        s = s * one
        A = sm.Kronecker(herm(K), K1) + s[0] * sm.Identity(6, like=one)
        sign, logabs = sm.slogdet(A)
        return (logabs, torch.view_as_real(sign)) if dtype == "complex128" else logabs

    M1, K1 = M[1], K[1]
    s = torch.tensor(0.7 + (0.2j if dtype == "complex128" else 0), dtype=M[0].dtype)
    for f, inputs in ((congruent, (K[0], M[0])), (commuting, (K[0], s))):
        inputs = tuple(x.clone().requires_grad_() for x in inputs)
        assert torch.autograd.gradcheck(f, inputs, check_forward_ad=True)
        assert torch.autograd.gradgradcheck(f, inputs)


def test_gradients_of_first_and_second_order():
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(3)
    F, G = (torch.tensor(hermitian(rng, n, "float64")) for n in (3, 2))
    b, one = torch.tensor(rng.standard_normal(6)), torch.ones(1, dtype=torch.float64)

    def x(F, b):
        return sm.solve(sm.Kronecker((F + F.T) / 2, G) + 0.5 * sm.Identity(6, like=one), b)

    inputs = (F.requires_grad_(), b.requires_grad_())
    assert torch.autograd.gradcheck(x, inputs) and torch.autograd.gradgradcheck(x, inputs)
    for f in (sm.inverse, sm.eigvals):
        with pytest.raises(sm.UnsupportedError, match="gradient"):
            f(sm.Kronecker(F, G) + 0.5 * sm.Identity(6, like=one))

    M = G @ G + torch.eye(2, dtype=torch.float64)

    def y(F, M, b):  # after a congruence
        return sm.solve(sm.Kronecker((F + F.T) / 2, (M + M.T) / 2) + sm.Kronecker(F @ F.T + torch.eye(3), G), b)

    inputs = (F, M.requires_grad_(), b)
    assert torch.autograd.gradcheck(y, inputs) and torch.autograd.gradgradcheck(y, inputs)
