"""Solving by displacement: the elimination against dense solves, the seven families of Toeplitz matrices, inverses,
factorizations, determinants, gradients; and what must not happen: a dense matrix, a wrong answer without a word."""

import tracemalloc
import warnings

import numpy as np
import pytest
import scipy.linalg
from conftest import check, host, namespace

import sepmat as sm
from sepmat._bounds import BOUNDS
from sepmat.kernels import cauchy

U = 2.0**-53


def toeplitz(kind, n, rng):
    """First column and row of the families of Toeplitz matrices on which solvers differ."""
    k = np.arange(n)
    c, r = rng.standard_normal(n), rng.standard_normal(n)
    if kind == "symmetric indefinite":
        r = c
    elif kind == "positive definite, rank 12 + ε":
        angles, weights = rng.uniform(0, np.pi, 6), 10.0 ** rng.uniform(-3, 0, 6)
        c = (weights[:, None] * np.cos(np.outer(angles, k))).sum(axis=0)
        c[0] += 10.0 ** rng.uniform(-9, -1)
        r = c
    elif kind == "tiny t_0":
        c[0] = 10.0 ** rng.uniform(-15, -8)
    elif kind == "second leading minor singular to 1e-12":
        c[0], r[1] = 1.0, (1 + 1e-12) / c[1]
    elif kind == "decaying":
        c, r = c * (1.0 + k) ** -1.1, r * (1.0 + k) ** -1.1
        c[0] = 2.0
    elif kind == "Gaussian kernel + 1e-12":
        c = np.exp(-((k / rng.uniform(1, 4)) ** 2) / 2)
        c[0] += 1e-12
        r = c
    r = r.copy()
    r[0] = c[0]
    return c, r


FAMILIES = [
    "general",
    "symmetric indefinite",
    "positive definite, rank 12 + ε",
    "tiny t_0",
    "second leading minor singular to 1e-12",
    "decaying",
    "Gaussian kernel + 1e-12",
]


def residual(T, x, b):
    """‖b − T x‖ / (‖T‖₂ ‖x‖), which B14 bounds by n u."""
    return np.linalg.norm(b - T @ x), np.linalg.norm(T, 2) * np.linalg.norm(x)


@pytest.mark.parametrize("kind", FAMILIES)
def test_b14_on_the_seven_families(kind, rng):
    """Residuals of at most 1 n u, as Toeplitz, Hankel and LowDisplacementRank; Levinson's are up to 3e13 n u."""
    for _ in range(6):
        n = int(rng.integers(8, 401))
        c, r = toeplitz(kind, n, rng)
        T, A = scipy.linalg.toeplitz(c, r), sm.Toeplitz(c, r)
        for b in (T @ rng.standard_normal(n), rng.standard_normal(n)):
            for x in (sm.solve(A, b), sm.solve(sm.convert(A, sm.LowDisplacementRank), b), sm.factorize(A).solve(b)):
                assert check(*residual(T, x, b), BOUNDS["B14"](n), "float64", f"B14 {kind}") <= n
            H = sm.Hankel(T[:, -1], T[-1, ::-1])
            assert check(*residual(T[:, ::-1], sm.solve(H, b), b), BOUNDS["B14"](n), "float64", f"B14 {kind}") <= n


@pytest.mark.parametrize("kind", ["unit", "half", "cosine"])
@pytest.mark.parametrize("n", [1, 2, 3, 17, 64, 101])
def test_the_elimination_is_that_of_the_dense_matrix(kind, n, xp, rng):
    """C built entry by entry from its nodes; panels, and the reference column by column."""
    k, l = np.arange(n)[:, None], np.arange(n)[None, :]
    w = -2j * np.pi / n
    gap = {
        "unit": lambda: np.exp(w * k) - np.exp(w * (l + 0.5)),
        "half": lambda: np.exp(w * (k + 0.5)) - np.exp(w * l),
        "cosine": lambda: -4 * np.sin((k + l + 0.5) * np.pi / 2 / n) * np.sin((k - l - 0.5) * np.pi / 2 / n),
    }[kind]()
    draw = rng.standard_normal if kind == "cosine" else lambda s: rng.standard_normal(s) + 1j * rng.standard_normal(s)
    G, B, rhs = draw((n, 3)), draw((3, n)), draw((n, 2))
    C = (G @ B) / gap
    sign, logabs = np.linalg.slogdet(C)
    kappa = np.linalg.cond(C)
    for kernel in ("panels", "reference"):
        if kernel == "panels" and xp.__name__.endswith("strict"):
            continue
        found = cauchy.cauchy_solve(xp.asarray(G), xp.asarray(B), xp.asarray(rhs), kind, kernel=kernel)
        x = host(found.x)
        scale = np.linalg.norm(C, 2) * np.linalg.norm(x) * n
        check(np.linalg.norm(rhs - C @ x), scale, 30, "float64", f"Cauchy-like, {kernel}")
        check(abs(found.logabs - logabs) + abs(found.sign - sign), n * n * kappa, 30, "float64", "Cauchy-like det")


