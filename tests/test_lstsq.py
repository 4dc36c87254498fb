"""lstsq against dense oracles: full rank, rank deficient, wide and tall; minimum norm, cut-off, gradients, errors."""

import functools
import re

import numpy as np
import pytest
import reference as ref
from cases import normal
from conftest import check, dtype_of, host

import sepmat as sm
from sepmat.augmented import augmented
from sepmat.borders import borders
from sepmat.toeplitz_lstsq import gram

DTYPES = ("float64", "complex128", "float32", "complex64")


def with_values(rng, m, n, values, dtype):
    """A random m×n matrix with these singular values."""
    k = min(m, n)
    U, V = (np.linalg.qr(normal(rng, (s, k), "complex128" if "complex" in dtype else "float64"))[0] for s in (m, n))
    s = np.zeros(k)
    s[: len(values)] = values
    return ((U * s) @ V.conj().T).astype(dtype)


def is_least_squares(A, D, b, xp, dtype, name, rank, limit=30):
    """x minimises ‖b - D x‖ and has no part in the null space: backward error of x as a least-squares solution.

    D⁺ is that of the given rank in double precision; a solution may be off by κ ‖x‖ + κ² ‖r‖ / ‖D‖ times K u.
    """
    x = sm.lstsq(A, xp.asarray(b, copy=True))
    assert dtype_of(x) == dtype and tuple(x.shape) == (D.shape[1], *b.shape[1:])
    x = host(x).astype(complex)
    D, b = np.asarray(D, complex), b.astype(complex)
    if not min(D.shape) or not rank:
        assert not x.any()
        return
    U, s, Vh = np.linalg.svd(D, full_matrices=False)
    U, s, Vh = U[:, :rank], s[:rank], Vh[:rank]
    exact = Vh.conj().T @ ((U.conj().T @ b).T / s).T
    kappa, residual = s[0] / s[-1], np.linalg.norm(b - D @ exact)
    scale = kappa * np.linalg.norm(exact) + kappa**2 * residual / s[0] + np.linalg.norm(b) / s[-1]
    check(np.linalg.norm(x - exact), scale, limit * sum(D.shape), dtype, name)


def of_dense(D, xp):
    return sm.Dense(xp.asarray(D, copy=True))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(6, 6), (9, 4), (4, 9), (1, 5), (5, 1), (1, 1), (0, 3), (3, 0), (0, 0)])
def test_dense(shape, dtype, xp, rng):
    m, n = shape
    for rank in {0, 1, min(m, n) - 1, min(m, n)} & set(range(min(m, n) + 1)):
        D = with_values(rng, m, n, np.linspace(1, 0.1, rank) if rank else [], dtype)
        for b in (normal(rng, (m,), dtype), normal(rng, (m, 3), dtype), normal(rng, (m, 0), dtype)):
            is_least_squares(of_dense(D, xp), D, b, xp, dtype, "lstsq Dense", rank)


@pytest.mark.parametrize("dtype", DTYPES)
def test_diagonal_and_identity(dtype, xp, rng):
    for zeros in (0, 2, 5):
        d = normal(rng, (5,), dtype) + 3
        d[:zeros] = 0
        b = normal(rng, (5, 2), dtype)
        is_least_squares(sm.Diagonal(xp.asarray(d)), np.diag(d), b, xp, dtype, "lstsq Diagonal", 5 - zeros)
    I = sm.Identity(5, like=xp.asarray(d))
    np.testing.assert_array_equal(host(sm.lstsq(I, xp.asarray(b, copy=True))), b)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(8, 5, 3), (5, 8, 3), (6, 6, 6), (4, 3, 5), (3, 5, 0), (0, 4, 2), (4, 0, 2)])
