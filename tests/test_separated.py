"""Separated representations: all digits of their norms, range, merging, Kronecker products, libraries, gradients, bad input.

Their identities are in test_separated_identities.py; limits are ten times the largest constant seen.
"""

import functools
import itertools
import math
import tracemalloc
import warnings

import numpy as np
import pytest
from behaviour.engine import Backend, Refusal, form, read
from cases import normal
from conftest import check, dtype_of, host, library, namespace
from reference import frobenius, sum_of_terms, weight, wide

import sepmat as sm
from sepmat.algebra import relative_distance
from sepmat.fit import check_attainable

U = 2.0**-53

# --- all the digits -------------------------------------------------------------------------------------------------------------


def laplacian(d, n, dtype="float64"):
    T = 2 * np.eye(n) - np.eye(n, k=1) - np.eye(n, k=-1)
    return sm.convert(sm.KroneckerSum(*[T.astype(dtype)] * d), sm.Separated)


@pytest.mark.parametrize("size", [1e-6, 1e-8, 1e-10, 1e-12, 1e-14])
def test_errors_that_a_gram_formula_cannot_see(size):
    """The d = 3 Laplacian with factors perturbed by `size`, where ‖A‖² + ‖B‖² − 2⟨A, B⟩ ends at 2e-8, 0, or below."""
    rng = np.random.default_rng(1)
    A = laplacian(3, 6)
    B = sm.Separated([F * (1 + size * rng.standard_normal(F.shape)) for F in A.factors])
    DA = sum_of_terms(A.factors)
    true = frobenius(DA - sum_of_terms(B.factors)) / frobenius(DA)
    found = float(sm.distance(A, B) / sm.norm(A))
    N = 2 * weight(A.factors) / float(frobenius(DA))
    check(abs(found - true), 2 * 3 * N, 20, "float64", "2.5 table")
    assert abs(found / float(true) - 1) < 0.01 and relative_distance(A, B) == pytest.approx(found, rel=1e-12)
    gram = sm.inner(A, A) + sm.inner(B, B) - 2 * sm.inner(A, B)
    if size <= 1e-10:
        assert abs(math.sqrt(abs(gram)) / sm.norm(A) / float(true) - 1) > 0.5


@pytest.mark.parametrize("d", [3, 10, 20, 50])
def test_errors_of_many_factors(d, xp):
    """Term k of the Laplacian times 1 + ε_k: the difference Σ ε_k T_k is known in closed form for every d."""
    n = 3
    eps = 1e-12 * np.random.default_rng(d).uniform(-1, 1, d)
    A = laplacian(d, n)
    scales = 1 + eps
    eps = scales - 1  # as stored
    B = sm.Separated(tuple(xp.asarray(host(F), copy=True) for F in A.factors), xp.asarray(scales))
    A = A.map(lambda a: xp.asarray(host(a), copy=True))
    # T = 2 I − M: the parts 2 (Σ ε_k) I and ε_k M_k are orthogonal, ‖M‖² = 2 (n − 1)
    true = math.sqrt(4 * sum(eps) ** 2 + sum(eps**2) * 2 * (n - 1) / n)
    whole = math.sqrt(4 * d**2 + d * 2 * (n - 1) / n)
    N = d * math.sqrt(4 + 2 * (n - 1) / n) / whole
    found = float(host(sm.distance(A, B) / sm.norm(A)))
    check(abs(found - true / whole), 2 * d * 2 * N, 1, "float64", "many factors")  # 20 would be the promise
    assert abs(found / (true / whole) - 1) < 0.01
    assert float(host(sm.norm(A))) == pytest.approx(whole * n ** (d / 2), rel=1e-12)


