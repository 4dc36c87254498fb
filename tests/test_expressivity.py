"""What W(G, H) contains (SURM, Theorem A.2): every class at exactly the stated number of terms, against dense oracles, and
not with one term less; products, sums, inverses and transposes inside the class, and the way back to fewer terms."""

import re

import numpy as np
import pytest
import reference as ref
from cases import normal
from conftest import check, dtype_of, host

import sepmat as sm

N = 12  # more than the terms of every expression below


class Draw:
    """Random members of the classes on a backend, with dense oracles in NumPy's widest precision."""

    def __init__(self, xp, dtype="float64", n=N, seed=0):
        self.xp, self.dtype, self.n, self.rng = xp, dtype, n, np.random.default_rng(seed)

    def _pair(self, cls, build, *arrays):
        return cls(*(self.xp.asarray(a, copy=True) for a in arrays)), build(*(ref.wide(a) for a in arrays))

    def toeplitz(self, invertible=False):
        c, r = normal(self.rng, (self.n,), self.dtype), normal(self.rng, (self.n,), self.dtype)
        if self.n:
            c[0] = 4 * self.n**0.5 if invertible else c[0]
            r[0] = c[0]
        return self._pair(sm.Toeplitz, ref.toeplitz, c, r)

    def circulant(self, cls=sm.Circulant):
        build = ref.circulant if cls is sm.Circulant else ref.skew_circulant
        return self._pair(cls, build, normal(self.rng, (self.n,), self.dtype))

    def low_rank(self, k):
        return self._pair(sm.LowRank, ref.low_rank, *(normal(self.rng, (self.n, k), self.dtype) for _ in range(2)))

    def displaced(self, r):
        generators = (normal(self.rng, (self.n, r), self.dtype) for _ in range(2))
        return self._pair(sm.LowDisplacementRank, ref.low_displacement_rank, *generators)

    def inverse(self):
        T, D = self.toeplitz(invertible=True)
        return sm.Inverse(T), np.linalg.inv(D.astype(complex if D.dtype.kind == "c" else float))

    def identity(self):
        return sm.Identity(self.n, like=self.xp.asarray(np.zeros(1, self.dtype))), np.eye(self.n)


def product(*pairs):
    (A, D), *rest = pairs
    for B, E in rest:
        A, D = A @ B, D @ E
    return A, D


def total(*pairs):
    (A, D), *rest = pairs
    for B, E in rest:
        A, D = A + B, D + E
    return A, D


def dense(d):
    _A, D = d.toeplitz()
    M = normal(d.rng, D.shape, d.dtype)
    return sm.Dense(d.xp.asarray(M, copy=True)), ref.wide(M)


EXPRESSIONS = {  # name: (how to draw it, the number of terms)
    "circulant": (lambda d: d.circulant(), 1),
    "skew-circulant": (lambda d: d.circulant(sm.SkewCirculant), 1),
    "identity": (lambda d: d.identity(), 1),
    "circulant @ skew-circulant": (lambda d: product(d.circulant(), d.circulant(sm.SkewCirculant)), 1),
    "skew-circulant @ circulant": (lambda d: product(d.circulant(sm.SkewCirculant), d.circulant()), 3),
    "Toeplitz": (lambda d: d.toeplitz(), 2),
    "Toeplitz inverse": (lambda d: d.inverse(), 2),
    "T T": (lambda d: product(d.toeplitz(), d.toeplitz()), 4),
    "T T T": (lambda d: product(d.toeplitz(), d.toeplitz(), d.toeplitz()), 6),
    "T T T T": (lambda d: product(*(d.toeplitz() for _ in range(4))), 8),
    "T⁻¹ T⁻¹": (lambda d: product(d.inverse(), d.inverse()), 4),
    "T⁻¹ T": (lambda d: product(d.inverse(), d.toeplitz()), 3),
    "T T⁻¹": (lambda d: product(d.toeplitz(), d.inverse()), 3),
    "T T⁻¹ T": (lambda d: product(d.toeplitz(), d.inverse(), d.toeplitz()), 4),
    "T C T": (lambda d: product(d.toeplitz(), d.circulant(), d.toeplitz()), 4),
    "T T + T T": (lambda d: total(*(product(d.toeplitz(), d.toeplitz()) for _ in range(2))), 6),
    "T T + T T + T T": (lambda d: total(*(product(d.toeplitz(), d.toeplitz()) for _ in range(3))), 8),
    "T T + I": (lambda d: total(product(d.toeplitz(), d.toeplitz()), d.identity()), 4),
    "C T + I": (lambda d: total(product(d.circulant(), d.toeplitz()), d.identity()), 2),
    "T⁻¹ + T⁻¹": (lambda d: total(d.inverse(), d.inverse()), 4),
    "T + T⁻¹": (lambda d: total(d.toeplitz(), d.inverse()), 4),
    "rank 1": (lambda d: d.low_rank(1), 2),
    "rank 3": (lambda d: d.low_rank(3), 6),
    "T + rank 2": (lambda d: total(d.toeplitz(), d.low_rank(2)), 6),
    "W": (lambda d: d.displaced(3), 3),
    "W W": (lambda d: product(d.displaced(2), d.displaced(3)), 6),
    "W T": (lambda d: product(d.displaced(2), d.toeplitz()), 4),
    "T W": (lambda d: product(d.toeplitz(), d.displaced(2)), 4),
    "any matrix": (dense, N),
}