def test_narrow_panels_and_many_segments(rng):
    """Pivots that fall from column to column, at sizes where the substitution goes through several segments."""
    n = 700
    c = np.exp(-((np.arange(n) / 3) ** 2) / 2)
    c[0] += 1e-12
    T = scipy.linalg.toeplitz(c)
    b = T @ rng.standard_normal(n)
    assert check(*residual(T, sm.solve(sm.Toeplitz(c), b), b), BOUNDS["B14"](n), "float64", "B14 n = 700") <= n


@pytest.mark.parametrize("dtype", ["float32", "float64", "complex64", "complex128"])
@pytest.mark.parametrize("n", [1, 2, 7, 64, 97])
def test_every_library_and_dtype(xp, dtype, n, rng):
    def draw(*shape):
        x = rng.standard_normal(shape)
        return (x + 1j * rng.standard_normal(shape) if dtype.startswith("c") else x).astype(dtype)

    c, r, G, H, b = draw(n), draw(n), draw(n, 2), draw(n, 2), draw(n, 3)
    r[0] = c[0]
    W = sm.LowDisplacementRank(xp.asarray(G), xp.asarray(H))
    for A in (sm.Toeplitz(xp.asarray(c), xp.asarray(r)), W, W.T):
        D = host(A.to_dense()).astype("complex128")
        x = sm.solve(A, xp.asarray(b))
        assert str(x.dtype).endswith(dtype) and type(x) is type(xp.asarray(b))
        error = np.linalg.norm(b - D @ host(x), axis=0)
        scale = np.linalg.norm(D, 2) * np.linalg.norm(host(x), axis=0) + np.linalg.norm(b, axis=0) / n
        check(error, scale, BOUNDS["B14"](n), dtype, "B14, all dtypes")


@pytest.mark.parametrize("n", [1, 2, 5, 30, 64])
@pytest.mark.parametrize("complex_", [False, True])
def test_the_inverse_has_as_many_terms(n, complex_, rng):
    """Two of a Toeplitz matrix, r of r; and inverting twice comes back."""

    def draw(*shape):
        x = rng.standard_normal(shape)
        return x + 1j * rng.standard_normal(shape) if complex_ else x

    c, r = draw(n), draw(n)
    r[0] = c[0]
    for A, terms in ((sm.Toeplitz(c, r), 2), (sm.LowDisplacementRank(draw(n, 3), draw(n, 3)), 3)):
        D = A.to_dense()
        M, kappa = sm.inverse(A), np.linalg.cond(D)
        assert type(M) is sm.LowDisplacementRank
        assert M.terms == terms or n < terms > M.terms  # of more terms than rows some may have cancelled
        near = np.linalg.inv(D)
        check(
            np.linalg.norm(M.to_dense() - near),
            np.linalg.norm(near) * kappa * n,
            30,
            "float64",
            "inverse by displacement",
        )
        back = sm.inverse(M).to_dense()
        check(np.linalg.norm(back - D) / np.linalg.norm(D), kappa**2 * n, 30, "float64", "inverse twice")
        check(np.linalg.norm(sm.inverse(A.T).to_dense() - M.to_dense().T), kappa * n * np.linalg.norm(M.to_dense()), 30,
              "float64", "inverse of the transpose")  # fmt: skip


def test_the_inverse_says_when_its_digits_are_gone():
    c = np.exp(-(np.arange(60.0) ** 2) / 18)
    c[0] += 1e-12
    with pytest.warns(sm.ConditionWarning, match=r"inverse: A \(Toeplitz\(60×60\)\) has rcond .*factorize"):
        sm.inverse(sm.Toeplitz(c))