@pytest.mark.parametrize("dtype", ["float32", "float64", "complex64"])
def test_condition_number_of_border_rank_two(xp, dtype):
    """[(a + h b)^⊗3 − a^⊗3] / h: κ = 0.816 / h, beyond the digits of the data too."""
    a, b = np.array([[1.0], [0.0]]), np.array([[0.0], [1.0]])
    for h in (2.0**-3, 2.0**-7, 2.0**-10, 2.0**-20, 2.0**-23):
        stack = np.stack([a + h * b, a]).astype(dtype)
        S = sm.Separated([xp.asarray(stack)] * 3, xp.asarray(np.array([1 / h, -1 / h]).astype(dtype)))
        exact = math.sqrt((1 + h * h) ** 3 + 1) / math.sqrt(3 * h**2 + 3 * h**4 + h**6)
        assert S.condition_number == pytest.approx(exact, rel=100 * U * exact + 1e-14)
        u = 2.0**-24 if dtype in ("float32", "complex64") else U
        assert S.attainable_error() == S.condition_number * u
        assert S.attainable_error("float32") == S.condition_number * 2.0**-24
        norm = sm.norm(S)
        assert dtype_of(norm) == dtype.replace("complex64", "float32") and library(norm) == library(S.factors[0])


def test_condition_number_beyond_all_digits():
    """κ above 1/u: finite, or inf where the computed sum vanishes; never NaN, never below what it is."""
    a, b = np.array([[1.0], [0.0]]), np.array([[0.0], [1.0]])
    h = 2.0**-52
    S = sm.Separated([np.stack([a + h * b, a])] * 3, [1 / h, -1 / h])
    assert S.condition_number > 1e14 and S.attainable_error() > 0.01
    assert sm.Separated([np.ones((2, 2, 2))] * 2, [1.0, -1.0]).condition_number > 1e14
    empty = sm.Separated([np.zeros((0, 2, 2))] * 2)
    assert empty.condition_number == 1 and empty.attainable_error() == U


def test_float32_data_is_swept_in_double_precision():
    """The distance of two float32 matrices is that of their stored numbers, to the last digit of float32."""
    rng = np.random.default_rng(0)
    A = sm.Separated([rng.standard_normal((4, 3, 3)).astype("float32") for _ in range(3)])
    B = sm.Separated([F * np.float32(1 + 2.0**-22) for F in A.factors])
    true = frobenius(sum_of_terms(A.factors) - sum_of_terms(B.factors))
    check(abs(wide(sm.distance(A, B)) - true), true, 1.01, "float32", "float32 distance")
    assert true / frobenius(sum_of_terms(A.factors)) < 1e-6
    check(
        abs(wide(sm.norm(A)) - frobenius(sum_of_terms(A.factors))),
        frobenius(sum_of_terms(A.factors)),
        1.01,
        "float32",
        "float32 norm",
    )


def test_memory_of_the_sweep():
    """Hundreds of terms: the Khatri–Rao products are reduced block by block."""
    rng = np.random.default_rng(0)
    A = sm.Separated([rng.standard_normal((200, 16, 16)) for _ in range(3)])
    sm.norm(sm.Separated([np.ones((2, 2, 2))] * 3))
    tracemalloc.start()
    found = sm.norm(A)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert found == pytest.approx(math.sqrt(sm.inner(A, A)), rel=1e-10)
    assert peak < 30 * 8 * 200 * 256


# --- range ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("up", [1e150, 1e-150, 1e250])
def test_range_of_the_entries(up):
    """Factors that are far from 1 and bring each other back: nothing overflows or underflows on the way."""
    rng = np.random.default_rng(0)
    plain = [rng.standard_normal((3, 2, 2)) for _ in range(4)]
    A = sm.Separated(plain)
    B = sm.Separated([plain[0] * up, plain[1] / up, plain[2] * up, plain[3] / up])
    close = functools.partial(np.testing.assert_allclose, rtol=1e-12)
    close(sm.inner(B, B), sm.inner(A, A))
    close(sm.inner(A, B), sm.inner(A, A))
    close(sm.norm(B), sm.norm(A))
    close(B.condition_number, A.condition_number)
    close(sm.hadamard(B, B).to_dense(), A.to_dense() ** 2, atol=1e-12)
    close(sm.partial_trace(B, [0, 2]).to_dense(), sm.partial_trace(A, [0, 2]).to_dense(), atol=1e-12)
    close(sm.partial_trace(B, range(4)), sm.trace(A), atol=1e-12)
    assert sm.distance(A, B) <= 1e-13 * sm.norm(A) and relative_distance(A, B) < 1e-13
    assert (A + B - 2 * A).merged().terms == 0
    K, L = sm.Kronecker(*(F[0] for F in A.factors)), sm.Kronecker(*(F[0] for F in B.factors))
    close(sm.hadamard(L, L).to_dense(), K.to_dense() ** 2, rtol=1e-11)
    close(sm.partial_trace(L, [0, 2]).to_dense(), sm.partial_trace(K, [0, 2]).to_dense())