def size_of(W):
    """Σ_k ‖C_k‖_F ‖S_k‖_F and the constant of B11 of W(G, H) on the host."""
    G, H = host(W.g), host(W.h)
    return float(ref.displacement_norm(ref.wide(G), ref.wide(H))), ref.displacement_constant(G, H)


def agrees(W, D, dtype, name):
    """W is D, to what a product with W may err on the unit vectors (B11), and as much again for its generators."""
    size, constant = size_of(W)
    error = np.linalg.norm((host(W.to_dense()) - D).astype(complex))
    check(error, size * np.sqrt(len(D)), 2 * constant, dtype, name)


# --- the theorem ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", EXPRESSIONS)
def test_exactly_the_stated_number_of_terms(name, xp):
    build, terms = EXPRESSIONS[name]
    for dtype in ("float64", "complex128", "float32", "complex64"):
        A, D = build(Draw(xp, dtype))
        assert sm.terms_needed(A) == terms
        W = sm.displacement_form(A)
        assert type(W) is sm.LowDisplacementRank and W.terms == terms and dtype_of(W) == dtype and W.shape == A.shape
        agrees(W, D, dtype, "conversion to W(G, H)")
        assert sm.convert(A, sm.LowDisplacementRank).equals(W)


@pytest.mark.parametrize("dtype", ["float64", "complex128"])
@pytest.mark.parametrize("name", EXPRESSIONS)
def test_and_not_with_one_less(name, dtype):
    """∇ has exactly that rank: every W with r - 1 terms is at least σ_r / ‖∇‖ >= σ_r / 2 away."""
    build, terms = EXPRESSIONS[name]
    _, D = build(Draw(np, dtype, seed=1))
    D = D.astype(complex)
    s = np.linalg.svd(sm.displacement(D), compute_uv=False)
    norm = np.linalg.norm(D)
    assert s[terms - 1] / 2 > 1e-5 * norm, "the displacement rank is smaller than the number of terms"
    assert terms == N or s[terms] < 1e-12 * norm
    if terms < N:
        assert sm.displacement_rank(D, tol=1e-10) == terms
    if terms > 1:
        fit = sm.nearest_low_rank(sm.displacement(D), terms - 1)
        error = fit.relative_error * np.linalg.norm(sm.displacement(D))
        assert error / 2 > 1e-5 * norm
        truncated = sm.compress_displacement(sm.displacement_form(build(Draw(np, dtype, seed=1))[0]), terms - 1)
        assert truncated.relative_error * norm >= 0.999 * error / 2


@pytest.mark.parametrize("n", [0, 1, 2, 3, 5, 7])
@pytest.mark.parametrize("name", EXPRESSIONS)
def test_never_more_than_n_terms(name, n, xp):
    build, terms = EXPRESSIONS[name]
    A, D = build(Draw(xp, n=n))
    W = sm.displacement_form(A)
    assert W.terms == sm.terms_needed(A) == min(n if name == "any matrix" else terms, n)
    agrees(W, D, "float64", "conversion to W(G, H)")


def test_sums_of_products_share_columns():
    """2 t p - 2 (p - 1) for p products of t Toeplitz matrices, attained."""
    d = Draw(np, n=40)
    for t, p in ((1, 3), (2, 2), (2, 5), (3, 2), (3, 4)):
        A, D = total(*(product(*(d.toeplitz() for _ in range(t))) for _ in range(p)))
        expected = 2 * t * p - 2 * (p - 1)
        if t > 1:
            assert sm.terms_needed(A) == expected
            assert sm.displacement_form(A).terms == expected
        assert sm.displacement_rank(D.astype(float), tol=1e-10) == expected