def test_low_rank(shape, dtype, xp, rng):
    m, n, r = shape
    U, V, b = normal(rng, (m, r), dtype), normal(rng, (n, r), dtype), normal(rng, (m, 2), dtype)
    A = sm.LowRank(xp.asarray(U), xp.asarray(V))
    is_least_squares(A, ref.low_rank(ref.wide(U), ref.wide(V)), b, xp, dtype, "lstsq LowRank", min(shape))
    if r > 1:  # the columns stored may be dependent
        U[:, 1] = 2 * U[:, 0]
        A = sm.LowRank(xp.asarray(U), xp.asarray(V))
        rank = min(min(m, r - 1), n)
        is_least_squares(A, ref.low_rank(ref.wide(U), ref.wide(V)), b, xp, dtype, "lstsq LowRank", rank)


def test_low_rank_in_any_units(xp, rng):
    """U and V of sizes whose product is out of range, though the solution is not."""
    U, V, b = rng.standard_normal((6, 2)), rng.standard_normal((4, 2)), rng.standard_normal(6)
    x = host(sm.lstsq(sm.LowRank(xp.asarray(U), xp.asarray(V)), xp.asarray(b)))
    for k, l, e in ((600, 600, 1000), (-600, -500, -900), (900, -800, 0)):
        A = sm.LowRank(xp.asarray(np.ldexp(U, k)), xp.asarray(np.ldexp(V, l)))
        np.testing.assert_array_equal(host(sm.lstsq(A, xp.asarray(np.ldexp(b, e)))), np.ldexp(x, e - k - l))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("ranks", [(3, 2, 2), (2, 2, 2), (1, 1, 2), (0, 2, 2)])
def test_kronecker_of_any_ranks(ranks, dtype, xp, rng):
    """pinv(A ⊗ B) = pinv A ⊗ pinv B, so the solution of minimum norm is found factor by factor."""
    shapes = ((5, 3), (2, 4), (3, 3))
    factors = [with_values(rng, *s, np.linspace(1, 0.3, k), dtype) for s, k in zip(shapes, ranks, strict=True)]
    D = functools.reduce(np.kron, [F.astype(complex) for F in factors])
    A = sm.Kronecker(*(xp.asarray(F, copy=True) for F in factors))
    rank = int(np.prod(ranks))
    for b in (normal(rng, (30,), dtype), normal(rng, (30, 2), dtype)):
        is_least_squares(A, D, b, xp, dtype, "lstsq Kronecker", rank)


def test_kronecker_of_structures(xp, rng):
    c, U, V = rng.standard_normal(4), rng.standard_normal((5, 2)), rng.standard_normal((3, 2))
    A = sm.Kronecker(sm.Circulant(xp.asarray(c)), sm.LowRank(xp.asarray(U), xp.asarray(V)))
    D = np.kron(ref.circulant(ref.wide(c)).astype(float), U @ V.T)
    is_least_squares(A, D, rng.standard_normal((20, 2)), xp, "float64", "lstsq Kronecker", 8)


def test_kronecker_factors_may_be_ill_conditioned(rng):
    """κ = 1e24 of the product, 1e12 of each factor: consistent right-hand sides leave a residual of rounding (B15)."""
    factors = [with_values(rng, 9, 5, np.geomspace(1, 1e-12, 5), "float64") for _ in range(2)]
    x0 = rng.standard_normal(25)
    b = (np.kron(ref.wide(factors[0]), ref.wide(factors[1])) @ x0).astype(float)
    x = sm.lstsq(sm.Kronecker(*factors), b)
    error = np.linalg.norm((b - np.kron(ref.wide(factors[0]), ref.wide(factors[1])) @ x).astype(float))
    check(error, np.linalg.norm(x) + np.linalg.norm(b), 30 * 10, "float64", "B15 lstsq of a Kronecker product")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("cls", [sm.Circulant, sm.SkewCirculant])