@pytest.mark.parametrize("kind", FAMILIES)
def test_the_inverse_is_as_good_as_a_dense_one(kind, rng):
    """Solving through it: B14 for random b, and an error of κ u ‖A⁻¹‖ ‖b‖ for b = T x_0 too."""
    for n in (40, 200):
        c, r = toeplitz(kind, n, rng)
        T = scipy.linalg.toeplitz(c, r)
        kappa, x0, b = np.linalg.cond(T), rng.standard_normal(n), rng.standard_normal(n)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", sm.ConditionWarning)
            M = sm.inverse(sm.Toeplitz(c, r))
        if kappa < 1e9:  # beyond, n u κ is near 1 and steps do not contract
            check(*residual(T, M @ b, b), BOUNDS["B14"](n), "float64", "B14 through the inverse")
        b = T @ x0
        scale = kappa * n**1.5 * np.linalg.norm(b) * np.linalg.norm(np.linalg.inv(T), 2)
        check(np.linalg.norm(M @ b - x0), scale, 30, "float64", "x through the inverse")


def test_a_factorization_solves_many_times(rng):
    n = 120
    c, r = toeplitz("general", n, rng)
    T, F = scipy.linalg.toeplitz(c, r), sm.factorize(sm.Toeplitz(c, r))
    assert repr(F).startswith("Factorization(Toeplitz(120×120), rcond=")
    true = 1 / np.linalg.cond(T, 1)
    assert true / 3 <= F.rcond <= 3 * n * true  # from below by random right-hand sides
    for shape in ((n,), (n, 0), (n, 1), (n, 7)):
        b = rng.standard_normal(shape)
        x = F.solve(b)
        assert x.shape == shape
        if x.size:
            check(
                np.linalg.norm(b - T @ x),
                np.linalg.norm(T, 2) * np.linalg.norm(x),
                BOUNDS["B14"](n),
                "float64",
                "B14 factorized",
            )
    complex_b = rng.standard_normal(n) + 1j * rng.standard_normal(n)
    check(*residual(T, F.solve(complex_b), complex_b), BOUNDS["B14"](n), "float64", "B14 factorized")
    for wrong in (np.ones(n + 1), np.ones((2, n)), np.ones((n, 1, 1))):
        with pytest.raises(sm.ShapeError, match=r"Factorization.solve: b: shape .*expected \(120,\) or \(120, k\)"):
            F.solve(wrong)
    with pytest.raises(sm.NonFiniteError, match=r"Factorization.solve: b"):
        F.solve(np.full(n, np.nan))


@pytest.mark.parametrize("scale", [1e-300, 1e-150, 1e150, 1e300])
def test_any_scale(scale, rng):
    n = 40
    c, r = toeplitz("general", n, rng)
    b = rng.standard_normal(n)
    x = sm.solve(sm.Toeplitz(c, r), b)
    y = sm.solve(sm.Toeplitz(c * scale, r * scale), b * scale)
    kappa = np.linalg.cond(scipy.linalg.toeplitz(c, r))
    check(np.linalg.norm(x - y), kappa * n * np.linalg.norm(x), 4, "float64", "scaled solve")
    W = sm.LowDisplacementRank(rng.standard_normal((n, 2)) * scale, rng.standard_normal((n, 2)))
    y = sm.solve(W, b * scale)
    kappa = np.linalg.cond(W.to_dense() / scale)
    check(np.linalg.norm(W @ y / scale - b), kappa * n * np.linalg.norm(b), 4, "float64", "scaled solve")


def singular_matrices():
    n = 12
    ones = np.ones(n)
    yield "ones", sm.Toeplitz(ones)
    yield "zero", sm.Toeplitz(np.zeros(n))
    yield "no terms", sm.LowDisplacementRank(np.zeros((n, 0)), np.zeros((n, 0)))
    yield "rank one", sm.convert(sm.LowRank(ones[:, None], ones[:, None]), sm.LowDisplacementRank)
    yield "nilpotent", sm.Toeplitz(np.eye(n)[1], np.zeros(n))
    yield "Hankel", sm.Hankel(ones, ones)


@pytest.mark.parametrize(("name", "A"), list(singular_matrices()), ids=lambda v: v if isinstance(v, str) else "")
def test_singular_is_said(name, A):
    for f in (lambda: sm.solve(A, np.ones(12)), lambda: sm.inverse(A), lambda: sm.factorize(A)):
        with pytest.raises(sm.SingularMatrixError, match="rcond"):
            f()
    assert float(sm.slogdet(A).logabsdet) < -20