def test_weights_and_subtractions_cost_nothing():
    d = Draw(np)
    (A, D), (B, E) = (product(d.toeplitz(), d.toeplitz()) for _ in range(2))
    C = 2.5 * A - 3.0 * B
    assert sm.terms_needed(C) == 6
    agrees(sm.displacement_form(C), 2.5 * D - 3.0 * E, "float64", "conversion to W(G, H)")
    W = sm.convert(sm.Scaled._of(scale=np.asarray(-2.0), matrix=A), sm.LowDisplacementRank)
    agrees(W, -2.0 * D, "float64", "conversion to W(G, H)")
    assert W.terms == 4
    scaled_first = sm.Product._of(factors=(sm.Scaled._of(scale=np.asarray(-2.0), matrix=B), A))
    assert sm.terms_needed(scaled_first) == 8
    agrees(sm.displacement_form(scaled_first), -2.0 * E @ D, "float64", "conversion to W(G, H)")


@pytest.mark.parametrize("shape", [(5, 9), (9, 5), (1, 9), (9, 1)])
def test_corners(shape, xp, rng):
    """Rectangular members are corners of an N×N one, and so are their sums."""
    m, n = shape
    c, r = rng.standard_normal(m), rng.standard_normal(n)
    r[0] = c[0]
    u, v, x = rng.standard_normal((m, 2)), rng.standard_normal((n, 2)), rng.standard_normal(9)
    M = rng.standard_normal((m, n))
    T, L = sm.Toeplitz(xp.asarray(c), xp.asarray(r)), sm.LowRank(xp.asarray(u), xp.asarray(v))
    C = sm.Circulant(xp.asarray(x), shape)
    dense_T, dense_L = ref.toeplitz(ref.wide(c), ref.wide(r)), ref.wide(u @ v.T)
    for A, D, terms in (
        (T, dense_T, 2),
        (L, dense_L, 4),
        (C, ref.circulant(ref.wide(x), shape), 1),
        (T + L, dense_T + dense_L, 6),
        (sm.Scaled._of(scale=xp.asarray(2.0), matrix=L) + T, dense_T + 2 * dense_L, 6),
        (sm.Dense(xp.asarray(M)), ref.wide(M), 9),
    ):
        W = sm.displacement_form(A)
        assert W.shape == shape and W.terms == terms == sm.terms_needed(A)
        size, constant = size_of(W)
        error = np.linalg.norm((host(W.to_dense()) - D).astype(float))
        check(error, size * 3, 2 * constant, "float64", "corner of W(G, H)")


def test_classes_without_a_rule_are_refused():
    T = sm.Toeplitz(np.arange(1.0, 6.0))
    for A in (
        sm.Diagonal(np.ones(5)),
        sm.Hankel(np.ones(5)),
        T @ sm.Diagonal(np.arange(5.0)),
        T + sm.Hankel(np.ones(5)),
    ):
        with pytest.raises(sm.UnsupportedError) as caught:
            sm.displacement_form(A)
        assert len(re.split(", or ", caught.value.args[4])) == 2
        assert sm.terms_needed(A) == 5
    rectangular = (
        sm.Toeplitz(np.ones(3), np.ones(4)) @ sm.Toeplitz(np.ones(4), np.ones(3)) @ sm.Toeplitz(np.ones(3), np.ones(5))
    )
    for f in (sm.terms_needed, sm.displacement_form):
        with pytest.raises(sm.UnsupportedError, match="corner"):
            f(rectangular)
        with pytest.raises(sm.DTypeError, match="structured matrix"):
            f(np.eye(3))


def test_gradients_reach_the_factors():
    torch = pytest.importorskip("torch")
    d = Draw(np, n=5)
    arrays = [torch.asarray(d.rng.standard_normal(k)).requires_grad_() for k in (5, 4, 5, 4, 5)]

    def form(c, s, e, t, u):
        A, B = sm.Toeplitz(c, torch.concat((c[:1], s))), sm.Toeplitz(e, torch.concat((e[:1], t)))
        W = sm.displacement_form(A @ B + sm.LowRank(u[:, None], u[:, None]))
        return W.g.sum() + (W.h**2).sum() + W.to_dense().sum()

    assert torch.autograd.gradcheck(form, arrays)


# --- closed algebra -----------------------------------------------------------------------------------------------------------------