@pytest.mark.parametrize("n", [0, 1, 2, 7, 8, 13])
def test_circulant(cls, n, dtype, xp, rng):
    build = ref.circulant if cls is sm.Circulant else ref.skew_circulant
    twist = np.exp(-1j * np.pi * np.arange(n) / max(n, 1)) if cls is sm.SkewCirculant else 1
    for zeros in {0, 1, n // 2, n}:
        if zeros > n:
            continue
        values = np.exp(2j * np.pi * rng.random(n)) * np.linspace(1, 2, n)
        values[rng.permutation(n)[:zeros]] = 0
        if "complex" in dtype:
            c = np.fft.ifft(values) / twist if n else np.zeros(0)
            rank = n - zeros
        else:  # differences (1, -1) annihilate one frequency, a real generator keeps conjugate pairs
            c = rng.standard_normal(n) + (np.arange(n) == 0) * 4 * n**0.5
            rank = n
            if zeros and cls is sm.Circulant and n:
                c = c - c.mean()
                rank = n - 1
        c = c.astype(dtype)
        D = np.asarray(build(ref.wide(c)), complex)
        is_least_squares(cls(xp.asarray(c)), D, normal(rng, (n, 2), dtype), xp, dtype, "lstsq circulant", rank)


@pytest.mark.parametrize("dtype", DTYPES)
def test_multilevel_circulant(dtype, xp, rng):
    """Differences along both axes annihilate the constants; images of mean zero are all that is found."""
    for sizes in ((3, 4), (4, 5), (1, 1), (0, 3), (2, 3, 2)):
        c = normal(rng, sizes, dtype)
        c.reshape(-1)[:1] += 4 * c.size**0.5
        for rank in (c.size, c.size - 1):
            if rank < 0:
                continue
            if rank < c.size:
                c = c - c.mean()
            A = sm.MultilevelCirculant(xp.asarray(c.astype(dtype), copy=True))
            D = host(A.to_dense())  # against its own dense form: test_multilevel checks that
            is_least_squares(A, D, normal(rng, (c.size, 2), dtype), xp, dtype, "lstsq multilevel circulant", rank)


@pytest.mark.parametrize("shape", [(60, 40), (40, 60), (45, 44), (80, 5)])
@pytest.mark.parametrize("width", [0.5, 1.5, 2.2, 2.6, 2.9, 3.1])
@pytest.mark.parametrize("residual", [0.0, 1e-4, 1.0])
def test_rectangular_toeplitz_at_any_condition(residual, width, shape, rng):
    """As accurate as a QR factorization up to κ = 1e10, where normal equations have nothing left."""
    m, n = shape
    c, r = (np.exp(-((np.arange(k) / width) ** 2)) for k in shape)
    D = ref.toeplitz(ref.wide(c), ref.wide(r))
    noise = rng.standard_normal(m)
    b = (D @ rng.standard_normal(n)).astype(float)
    b = b + residual * np.linalg.norm(b) / np.linalg.norm(noise) * noise
    for complex_ in (False, True):
        T, dtype, turn = sm.Toeplitz(c, r), "float64", 1.0
        if complex_:
            twist = np.exp(1j * np.arange(m + n))  # D^H T D' with unitary diagonals: the same singular values
            T, dtype = sm.Toeplitz(c * twist[:m], r * twist[:n].conj()), "complex128"
            turn = twist[:m, None] * twist[:n].conj()
        right = b * twist[:m] if complex_ else b
        limit = 1 if m < n else 30
        is_least_squares(T, D * turn, right, np, dtype, "lstsq Toeplitz", min(shape), limit)


@pytest.mark.parametrize("f", (1.0, -1.0))
@pytest.mark.parametrize("n", (1, 3, 4))
@pytest.mark.parametrize("kind", ("Toeplitz", "W", "Wᵀ"))
def test_borders(kind, n, f, rng):
    """Z_1 B − B Z_f = P Qᵀ, with as few columns as the displacement of such matrices has rank."""
    G, H = (normal(rng, (5, 2), "complex128") for _ in range(2))
    B, k = {
        "Toeplitz": (sm.Toeplitz(G[:, 0], np.concatenate((G[:1, 0], H[1:n, 0]))), 2),
        "W": (sm.LowDisplacementRank(G, H, shape=(5, n)), 3),
        "Wᵀ": (sm.LowDisplacementRank(G, H, shape=(n, 5)).T, 4),
    }[kind]
    P, Q = borders(B, f)
    left, right = np.roll(np.eye(5), 1, axis=0), np.roll(np.eye(n), 1, axis=0)
    right[0, -1] = f
    D = B.to_dense()
    np.testing.assert_allclose(left @ D - D @ right, P @ Q.T, atol=1e-13)
    assert P.shape == (5, k) and Q.shape == (n, k)
    np.testing.assert_allclose(gram(B).to_dense(), D.conj().T @ D, atol=1e-12)
    K = augmented(B, 0.25).to_dense()
    np.testing.assert_allclose(K, np.block([[0.25 * np.eye(5), D], [D.conj().T, np.zeros((n, n))]]), atol=1e-12)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(9, 4), (4, 9), (7, 1), (1, 7), (41, 40), (40, 41), (64, 13), (0, 3), (3, 0)])