@pytest.mark.parametrize(
    "powers", [(-225, -221, -219, -241), (-225, -233, -230, -220), (225, 232, 231, 220), (-305, -302, 0, -300)]
)
def test_range_where_the_first_factor_has_its_share(powers, xp):
    """What is shared out may leave the first factor as it is and move the others, and a power is left for the end."""
    rng = np.random.default_rng(4)
    *factors, scales = (rng.standard_normal(s) for s in ((2, 2, 2), (2, 1, 3), (2, 3, 1), (2,)))
    plain = sm.Separated([xp.asarray(F) for F in factors], xp.asarray(scales))
    *factors, scales = (xp.asarray(F * 2.0**k) for F, k in zip((*factors, scales), powers, strict=True))
    A, x = sm.Separated(factors, scales), xp.asarray(rng.standard_normal(6))
    for what in (
        lambda A: A.to_dense(),
        lambda A: A @ x,
        sm.norm,
        sm.trace,
        lambda A: A[1, 2],
        lambda A: sm.hadamard(A, plain).to_dense(),
    ):
        expected = wide(what(plain)) * np.longdouble(2) ** sum(powers)
        check(frobenius(wide(what(A)) - expected), frobenius(expected), 40, "float64")


def test_range_of_the_result():
    """Norms beyond the range: the relative distance and κ are still right, what is asked for overflows as in IEEE."""
    stack = np.random.default_rng(0).standard_normal((2, 2, 2))
    A = sm.Separated([1e200 * stack, 1e200 * stack[::-1]])
    small = sm.Separated([stack, stack[::-1]])
    assert np.isinf(sm.norm(A)) and np.isinf(sm.inner(A, A))
    assert A.condition_number == pytest.approx(small.condition_number, rel=1e-12)
    assert relative_distance(A, A * (1 + 1e-6)) == pytest.approx(1e-6, rel=1e-6)
    tiny = sm.Separated([1e-200 * stack, 1e-200 * stack[::-1]])
    assert sm.norm(tiny) == 0 and tiny.condition_number == pytest.approx(small.condition_number, rel=1e-12)
    assert relative_distance(tiny, 2 * tiny) == pytest.approx(1, rel=1e-12)
    assert relative_distance(tiny, A) == math.inf or relative_distance(tiny, A) > 1e250
    nothing = sm.Separated([np.zeros((0, 2, 2))] * 2)
    assert relative_distance(nothing, nothing) == 0 and relative_distance(nothing, small) == math.inf
    assert relative_distance(small, nothing) == 1 and sm.inner(nothing, small) == 0