def test_products_stay_lazy_until_asked(xp):
    d = Draw(xp)
    (A, D), (B, E) = d.displaced(2), d.displaced(3)
    assert type(A @ B) is sm.Product
    W = sm.convert(A @ B, sm.LowDisplacementRank)
    assert W.terms == 6
    agrees(W, D @ E, "float64", "product of two W(G, H)")
    W = sm.convert(A @ B @ A, sm.LowDisplacementRank)
    assert W.terms == 9
    agrees(W, D @ E @ D, "float64", "product of three W(G, H)")


def test_transposes_inside_sums(xp):
    """A transpose needs two terms more, and a product with one at its side one more."""
    for dtype in ("float64", "complex128"):
        d = Draw(xp, dtype)
        (A, D), (B, E) = d.displaced(2), d.displaced(3)
        for M, oracle, terms in (
            (A.T, D.T, 4),
            (A.H, D.conj().T, 4),
            (A + B.T, D + E.T, 7),
            (A.T + B.T, (D + E).T, 7),
            (A.T @ B, D.T @ E, 6),
            (A @ B.T, D @ E.T, 6),
            (A.T @ B.T, D.T @ E.T, 8),
        ):
            W = sm.displacement_form(M)
            assert W.terms == terms == sm.terms_needed(M) and not W.transposed
            agrees(W, oracle, dtype, "transposed W(G, H)")


def test_inverse_of_w_needs_two_terms_more():
    d = Draw(np, n=20)
    W, D = d.displaced(2)
    A = sm.Inverse(sm.Dense(D.astype(float)))
    assert sm.terms_needed(sm.Inverse(W)) == 4 and sm.terms_needed(A) == 20
    assert sm.displacement_rank(np.linalg.inv(D.astype(float)), tol=1e-9) == 4


# --- compress back --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 2, 7, 32, 101])
def test_rounding_terms_are_dropped(n, xp):
    for dtype in ("float64", "complex128", "float32"):
        d = Draw(xp, dtype, n=n, seed=n)
        (A, D), (B, E) = d.displaced(2), d.displaced(1)
        for M, oracle, terms in ((A + B - A, E, 1), (A + A, 2 * D, 2), (A + B + A, 2 * D + E, 3)):
            fit = sm.compress_displacement(M)
            assert fit.matrix.terms == min(terms, n) and dtype_of(fit.matrix) == dtype
            assert fit.num_parameters == 2 * n * fit.matrix.terms
            agrees(fit.matrix, oracle, dtype, "compressed W(G, H)") if terms > 1 else None
            size, constant = size_of(M)
            check(fit.relative_error * np.linalg.norm(oracle.astype(complex)), size * np.sqrt(n), 2 * constant, dtype)


def test_a_product_of_inverse_and_toeplitz_is_compressed_to_three_terms():
    d = Draw(np, n=32)
    (A, D), (B, E) = d.inverse(), d.toeplitz()
    W = sm.displacement_form(A)
    closed = sm.convert(W @ sm.convert(B, sm.LowDisplacementRank), sm.LowDisplacementRank)
    assert closed.terms == 5  # that W is the inverse of a Toeplitz matrix is not known to it
    fit = sm.compress_displacement(closed)
    assert fit.matrix.terms == 3
    agrees(fit.matrix, D @ E, "float64", "compressed W(G, H)")


@pytest.mark.parametrize("shape", [(24, 24), (24, 17), (17, 24)])
def test_fewer_terms_than_the_rank_report_the_true_error(shape, rng):
    G, H = rng.standard_normal((24, 6)) * 3.0 ** -np.arange(6), rng.standard_normal((24, 6))
    W = sm.LowDisplacementRank(G, H, shape)
    D = ref.low_displacement_rank(ref.wide(G), ref.wide(H), shape).astype(float)
    for rank in range(1, 7):
        fit = sm.compress_displacement(W, rank=rank)
        true = np.linalg.norm(D - fit.matrix.to_dense()) / np.linalg.norm(D)
        assert fit.matrix.terms == rank and abs(fit.relative_error - true) <= 1e-12
    for tol in (0.5, 0.1, 1e-2, 1e-6):
        fit = sm.compress_displacement(W, tol=tol)
        true = np.linalg.norm(D - fit.matrix.to_dense()) / np.linalg.norm(D)
        assert true <= tol and abs(fit.relative_error - true) <= 1e-12
        assert (
            fit.matrix.terms == 0
            or sm.compress_displacement(W, rank=max(1, fit.matrix.terms - 1)).relative_error > tol
            or fit.matrix.terms == 1
        )
    truncated, fitted = (f.relative_error for f in (sm.compress_displacement(W, rank=2), sm.nearest_displacement(D, 2)))
    assert fitted < truncated  # the docstring says so