def test_corners_and_rectangles_are_refused():
    W = sm.LowDisplacementRank(np.ones((6, 1)), np.ones((6, 1)), shape=(4, 6))
    with pytest.raises(sm.ShapeError, match="expected a square matrix"):
        sm.solve(W, np.ones(4))
    with pytest.raises(sm.ShapeError, match="expected a square matrix"):
        sm.inverse(sm.Toeplitz(np.ones(3), np.ones(4)))


def test_determinants(rng):
    """Signs are exact and logarithms keep n² κ u, at odd, even and prime sizes."""
    for n in (1, 2, 3, 4, 5, 8, 31, 64):
        for complex_ in (False, True):
            x = rng.standard_normal((6, n)) + (1j * rng.standard_normal((6, n)) if complex_ else 0)
            x[1, 0] = x[0, 0]
            W = sm.LowDisplacementRank(x[2:4].T, x[4:6].T)
            for A in (sm.Toeplitz(x[0], x[1]), sm.Hankel(x[0][::-1], x[1]), W, W.T):
                D = A.to_dense()
                (sign, logabs), (s, l) = sm.slogdet(A), np.linalg.slogdet(D)
                check(abs(logabs - l) + abs(sign - s), n * n * np.linalg.cond(D), 30, "float64", "slogdet by pivots")


def test_gradients():
    """First and second derivatives of a solve, against finite differences."""
    torch = pytest.importorskip("torch")
    g = torch.Generator().manual_seed(0)
    c, r, b = (torch.randn(4, generator=g, dtype=torch.float64, requires_grad=True) for _ in range(3))
    G, H = (torch.randn(4, 2, generator=g, dtype=torch.float64, requires_grad=True) for _ in range(2))

    def toeplitz_solution(c, tail, b):
        return sm.solve(sm.Toeplitz(c, torch.cat((c[:1], tail[1:]))), b)

    def displaced_solution(G, H, b):
        return sm.solve(sm.LowDisplacementRank(G, H), b)

    def through_factors(G, H, b):
        return sm.factorize(sm.LowDisplacementRank(G, H)).solve(b)

    for f, inputs in (
        (toeplitz_solution, (c, r, b)), (displaced_solution, (G, H, b)), (through_factors, (G, H, b)),
    ):  # fmt: skip
        assert torch.autograd.gradcheck(f, inputs, fast_mode=True)
        assert torch.autograd.gradgradcheck(f, inputs, fast_mode=True)


@pytest.mark.parametrize("complex_", [False, True])
@pytest.mark.parametrize("name", ["Toeplitz", "Hankel", "W(G, H)", "W(G, H) transposed"])
def test_gradients_of_inverses_and_determinants(name, complex_):
    """First and second derivatives against finite differences, and values against torch's of the dense matrix."""
    torch = pytest.importorskip("torch")
    dtype = torch.complex128 if complex_ else torch.float64
    g, n = torch.Generator().manual_seed(0), 3
    shape = (n, 2) if "W" in name else (n,)
    inputs = [torch.randn(shape, generator=g, dtype=dtype, requires_grad=True) for _ in range(2)]

    def matrix(u, v):
        if name == "Toeplitz":
            return sm.Toeplitz(u, torch.cat((u[:1], v[1:])))
        if name == "Hankel":
            return sm.Hankel(u, torch.cat((u[-1:], v[1:])))
        W = sm.LowDisplacementRank(u, v)
        return W.T if name.endswith("transposed") else W

    def inverted(*inputs):
        return sm.inverse(matrix(*inputs)).to_dense()

    def determinant(*inputs):
        sign, logabs = sm.slogdet(matrix(*inputs))
        return (sign, logabs) if complex_ else logabs

    D = matrix(*inputs).to_dense().detach()
    assert torch.linalg.norm(inverted(*inputs).detach() @ D - torch.eye(n, dtype=dtype)) < 1e-12
    for ours, theirs in zip(sm.slogdet(matrix(*inputs)), torch.linalg.slogdet(D), strict=True):
        assert abs(ours.detach() - theirs) < 1e-12
    for f in (inverted, determinant):
        assert torch.autograd.gradcheck(f, inputs, fast_mode=True)
        assert torch.autograd.gradgradcheck(f, inputs, fast_mode=True)