@pytest.mark.parametrize("dtype, d", [("float32", 100), ("float64", 600)])
def test_many_factors(dtype, d):
    """So many that their norms in [1, 2) would overflow: partial products neither overflow nor underflow."""
    rng = np.random.default_rng(0)
    stack = (rng.standard_normal((1, 2, 2)) / 2).astype(dtype)
    unit = stack / np.linalg.norm(stack)
    A = sm.Separated([unit] * d)
    size = float(frobenius(unit)) ** d
    assert sm.norm(A) == pytest.approx(size, rel=1e-6) and sm.inner(A, A) == pytest.approx(size**2, rel=1e-6)
    B = sm.Separated([np.asarray([[[3.0]]], dtype), np.asarray([[[1 / 3]]], dtype)] * (d // 2))
    assert sm.inner(A, A) > 0 and sm.inner(B, B) == pytest.approx(1, rel=1e-4) and B.condition_number == 1


def test_not_finite_is_seen():
    S = sm.Separated([np.full((2, 2, 2), np.nan), np.ones((2, 2, 2))])
    T = sm.Separated([np.full((2, 2, 2), np.inf), np.ones((2, 2, 2))])
    one = sm.Separated([np.ones((2, 2, 2))] * 2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for A in (S, T):
            for value in (sm.norm(A), sm.distance(A, one), sm.inner(A, one), A.condition_number, A.attainable_error()):
                assert not np.isfinite(value)


# --- merging ------------------------------------------------------------------------------------------------------------------


def test_merged_on_every_backend(xp):
    """Signs, phases and scales in any factor; small differences stay; zeros go; the old order and the largest factors."""
    for dtype in ("float32", "float64", "complex64", "complex128"):
        rng = np.random.default_rng(5)
        single = dtype in ("float32", "complex64")
        V, W, X = (normal(rng, (2, *s), dtype) for s in ((2, 3), (4, 1), (1, 2)))
        turn = np.exp(0.7j) if dtype.startswith("complex") else -1.0
        near = V[:1] * (1 + (1e-3 if single else 1e-10) * normal(rng, (1, 2, 3), dtype))
        factors = [
            np.concatenate((V, turn * V[:1], near, -3 * V[1:], 0 * V[:1])),
            np.concatenate((W, 2 * W[:1], W[:1], W[1:] / 7, W[:1])),
            np.concatenate((X, X[:1] / turn, X[:1], X[1:], X[:1])),
        ]
        scales = np.array([1, 2, 0.5, 1, 1, 4])
        A = sm.Separated([xp.asarray(F.astype(dtype)) for F in factors], xp.asarray(scales.astype(dtype)))
        M = A.merged()
        assert (
            type(M) is sm.Separated
            and M.terms == 3
            and dtype_of(M) == dtype
            and library(M.factors[0]) == library(A.factors[0])
        )
        np.testing.assert_array_equal(host(M.factors[0])[:2], V)
        np.testing.assert_allclose(host(M.scales), [2, 2 - 3 / 7, 1], rtol=1e-5 if single else 1e-13)
        check(frobenius(host(M.to_dense()) - sum_of_terms([F.astype(dtype) for F in factors], scales)),
              2 * (16 * 3 + 9) * weight(factors, scales), 1, dtype, "merged")  # fmt: skip
        assert M.merged() is M and A.merged().equals(M)
        assert (A - A).merged().terms == 0 and (A - A).merged().shape == A.shape


def test_merged_counts():
    """Powers of a Laplacian: multinomials; a square of an orthogonal sum; what cannot be merged is the same object."""
    for d in (2, 3, 6, 30):
        A = laplacian(d, 4)
        square = (A @ A).merged()
        assert square.terms == d * (d + 1) // 2
        assert d > 6 or sm.distance(square, A @ A) <= 1e-13 * sm.norm(square)
    assert (A @ A).terms == 900
    assert A.merged() is A
    equal = sm.Separated([np.ones((5000, 2, 1)), np.ones((5000, 1, 3))])
    assert equal.merged().terms == 1 and equal.merged().scales[0] == 5000
    gone = sm.Separated([np.ones((3, 2, 2)), np.stack([np.ones((2, 2)), np.zeros((2, 2)), np.eye(2)])])
    assert gone.merged().terms == 2 and gone.merged().scales is None
    assert sm.Separated([np.zeros((0, 2, 2))]).merged().terms == 0
    rest = (A - A * (1 - 1e-14)).merged()  # equal factors: what is left of the scales counts
    assert rest.terms == 30 and sm.norm(rest) == pytest.approx(1e-14 * sm.norm(A), rel=0.02)
    one = sm.Separated([np.stack([np.eye(2), 1 - np.eye(2)])])
    assert one.merged() is one  # d = 1: merged where parallel only


def test_merged_needs_numbers():
    with pytest.raises(sm.NonFiniteError, match="merged: A: 1 non-finite") as e:
        sm.Separated([np.ones((2, 2, 2))], [1.0, np.nan]).merged()
    form(e.value)
    torch = namespace("torch")
    with pytest.raises(TypeError, match="merged: A: dtype"):
        sm.Separated([torch.ones((2, 2, 2), dtype=torch.float16)]).merged()
    V = torch.ones((2, 2, 2), dtype=torch.float64).requires_grad_()
    assert not sm.Separated([V, V]).merged().factors[0].requires_grad  # said in the docstring


# --- Kronecker products -----------------------------------------------------------------------------------------------------------


def test_kronecker_products_on_every_backend(xp):
    rng = np.random.default_rng(0)
    a = lambda *shape: xp.asarray(rng.standard_normal(shape))  # noqa: E731
    S, E = sm.Separated([a(2, 2, 3), a(2, 2, 1)], a(2)), sm.Separated([a(3, 1, 2)])
    B, C = a(2, 2), sm.Circulant(a(3))
    like = xp.empty((0,), dtype=xp.float64)
    closed = [
        ((S, B), 2, 3), ((B, S), 2, 3), ((B, B, S, B), 2, 5), ((S, E), 6, 3), ((S, S), 4, 4), ((E, B, E), 9, 3),
        ((S, sm.Identity(2, like)), 2, 3), ((2 * sm.Identity(2, like), S), 2, 3), ((S, sm.Kronecker(B, B)), 2, 4),
        ((S, sm.KroneckerSum(B, B)), 4, 4), ((sm.KroneckerSum(B, B), S), 4, 4), ((S, sm.Dense(B)), 2, 3),
    ]  # fmt: skip
    for factors, terms, count in closed:
        K = sm.kron(*factors)
        assert type(K) is sm.Separated and (K.terms, len(K.shapes)) == (terms, count)
        assert library(K.factors[0]) == library(B)
        check_kron(K, factors)
    for factors in ((S, C), (C, S), (B, C), (B, sm.KroneckerSum(B, B)), (B, B), (C, S, B, C)):
        K = sm.kron(*factors)
        assert type(K) is sm.Kronecker
        check_kron(K, factors)
    assert len(sm.kron(C, S, B, C).factors) == 3  # S took B in, the circulants stay what they are


def check_kron(K, factors):
    parts = [host(F.to_dense() if isinstance(F, sm.StructuredMatrix) else F) for F in factors]
    expected = functools.reduce(np.kron, parts)
    np.testing.assert_allclose(host(K.to_dense()), expected, rtol=0, atol=1e-13 * np.linalg.norm(expected))


def test_conversion_of_nested_products():
    """A Kronecker product of sums of terms becomes one sum of terms, with all the factors."""
    rng = np.random.default_rng(1)
    S, B = (
        sm.Separated([rng.standard_normal((2, 2, 3)), rng.standard_normal((2, 1, 2))], [1.0, 2.0]),
        rng.standard_normal((2, 2)),
    )
    for factors, terms, shapes in (
        ((S, B), 2, ((2, 3), (1, 2), (2, 2))),
        ((B, S, S), 4, ((2, 2), (2, 3), (1, 2), (2, 3), (1, 2))),
        ((sm.Circulant([1.0, 2.0]), S), 2, ((2, 2), (2, 3), (1, 2))),
        ((sm.Kronecker(B, B), sm.KroneckerSum(B, B)), 2, ((2, 2),) * 4),
    ):
        K = sm.Kronecker(*factors)
        assert type(K) is sm.Kronecker
        M = sm.convert(K, sm.Separated)
        assert type(M) is sm.Separated and M.terms == terms and M.shapes == shapes
        check_kron(M, factors)
        check_kron(sm.convert(2 * K, sm.Separated), [2 * sm.Dense(K.to_dense())])


def test_terms_of_a_kronecker_product_are_limited():
    S = sm.Separated([np.ones((2**11, 1, 1))])
    with pytest.raises(sm.SizeLimitError, match=r"4194304.*merged") as e:
        sm.kron(S, S)
    form(e.value)
    with pytest.raises(sm.SizeLimitError, match="4194304"):
        sm.hadamard(S, S)


# --- other classes, other libraries -------------------------------------------------------------------------------------------------


def test_functions_on_every_backend(xp):
    """The same numbers from every library, in its arrays; identities take the factor shapes of the other matrix."""
    rng = np.random.default_rng(2)
    a = lambda *shape: normal(rng, shape, "complex128")  # noqa: E731
    shapes = [(2, 2), (3, 3), (2, 2)]
    S, T = [a(3, *s) for s in shapes], [a(2, *s) for s in shapes]
    K, L = [a(*s) for s in shapes], [a(*s) for s in shapes]
    up = lambda arrays: [xp.asarray(x) for x in arrays]  # noqa: E731
    matrices = {
        "S": sm.Separated(up(S), xp.asarray(np.array([1, 2j, 3]))), "T": sm.Separated(up(T)), "K": sm.Kronecker(*up(K)),
        "L": sm.KroneckerSum(*up(L)), "2I": (2 - 1j) * sm.Identity(12, xp.asarray(np.zeros(1, complex))),
    }  # fmt: skip
    D = {name: wide(host(A.to_dense())) for name, A in matrices.items()}
    for (m, A), (n, B) in itertools.product(matrices.items(), repeat=2):
        size = frobenius(D[m]) * frobenius(D[n])
        found = sm.inner(A, B)
        assert library(found) == library(xp.asarray(0.0)) and found.shape == () and dtype_of(found) == "complex128"
        check(abs(host(found) - np.vdot(D[m], D[n])), size, 1000, "complex128", "inner")
        H = sm.hadamard(A, B)
        assert type(H) is (sm.Kronecker if m == n == "K" else sm.Separated)
        check(frobenius(host(H.to_dense()) - D[m] * D[n]), size, 1000, "complex128", "hadamard")
        check(
            abs(host(sm.distance(A, B)) - frobenius(D[m] - D[n])),
            frobenius(D[m]) + frobenius(D[n]),
            1000,
            "float64",
            "distance",
        )
    for name in ("S", "K", "L"):
        part = sm.partial_trace(matrices[name], -2)
        assert type(part) is (sm.Kronecker if name == "K" else sm.Separated)
        expected = np.trace(D[name].reshape(2, 3, 2, 2, 3, 2), axis1=1, axis2=4).reshape(4, 4)
        check(frobenius(host(part.to_dense()) - expected), frobenius(D[name]), 1000, "complex128", "partial trace")
        whole = sm.partial_trace(matrices[name], (2, 0, 1))
        assert whole.shape == ()
        check(abs(host(whole) - np.trace(D[name])), frobenius(D[name]), 1000, "complex128", "partial trace")
        assert sm.partial_trace(matrices[name], []).shape == (12, 12)


def test_two_identities_and_mixed_dtypes():
    assert sm.inner(sm.Identity(5), 3 * sm.Identity(5)) == 15
    assert sm.distance(sm.Identity(4), 3 * sm.Identity(4)) == pytest.approx(4)
    A = sm.Separated([np.ones((2, 2, 2), "float32")] * 2)
    B = sm.Separated([np.ones((1, 2, 2), "complex128")] * 2)
    assert sm.inner(A, B).dtype == np.complex128 and sm.distance(A, B).dtype == np.float64
    assert sm.inner(A, A).dtype == np.float32 and sm.hadamard(A, B).dtype == np.complex128
    assert sm.partial_trace(A, 0).dtype == np.float32
    K = sm.Kronecker(sm.Circulant([1.0, 2.0]), np.ones((3, 3)), np.ones((2, 3)))
    part = sm.partial_trace(K, 1)
    assert type(part) is sm.Kronecker and type(part.factors[0]) is sm.Circulant  # the structure of the factors stays
    np.testing.assert_allclose(part.to_dense(), 3 * np.kron([[1.0, 2.0], [2.0, 1.0]], np.ones((2, 3))))


# --- gradients ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float64", "complex128"])
def test_gradients(dtype):
    torch = namespace("torch")
    rng = np.random.default_rng(0)
    shapes = [(2, 2), (1, 2), (1, 1)]
    leaf = lambda *shape: torch.asarray(normal(rng, shape, dtype)).requires_grad_()  # noqa: E731
    arrays = [leaf(2), *(leaf(2, *s) for s in shapes), leaf(1), *(leaf(1, *s) for s in shapes)]

    def both(s, F, G, H, t, X, Y, Z):
        return sm.Separated([F, G, H], s), sm.Separated([X, Y, Z], t)

    functions = {
        "inner": lambda A, B: sm.inner(A, B),
        "hadamard": lambda A, B: sm.hadamard(A, B).to_dense(),
        "partial trace": lambda A, B: sm.partial_trace(A, [0, 2]).to_dense(),
        "kron": lambda A, B: sm.kron(A, B.factors[1][0]).to_dense(),
        "distance": sm.distance,
        "norm": lambda A, B: sm.norm(A),
    }
    for name, f in functions.items():
        assert torch.autograd.gradcheck(lambda *x: f(*both(*x)), arrays), name  # noqa: B023
    assert torch.autograd.gradgradcheck(
        lambda *x: sm.distance(*both(*x)), arrays[:1] + [a.detach() for a in arrays[1:]]
    )


def test_gradients_of_dependent_and_of_equal_terms():
    """A QR factorization of dependent columns has no derivative; the norm has one, and 0 at A = 0."""
    torch = namespace("torch")
    F, G = (torch.eye(2, dtype=torch.float64).repeat(3, 1, 1).requires_grad_() for _ in range(2))
    assert torch.autograd.gradcheck(lambda F, G: sm.norm(sm.Separated([F, G])), (F, G))
    A = sm.Separated([F, G])
    sm.distance(A, A).backward()
    assert torch.all(torch.isfinite(F.grad))


# --- the tolerance that can be reached ------------------------------------------------------------------------------------------------


def test_warning_below_the_attainable_error():
    a, b = np.array([[1.0], [0.0]]), np.array([[0.0], [1.0]])
    S = sm.Separated([np.stack([a + 1e-4 * b, a])] * 3, [1e4, -1e4])
    with pytest.warns(
        sm.PrecisionWarning, match=r"^compress: tol: 1\.0e-13 < 9\.\de-13 = u κ.*8\.2e\+03.*stay near 9e-13"
    ):
        assert check_attainable(1e-13, S, "compress") == 1e-13
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert check_attainable(1e-12, S, "compress") == 1e-12
    with pytest.warns(sm.PrecisionWarning, match="float32"):
        check_attainable(1e-5, S.astype("float32"), "compress")
    for bad, kind in ((0.0, ValueError), (2, ValueError), ("1e-3", TypeError), (True, TypeError)):
        with pytest.raises(kind, match="compress: tol"):
            check_attainable(bad, S, "compress")


# --- bad input ------------------------------------------------------------------------------------------------------------------------


def two(a, *shapes):
    return sm.Separated([a(np.ones((2, *s))) for s in shapes])


BAD = [
    (lambda a: sm.inner(two(a, (2, 3)), two(a, (3, 2))), sm.ShapeError, "B", "3×2; expected 2×3 as A", "sizes"),
    (lambda a: sm.hadamard(two(a, (2, 2), (3, 3)), two(a, (3, 3), (2, 2))), sm.ShapeError, "B",
     "3×3 ⊗ 2×2; expected the factor shapes of A, 2×2 ⊗ 3×3", "same shapes"),
    (lambda a: sm.distance(two(a, (6, 6)), sm.Kronecker(a(np.ones((2, 2))), a(np.ones((3, 3))))), sm.ShapeError, "B",
     "2×2 ⊗ 3×3; expected the factor shapes of A, 6×6", "same shapes"),
    (lambda a: sm.inner(two(a, (2, 3), (3, 2)), sm.Identity(6, a(np.ones(1)))), sm.ShapeError, "B", "Identity.*2×3 ⊗ 3×2", "."),
    (lambda a: sm.inner(sm.Identity(6, a(np.ones(1))), two(a, (2, 3), (3, 2))), sm.ShapeError, "B", "2×3 ⊗ 3×2.*square", "."),
    (lambda a: sm.inner(a(np.ones((2, 2))), two(a, (2, 2))), TypeError, "A", "a (ndarray|Array|Tensor)", r"A\[None\]"),
    (lambda a: sm.hadamard(two(a, (2, 2)), a(np.ones((2, 2)))), TypeError, "B", "a (ndarray|Array|Tensor)", r"A\[None\]"),
    (lambda a: sm.distance(None, two(a, (2, 2))), TypeError, "A", "NoneType", "."),
    (lambda a: sm.inner(two(a, (2, 2)), sm.Circulant(a([1.0, 2.0]))), sm.UnsupportedError, "B", r"Circulant", "nearest_separated"),
    (lambda a: sm.distance(sm.Dense(a(np.ones((2, 2)))), two(a, (2, 2))), sm.UnsupportedError, "A", "Dense", r"\[None\]"),
    (lambda a: sm.partial_trace(a(np.ones((2, 2))), 0), TypeError, "A", "a (ndarray|Array|Tensor)", r"A\[None\]"),
    (lambda a: sm.partial_trace(sm.Identity(4, a(np.ones(1))), 0), sm.UnsupportedError, "A", "Identity", "."),
    (lambda a: sm.partial_trace(two(a, (2, 2), (3, 3)), 2), IndexError, "factors", "2; expected integers from -2 to 1", "."),
    (lambda a: sm.partial_trace(two(a, (2, 2), (3, 3)), [0, -3]), IndexError, "factors", "-3", "."),
    (lambda a: sm.partial_trace(two(a, (2, 2), (3, 3)), [0, -2]), ValueError, "factors", "factor 0 twice", "."),
    (lambda a: sm.partial_trace(two(a, (2, 2), (3, 3)), 1.0), TypeError, "factors", "1.0", "."),
    (lambda a: sm.partial_trace(two(a, (2, 2), (3, 3)), True), TypeError, "factors", "True", "."),
    (lambda a: sm.partial_trace(two(a, (2, 2), (3, 3)), "0"), TypeError, "factors", "'0'", "."),
    (lambda a: sm.partial_trace(two(a, (2, 2), (2, 3)), 1), sm.ShapeError, "factors", "factor 1 is 2×3", "square"),
    (lambda a: sm.partial_trace(sm.Kronecker(a(np.ones((2, 3))), a(np.ones((2, 2)))), 0), sm.ShapeError, "factors",
     "factor 0 is 2×3", "square"),
    (lambda a: two(a, (2, 2)).attainable_error("int8"), TypeError, "dtype", "int8", "float32"),
    (lambda a: sm.inner(sm.Identity(10**9, a(np.ones(1))), sm.Identity(10**9, a(np.ones(1)))), MemoryError, "size", "EB", "trace"),
]  # fmt: skip


@pytest.mark.parametrize("backend", ["numpy", "torch"])
@pytest.mark.parametrize("call, kind, argument, got, advice", BAD)
def test_bad_input(call, kind, argument, got, advice, backend):
    with pytest.raises(kind) as caught:
        call(Backend(backend))
    read(caught.value, Refusal(kind, argument, got, advice))


def test_libraries_do_not_mix():
    torch = namespace("torch")
    A, B = sm.Separated([np.ones((1, 2, 2))]), sm.Separated([torch.ones((1, 2, 2))])
    for f in (sm.inner, sm.hadamard, sm.distance):
        with pytest.raises(TypeError, match="mixed libraries"):
            f(A, B)


def test_a_term_however_small_stays_a_term(xp):
    """Beside one 10^632 times larger, too, and split in two: only zeros go."""
    factors = [xp.ones((2, 1, 1), dtype=xp.float64), xp.asarray([[[1.0, 2.0]], [[3.0, -1.0]]], dtype=xp.float64)]
    for small in (-5e-324, 1e-310, -1.0):
        for large in (1e15, 1e307):
            A = sm.Separated(factors, xp.asarray([small, large], dtype=xp.float64))
            assert A.merged().terms == 2 and (A + A).merged().terms == 2 and (A - A).merged().terms == 0
    assert sm.Separated(factors, xp.asarray([0.0, 1.0], dtype=xp.float64)).merged().terms == 1