def test_corners_of_low_displacement_rank(shape, dtype, xp, rng):
    for terms in (1, 2, 5):
        G, H = (normal(rng, (max(shape), terms), dtype) for _ in range(2))
        for turned in (False, True):
            corner = shape[::-1] if turned else shape
            A = sm.LowDisplacementRank(xp.asarray(G), xp.asarray(H), shape=corner)
            D = ref.low_displacement_rank(ref.wide(G), ref.wide(H), corner)
            A, D = (A.T, D.T) if turned else (A, D)
            is_least_squares(A, D, normal(rng, (shape[0], 2), dtype), xp, dtype, "lstsq W(G, H)", min(shape))


@pytest.mark.parametrize("shape", [(60, 40), (40, 60), (45, 44)])
@pytest.mark.parametrize("width", [0.5, 1.5, 2.2, 2.6, 2.9])
@pytest.mark.parametrize("residual", [0.0, 1e-4, 1.0])
def test_corners_of_low_displacement_rank_at_any_condition(residual, width, shape, rng):
    """A Toeplitz matrix of condition to 1e9 as W(G, H), with other generators of the same G Hᵀ."""
    m, n = shape
    c = np.exp(-((np.arange(max(shape)) / width) ** 2))
    W = sm.convert(sm.Toeplitz(c), sm.LowDisplacementRank)
    mix = rng.standard_normal((2, 2)) + 2 * np.eye(2)
    G, H = W.g @ mix, W.h @ np.linalg.inv(mix).T
    D = ref.low_displacement_rank(ref.wide(G), ref.wide(H), shape)
    noise = rng.standard_normal(m)
    b = (D @ rng.standard_normal(n)).astype(float)
    b = b + residual * np.linalg.norm(b) / np.linalg.norm(noise) * noise
    is_least_squares(sm.LowDisplacementRank(G, H, shape=shape), D, b, np, "float64", "lstsq W(G, H)", min(shape))


@pytest.mark.parametrize("cls", [sm.Circulant, sm.SkewCirculant])
@pytest.mark.parametrize("shape", [(8, 5), (5, 8), (0, 4), (4, 0), (6, 1)])
def test_corners_of_circulants(cls, shape, xp, rng):
    c = rng.standard_normal(max(shape))
    build = ref.circulant if cls is sm.Circulant else ref.skew_circulant
    D = build(ref.wide(c), shape)
    A = cls(xp.asarray(c), shape=shape)
    is_least_squares(A, D, rng.standard_normal((shape[0], 2)), xp, "float64", "lstsq corner", min(shape))


def test_scaled(xp, rng):
    D = with_values(rng, 4, 3, [1, 0.5], "float64")
    A = sm.Scaled._of(scale=xp.asarray(-2.0), matrix=of_dense(D, xp))
    is_least_squares(A, -2 * D, rng.standard_normal(4), xp, "float64", "lstsq Scaled", 2)
    zero = sm.Scaled._of(scale=xp.asarray(0.0), matrix=of_dense(D, xp))
    assert not host(sm.lstsq(zero, xp.asarray(np.ones((4, 2))))).any()