def test_the_gradient_of_a_determinant_at_size(rng):
    """n = 300: d log|det T| is the sums along the diagonals of T⁻¹, without a matrix."""
    torch = pytest.importorskip("torch")
    n = 300
    c, r = toeplitz("general", n, rng)
    t = torch.asarray(np.concatenate((r[:0:-1], c))).requires_grad_()
    sm.slogdet(sm.Toeplitz(t[n - 1 :], torch.flip(t[:n], dims=(0,)))).logabsdet.backward()
    T = scipy.linalg.toeplitz(c, r)
    M = np.linalg.inv(T)
    sums = np.array([np.trace(M, -k) for k in range(1 - n, n)])[::-1]
    check(
        np.max(np.abs(t.grad.numpy() - sums)),
        n * np.linalg.cond(T) * np.max(np.abs(sums)),
        1,
        "float64",
        "gradient of slogdet",
    )


def test_torch_and_numpy_agree(rng):
    torch = namespace("torch")
    c, r = toeplitz("general", 50, rng)
    b = rng.standard_normal(50)
    x, y = sm.solve(sm.Toeplitz(c, r), b), sm.solve(sm.Toeplitz(torch.asarray(c), torch.asarray(r)), torch.asarray(b))
    np.testing.assert_allclose(host(y), x, rtol=1e-9)


def test_memory_stays_far_below_the_matrix(rng):
    """n = 3000: C alone would be 144 MB as complex numbers and 72 MB as real ones."""
    n = 3000
    c, r = toeplitz("general", n, rng)
    T, b = sm.Toeplitz(c, r), rng.standard_normal(n)
    tracemalloc.start()
    sm.solve(T, b)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 8 * n * n / 5, f"{peak / 1e6:.0f} MB"