def test_extreme_scales_and_zero():
    d = Draw(np)
    W, _D = d.displaced(2)
    for s in (1e150, 1e-150):
        big = sm.LowDisplacementRank(W.g * s, W.h / s) + sm.LowDisplacementRank(W.g * s, W.h)
        fit = sm.compress_displacement(big)
        assert np.isfinite(fit.relative_error) and fit.relative_error < 1e-13
    zero = sm.LowDisplacementRank(np.zeros((4, 3)), np.ones((4, 3)))
    fit = sm.compress_displacement(zero)
    assert fit.matrix.terms == 0 and fit.relative_error == 0.0 and not fit.matrix.to_dense().any()
    assert sm.compress_displacement(sm.LowDisplacementRank(np.zeros((0, 2)), np.zeros((0, 2)))).matrix.shape == (0, 0)


def test_arguments_of_compress_displacement():
    W = sm.LowDisplacementRank(np.ones((4, 2)), np.ones((4, 2)))
    for wrong, error in (
        ({"rank": 0}, sm.ArgumentError), ({"rank": 5}, sm.ArgumentError), ({"rank": 1.0}, sm.DTypeError),
        ({"tol": -1}, sm.ArgumentError), ({"rank": 1, "tol": 0.1}, sm.ArgumentError),
    ):  # fmt: skip
        with pytest.raises(error, match="compress_displacement"):
            sm.compress_displacement(W, **wrong)
    with pytest.raises(sm.NonFiniteError):
        sm.compress_displacement(sm.LowDisplacementRank([[np.nan], [1.0]], [[1.0], [1.0]]))


# --- the lazy inverse -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float64", "complex128", "float32"])
def test_lazy_inverse(xp, dtype, rng):
    M = normal(rng, (5, 5), dtype) + 4 * np.eye(5, dtype=dtype)
    A = sm.Inverse(sm.Dense(xp.asarray(M, copy=True)))
    inverse = np.linalg.inv(M.astype(complex))
    scale = np.linalg.cond(M) * np.linalg.norm(inverse)
    for x, axis in ((normal(rng, (5,), dtype), -1), (normal(rng, (5, 3), dtype), -2), (normal(rng, (3, 5), dtype), -1),
                    (normal(rng, (2, 5, 3), dtype), -2), (normal(rng, (2, 3, 5), dtype), -1),
                    (normal(rng, (0, 5), dtype), -1)):  # fmt: skip
        expected = np.moveaxis(np.tensordot(inverse, np.moveaxis(x, axis, 0), 1), 0, axis)
        found = A.apply(xp.asarray(x, copy=True), axis=axis)
        assert dtype_of(found) == dtype and tuple(found.shape) == x.shape
        check(np.linalg.norm((host(found) - expected).ravel()), scale * np.linalg.norm(x), 50, dtype, "lazy inverse")
    for B, oracle in ((A.T, inverse.T), (A.H, inverse.conj().T), (2 * A, 2 * inverse), (sm.inverse(A), M)):
        check(np.linalg.norm(host(B.to_dense()) - oracle), scale * np.linalg.norm(oracle), 50, dtype, "lazy inverse")
    x = normal(rng, (5, 2), dtype)
    check(
        np.linalg.norm(host(sm.solve(A, xp.asarray(x, copy=True))) - M @ x),
        np.linalg.norm(M) * np.linalg.norm(x),
        50,
        dtype,
    )
    np.testing.assert_array_equal(
        host(sm.factorize(A).solve(xp.asarray(x, copy=True))), host(sm.solve(A, xp.asarray(x, copy=True)))
    )
    sign, logabs = sm.slogdet(A)
    s, l = np.linalg.slogdet(inverse)
    check(abs(host(sign) - s) + abs(host(logabs) - l), scale, 50, dtype, "lazy inverse")


def test_lazy_inverse_of_nothing_and_of_singular_matrices():
    A = sm.Inverse(sm.Diagonal(np.zeros(0)))
    assert (A @ np.zeros((0, 2))).shape == (0, 2) and A.apply(np.zeros((3, 0))).shape == (3, 0)
    with pytest.raises(sm.SingularMatrixError):
        sm.Inverse(sm.Diagonal([1.0, 0.0])) @ np.ones(2)
    with pytest.raises(sm.ShapeError, match="square"):
        sm.Inverse(sm.Dense(np.ones((2, 3))))
    with pytest.raises(sm.DTypeError, match="structured matrix"):
        sm.Inverse(np.eye(2))