def test_agrees_with_solve_and_with_numpy(rng):
    D, b = rng.standard_normal((6, 6)) + 4 * np.eye(6), rng.standard_normal((6, 2))
    np.testing.assert_allclose(sm.lstsq(sm.Dense(D), b), sm.solve(sm.Dense(D), b), rtol=1e-12)
    for rcond in (None, 1e-3, 0.2, 0.0):
        M = with_values(rng, 8, 5, [1, 0.5, 0.1, 1e-4, 1e-6], "float64")
        b = rng.standard_normal(8)
        expected = np.linalg.lstsq(M, b, rcond=0.0 if rcond == 0 else rcond)[0]
        np.testing.assert_allclose(sm.lstsq(sm.Dense(M), b, rcond=rcond), expected, rtol=1e-6)
        K = sm.Kronecker(M, np.eye(1))
        np.testing.assert_allclose(sm.lstsq(K, b, rcond=rcond), expected, rtol=1e-6)
    d, c = np.array([1.0, 1e-3, 0.5]), np.array([3.0, 1.0, 1.0])
    np.testing.assert_array_equal(sm.lstsq(sm.Diagonal(d), np.ones(3), rcond=0.1), [1, 0, 2])
    solved = sm.lstsq(sm.Circulant(c), np.array([1.0, 2.0, 3.0]), rcond=0.9)  # eigenvalues 5, 2, 2
    np.testing.assert_allclose(solved, 6 / 3 / 5 * np.ones(3), rtol=1e-14)


def test_mixed_precision_and_complex_right_hand_sides(xp, rng):
    D = rng.standard_normal((5, 3)).astype("float32")
    b = rng.standard_normal(5) + 1j * rng.standard_normal(5)
    x = sm.lstsq(of_dense(D, xp), xp.asarray(b))
    assert dtype_of(x) == "complex128"
    np.testing.assert_allclose(host(x), np.linalg.lstsq(D.astype(complex), b)[0], rtol=1e-12)


@pytest.mark.parametrize("dtype", ["float64", "complex128"])
@pytest.mark.parametrize("name", ["tall", "wide", "low rank", "Kronecker", "circulant", "diagonal"])
def test_gradients(name, dtype):
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(3)
    shapes = {"tall": [(5, 3)], "wide": [(3, 5)], "low rank": [(5, 2), (4, 2)], "Kronecker": [(3, 2), (2, 3)],
              "circulant": [(4,)], "diagonal": [(4,)]}[name]  # fmt: skip
    make = {"tall": sm.Dense, "wide": sm.Dense, "low rank": sm.LowRank, "Kronecker": sm.Kronecker,
            "circulant": sm.Circulant, "diagonal": sm.Diagonal}[name]  # fmt: skip
    arrays = [torch.asarray(normal(rng, s, dtype)).requires_grad_() for s in shapes]
    b = torch.asarray(normal(rng, (make(*arrays).shape[0], 2), dtype)).requires_grad_()
    assert torch.autograd.gradcheck(lambda b, *arrays: sm.lstsq(make(*arrays), b), [b, *arrays])


@pytest.mark.parametrize("shape", [(4, 2), (2, 4), (3, 3)])
@pytest.mark.parametrize(
    ("cls", "dtype"), [(sm.Toeplitz, "float64"), (sm.Toeplitz, "complex128"), (sm.Hankel, "float64")]
)
def test_gradients_of_toeplitz(shape, cls, dtype):
    """First and second derivatives, against finite differences."""
    torch = pytest.importorskip("torch")
    rng, (m, n) = np.random.default_rng(3), shape
    t, b = (torch.asarray(normal(rng, s, dtype)).requires_grad_() for s in ((m + n - 1,), (m,)))

    def f(t, b):
        A = sm.Toeplitz(t[:m], torch.cat((t[:1], t[m:]))) if cls is sm.Toeplitz else sm.Hankel(t[:m], t[m - 1 :])
        return sm.lstsq(A, b)

    A = sm.Toeplitz(t[:m], torch.cat((t[:1], t[m:]))) if cls is sm.Toeplitz else sm.Hankel(t[:m], t[m - 1 :])
    expected = np.linalg.lstsq(host(A.to_dense().detach()), host(b.detach()), rcond=None)[0]
    np.testing.assert_allclose(host(f(t, b).detach()), expected, rtol=1e-11)
    assert torch.autograd.gradcheck(f, (t, b), fast_mode=True)
    if dtype == "float64":
        assert torch.autograd.gradgradcheck(f, (t, b), fast_mode=True)