def test_nothing_is_warned_of_and_the_input_is_untouched(rng):
    c, r = toeplitz("general", 33, rng)
    b = rng.standard_normal(33)
    copies = [x.copy() for x in (c, r, b)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        x = sm.solve(sm.Toeplitz(c, r), b)
    for a, before in zip((c, r, b), copies, strict=True):
        np.testing.assert_array_equal(a, before)
    np.testing.assert_array_equal(x, sm.solve(sm.Toeplitz(c, r), b))  # every call repeats


# --- factorizations of the other classes, and least squares -------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 2, 7, 64])
@pytest.mark.parametrize("size", [1e2, 1e10])
@pytest.mark.parametrize("complex_", [False, True])
def test_terms_that_cancel(n, size, complex_, xp, rng):
    """W = W₁ + large terms whose sum is nothing: the residual is that of W₁ alone, and nothing is warned of."""

    def draw(*shape):
        x = rng.standard_normal(shape)
        return x + 1j * rng.standard_normal(shape) if complex_ else x

    G, H = np.round(1024 * draw(n, 2)) / 1024, np.round(1024 * draw(n, 2)) / 1024
    B, K = size * np.round(16 * draw(n, 1)), np.round(16 * draw(n, 1))
    D = sm.LowDisplacementRank(G, H).to_dense()
    # (G + [B, 0]) Hᵀ + B (K − H₀)ᵀ − B Kᵀ: exact in float64, since the numbers are multiples of 2⁻¹⁰
    A = sm.LowDisplacementRank(
        xp.asarray(np.concatenate((G[:, :1] + B, G[:, 1:], B, B), axis=1)),
        xp.asarray(np.concatenate((H, K - H[:, :1], -K), axis=1)),
    )
    for T, dense in ((A, D), (A.T, D.T)):
        b = dense @ draw(n)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            x = host(sm.solve(T, xp.asarray(b)))
        check(*residual(dense, x, b), BOUNDS["B14"](n), "float64", "B14 of terms that cancel")
        near, kappa = np.linalg.inv(dense), np.linalg.cond(dense)
        error = np.linalg.norm(host(sm.inverse(T).to_dense()) - near)
        check(error, np.linalg.norm(near) * kappa * n, 30, "float64", "inverse of terms that cancel")
    assert sm.factorize(A).inverse.terms <= 4


def test_a_short_probe_blames_nobody(xp):
    """Found by 20,000 random solves: a random vector that this matrix nearly annihilates made its norm look 54 times too small."""
    G = np.asarray([[5.18566674, 1.34909402], [-2.52136250, 2.01346721]])
    H = np.asarray([[-0.287988232, -1.79693766], [3.32356602, -2.64644589]])
    A = sm.LowDisplacementRank(xp.asarray(G), xp.asarray(H))
    D = host(A.to_dense())
    b = D @ np.asarray([[0.79626103, 0.29834299], [0.25992684, 0.33098673]])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        x = host(sm.solve(A, xp.asarray(b)))
    for j in range(2):
        check(*residual(D, x[:, j], b[:, j]), BOUNDS["B14"](2), "float64", "B14 after a short probe")


@pytest.mark.parametrize("complex_", [False, True])
def test_every_factorization_solves(complex_, xp, rng):
    def draw(*shape):
        x = rng.standard_normal(shape) + (1j * rng.standard_normal(shape) if complex_ else 0)
        return xp.asarray(x)

    dense, c = draw(4, 4), draw(6)
    for A in (
        sm.Dense(dense),
        sm.Diagonal(draw(5)),
        sm.Identity(3, like=dense),
        sm.Kronecker(dense, draw(2, 2), draw(3, 3)),
        sm.Kronecker(sm.Circulant(c), dense),
        sm.Circulant(c),
        sm.SkewCirculant(c),
        2.5 * sm.Toeplitz(c, xp.concat((c[:1], draw(5)))),
        sm.Toeplitz(c, xp.concat((c[:1], draw(5)))) @ sm.Diagonal(draw(6)),
    ):
        F, D = sm.factorize(A), host(A.to_dense())
        for b in (draw(A.shape[0]), draw(A.shape[0], 3), draw(A.shape[0], 0)):
            x = host(F.solve(b))
            assert x.shape == tuple(b.shape)
            scale = np.linalg.cond(D) * (np.linalg.norm(host(b)) or 1)
            check(np.linalg.norm(D @ x - host(b)), scale * len(D), 30, "float64", "factorize")


def test_factorizations_of_singular_matrices_are_refused():
    for A in (sm.Dense(np.ones((3, 3))), sm.Diagonal([1.0, 0.0]), sm.Circulant(np.ones(4)), 0 * sm.Toeplitz([2.0, 1.0]),
              sm.Kronecker(np.eye(2), np.ones((2, 2))), sm.KroneckerSum(np.eye(2), -np.eye(2))):  # fmt: skip
        with pytest.raises(sm.SingularMatrixError, match=r"factorize|solve"):
            sm.factorize(A)
    with pytest.raises(sm.UnsupportedError, match="factorize"):
        sm.factorize(sm.MultilevelToeplitz(np.ones((3, 3))))


@pytest.mark.parametrize(("m", "n"), [(1, 1), (1, 5), (5, 1), (9, 4), (4, 9), (61, 60), (80, 13), (13, 80), (30, 30)])
@pytest.mark.parametrize("complex_", [False, True])
def test_rectangular_least_squares(m, n, complex_, xp, rng):
    """Against an SVD of the dense matrix: the solution of least norm, and a residual that is orthogonal to the columns."""

    def draw(*shape):
        return rng.standard_normal(shape) + (1j * rng.standard_normal(shape) if complex_ else 0)

    c, r, b = draw(m), draw(n), draw(m, 2)
    r[0] = c[0]
    h = np.concatenate((c[-1:], draw(n - 1)))
    for A in (sm.Toeplitz(xp.asarray(c), xp.asarray(r)), sm.Hankel(xp.asarray(c), xp.asarray(h))):
        D = host(A.to_dense())
        x, exact = host(sm.lstsq(A, xp.asarray(b))), np.linalg.lstsq(D, b)[0]
        kappa = np.linalg.cond(D)
        error = np.linalg.norm(x - exact)
        scale = kappa * (np.linalg.norm(exact) + kappa * np.linalg.norm(b - D @ exact) / np.linalg.norm(D, 2))
        check(error, scale * max(m, n), 10, "float64", "lstsq Toeplitz")


def test_least_squares_beyond_its_condition_is_refused():
    k = np.arange(40.0)
    for A in (sm.Toeplitz(np.exp(-(k**2) / 50), np.exp(-(k[:30] ** 2) / 50)), sm.Toeplitz(np.ones(8), np.ones(5))):
        with pytest.raises(sm.SingularMatrixError, match=r"lstsq: A: Toeplitz.*Use sm.lstsq\(sm.Dense"):
            sm.lstsq(A, np.ones(A.shape[0]))


@pytest.mark.parametrize("cls", [sm.Hankel, sm.Toeplitz])
def test_a_zero_matrix_is_refused_in_its_own_name(cls):
    for f in (lambda A: sm.solve(A, np.ones(3)), sm.inverse, sm.factorize):
        with pytest.raises(sm.SingularMatrixError, match=rf"A: {cls.__name__}\(3×3\) is singular \(a pivot is 0"):
            f(cls(np.zeros(3)))