@pytest.mark.parametrize("dtype", ["float64", "complex128"])
@pytest.mark.parametrize("shape", [(4, 2), (2, 4)])
def test_gradients_of_corners_of_low_displacement_rank(shape, dtype):
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(3)
    G, H, b = (torch.asarray(normal(rng, s, dtype)).requires_grad_() for s in ((4, 2), (4, 2), (shape[0],)))
    for turned in (False, True):

        def f(G, H, b, turned=turned):
            A = sm.LowDisplacementRank(G, H, shape=shape[::-1] if turned else shape)
            return sm.lstsq(A.T if turned else A, b)

        assert torch.autograd.gradcheck(f, (G, H, b), fast_mode=True)
        assert torch.autograd.gradgradcheck(f, (G, H, b), fast_mode=True)


def test_no_gradient_beyond_the_normal_equations():
    torch = pytest.importorskip("torch")
    c = torch.exp(-(torch.arange(40, dtype=torch.float64) ** 2) / 18)
    with pytest.raises(sm.UnsupportedError, match="lstsq: A: no gradient where"):
        sm.lstsq(sm.Toeplitz(c.requires_grad_(), c[:30]), torch.ones(40, dtype=torch.float64))


def test_errors():
    A = sm.Dense(np.ones((4, 2)))
    for wrong, error in (
        (lambda: sm.lstsq(A, np.ones(3)), sm.ShapeError),
        (lambda: sm.lstsq(A, np.ones((4, 1, 1))), sm.ShapeError),
        (lambda: sm.lstsq(A, np.array([1.0, np.nan, 1, 1])), sm.NonFiniteError),
        (lambda: sm.lstsq(sm.Dense([[np.inf]]), np.ones(1)), sm.NonFiniteError),
        (lambda: sm.lstsq(A, np.ones(4), rcond=-1), sm.ArgumentError),
        (lambda: sm.lstsq(A, np.ones(4), rcond="small"), sm.DTypeError),
        (lambda: sm.lstsq(np.ones((4, 2)), np.ones(4)), sm.DTypeError),
    ):
        with pytest.raises(error, match="lstsq"):
            wrong()
    for refused in (
        sm.Toeplitz(np.ones(4), np.ones(3)) @ sm.Dense(np.eye(3)),
        sm.Separated([np.ones((2, 2, 1)), np.ones((2, 2, 3))]),
    ):
        with pytest.raises(sm.UnsupportedError, match=r"lstsq: .*sm.interop.lsmr\(A, b\)") as caught:
            sm.lstsq(refused, np.ones(4))
        assert len(re.split(", or ", caught.value.args[4])) == 2
        with pytest.raises(sm.ShapeError, match=r"numpy\.linalg\.lstsq"):  # and solve does not send there
            sm.solve(refused, np.ones(4))


@pytest.mark.parametrize("dtype", DTYPES)
def test_square_ones_of_full_rank(dtype, xp, rng):
    """W(G, H), products, lazy inverses, sums of commuting products: the solution."""
    n = 6
    G, H = normal(rng, (n, 2), dtype), normal(rng, (n, 2), dtype)
    W = sm.LowDisplacementRank(xp.asarray(G), xp.asarray(H))
    M = xp.asarray((normal(rng, (n, n), dtype) + 4 * np.eye(n)).astype(dtype))
    c = normal(rng, (n,), dtype)
    c[0] += 6
    T, b = sm.Toeplitz(xp.asarray(c)), normal(rng, (n, 2), dtype)
    for A in (W, W.T, W @ sm.Dense(M), T @ W, sm.Inverse(T), 3.0 * W):
        is_least_squares(A, host(A.to_dense()).astype(complex), b, xp, dtype, f"lstsq {type(A).__name__}", n)


def test_square_ones_that_are_singular():
    W = sm.LowDisplacementRank(np.ones((6, 1)), np.eye(6)[:, :1])
    for A in (W, sm.Toeplitz(np.arange(3.0, 9)) @ sm.Kronecker(np.ones((2, 2)), np.eye(3))):
        with pytest.raises(
            sm.SingularMatrixError, match=r"^lstsq: A: .*expected (full rank|nonsingular factors).* Use sm"
        ):
            sm.lstsq(A, np.ones(6))


@pytest.mark.parametrize("dtype", DTYPES)
def test_sums_of_commuting_products(dtype, xp, rng):
    """One term factor by factor, of any shape; several by their eigenvalues, whatever the rank."""
    F, G = (with_values(rng, *s, [1.0, 0.5], dtype) for s in ((4, 3), (3, 5)))
    A = sm.Separated([xp.asarray(F[None]), xp.asarray(G[None])])
    is_least_squares(A, np.kron(F, G), normal(rng, (12, 2), dtype), xp, dtype, "lstsq Separated", 4)
    Q = [np.linalg.qr(normal(rng, (n, n), "complex128" if "complex" in dtype else "float64"))[0] for n in (3, 4)]
    w = np.array([2.0, 2.0, -1.0]), np.array([1.0, 3.0, 5.0, 0.5])
    F, G = (((q * x) @ q.conj().T).astype(dtype) for q, x in zip(Q, w, strict=True))
    one = xp.asarray(np.ones(1, dtype))
    for shift in (6.0, 0.3, 2.0):  # products are 2, 6, 10, 1 twice and −1, −3, −5, −1/2
        A = sm.Kronecker(xp.asarray(F), xp.asarray(G)) - shift * sm.Identity(12, like=one)
        values = np.abs(np.multiply.outer(*w) - shift)
        rank = int(np.sum(values > 1e-3))
        D = np.kron(F.astype(complex), G) - shift * np.eye(12)
        is_least_squares(A, D, normal(rng, (12, 2), dtype), xp, dtype, "lstsq commuting terms", rank)


def test_advice_leads_here():
    """What solve says of a rectangular or singular matrix works where the class has a rule."""
    for A in (sm.Dense(np.ones((3, 2))), sm.LowRank(np.ones((3, 1)), np.ones((2, 1))), sm.Kronecker(np.ones((3, 2)))):
        with pytest.raises(sm.ShapeError, match=r"Use sm.lstsq\(A, b\), or"):
            sm.solve(A, np.ones(3))
        np.testing.assert_allclose(sm.lstsq(A, np.ones(3)), [0.5, 0.5], rtol=1e-14)
    for A in (sm.Dense(np.ones((2, 2))), sm.Diagonal([1.0, 0.0]), sm.Circulant([1.0, 1.0])):
        with pytest.raises(sm.SingularMatrixError, match=r"Use sm.lstsq\(A, b\), or"):
            sm.solve(A, np.ones(2))
        assert np.isfinite(sm.lstsq(A, np.ones(2))).all()


@pytest.mark.parametrize("c", [np.ones(5), np.zeros(5)], ids=["rank 1", "rank 0"])
@pytest.mark.parametrize("kind", [sm.Toeplitz, sm.Hankel])
def test_advice_for_a_singular_displaced_matrix_leads_out(kind, c):
    """lstsq of Toeplitz and Hankel matrices needs full rank: neither solve nor lstsq itself may send one there."""
    A, b = kind(c, c), np.ones(5)
    for function, way in ((sm.solve, r"numpy.linalg.lstsq\(A.to_dense\(\), b\)"), (sm.lstsq, r"sm.lstsq\(sm.Dense\(")):
        with pytest.raises(sm.SingularMatrixError, match=f"^{function.__name__}: A.*Use {way}") as caught:
            function(A, b)
        assert "sm.lstsq(A, b)" not in str(caught.value)
    assert kind.__name__ in str(caught.value)
    np.testing.assert_allclose(sm.lstsq(sm.Dense(A.to_dense()), b), np.linalg.lstsq(A.to_dense(), b)[0], atol=1e-14)
