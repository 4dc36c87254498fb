"""The identities of the subject as property tests, with seeded numbers and with drawn entries (draws.py).

Limits are ten times the largest constant seen over many random trials, in units of eps = 2u, against a scale; where real
numbers are only moved, equality is bitwise.
"""

import itertools
import math

import numpy as np
import reference as ref
from cases import normal
from conftest import equal
from draws import identity
from hypothesis import given
from hypothesis import strategies as st

import sepmat as sm

F = ref.frobenius
w = ref.wide


def kron(*arrays):
    return ref.kronecker(*map(w, arrays))


# --- Kronecker products --------------------------------------------------------------------------------------------------------


@identity()
def test_01_mixed_product(d):
    """(A⊗B)(C⊗D) = AC⊗BD"""
    A, B = d.matrix(), d.matrix()
    C, D = d.array(A.shape[1], d.size()), d.array(B.shape[1], d.size())
    P = sm.Kronecker(A, B) @ sm.Kronecker(C, D)
    assert type(P) is sm.Kronecker
    scale = (A.shape[1] + B.shape[1]) * F(A) * F(B) * F(C) * F(D)
    d.close(P.to_dense(), kron(w(A) @ w(C), w(B) @ w(D)), scale, "id 1")


@identity()
def test_02_03_vec(d):
    """(A⊗B) vr(X) = vr(A X Bᵀ), (A⊗B) vc(X) = vc(B X Aᵀ)"""
    A, B = d.matrix(), d.matrix()
    X = d.array(A.shape[1], B.shape[1])
    scale = (A.shape[1] + B.shape[1]) * F(A) * F(B) * F(X)
    K = sm.Kronecker(A, B)
    d.close(K @ X.reshape(-1), (w(A) @ w(X) @ w(B).T).reshape(-1), scale, "id 2")
    d.close(K @ X.T.reshape(-1, order="F"), (w(B) @ w(X).T @ w(A).T).reshape(-1, order="F"), scale, "id 3")


@identity()
def test_04_vec_of_a_product(d):
    """vr(A X B) = (A⊗Bᵀ) vr(X)"""
    A, B = d.matrix(), d.matrix()
    X = d.array(A.shape[1], B.shape[0])
    scale = (A.shape[1] + B.shape[0]) * F(A) * F(B) * F(X)
    d.close(sm.Kronecker(A, B.T) @ X.reshape(-1), (w(A) @ w(X) @ w(B)).reshape(-1), scale, "id 4")


@identity()
def test_05_adjoint_and_conjugate(d):
    A, B = d.matrix(), d.matrix()
    K = sm.Kronecker(A, B)
    equal(K.H.to_dense(), sm.Kronecker(A.conj().T, B.conj().T).to_dense(), "id 5")
    equal(K.conj().to_dense(), sm.Kronecker(A.conj(), B.conj()).to_dense(), "id 5")
    equal(K.T.to_dense(), K.to_dense().T, "id 5")


@identity()
def test_06_inverse(d):
    A, B = d.regular(), d.regular()
    N = len(A) * len(B)
    X = np.kron(np.linalg.inv(A.astype(complex)), np.linalg.inv(B.astype(complex)))
    scale = N * np.linalg.cond(A) * np.linalg.cond(B) * F(X)
    d.close(sm.inverse(sm.Kronecker(A, B)).to_dense(), X, scale, "id 6")


@identity()
def test_08_trace(d):
    A, B, C = d.square(), d.square(), d.square()
    N = len(A) * len(B) * len(C)
    t = np.trace(w(A)) * np.trace(w(B)) * np.trace(w(C))
    d.close(sm.trace(sm.Kronecker(A, B, C)), t, N * F(A) * F(B) * F(C), "id 8")


@identity()
def test_09_slogdet(d):
    A, B = d.regular(), d.regular()
    (p, q), (s, l), (t, m) = (len(A), len(B)), ref.slogdet(A), ref.slogdet(B)
    sign, logabs = sm.slogdet(sm.Kronecker(A, B))
    scale = (p * q) ** 2 * np.linalg.cond(A) * np.linalg.cond(B)
    d.close(logabs, q * l + p * m, scale, "id 9 log")
    d.close(sign, s**q * t**p, scale, "id 9 sign")


@identity()
def test_10_singular_values(d):
    A, B = d.matrix(1), d.matrix(1)
    found = sm.svdvals(sm.Kronecker(A, B))
    s, t = (np.linalg.svd(M.astype(complex), compute_uv=False) for M in (A, B))
    k = min(A.shape[0] * B.shape[0], A.shape[1] * B.shape[1])
    expected = np.zeros(k)
    products = np.sort(np.outer(s, t).reshape(-1))[::-1]
    expected[: len(products)] = products
    scale = max(A.shape[0] * B.shape[0], A.shape[1] * B.shape[1]) * s[0] * t[0]
    d.close(found, expected, scale, "id 10")


@identity()
def test_11_hermitian_eigenvalues(d):
    A, B = (M + M.conj().T for M in (d.square(1, 4), d.square(1, 4)))
    lam, mu = (np.linalg.eigvalsh(M.astype(complex)) for M in (A, B))
    two = np.abs(lam).max() * np.abs(mu).max()
    N = len(A) * len(B)
    found = np.sort(np.real(sm.eigvals(sm.Kronecker(A, B))))
    d.close(found, np.sort(np.outer(lam, mu).reshape(-1)), N * two, "id 11 product")
    found = np.sort(np.real(sm.eigvals(sm.KroneckerSum(A, B))))
    total = np.sort(np.add.outer(lam, mu).reshape(-1))
    d.close(found, total, N * (np.abs(lam).max() + np.abs(mu).max()), "id 11 sum")


@identity()
def test_13_norms(d):
    A, B = d.matrix(1), d.matrix(1)
    K = sm.Kronecker(A, B)
    D = kron(A, B).astype(complex)
    for p in ("fro", 1, np.inf, 2, "nuc"):
        expected = F(D) if p == "fro" else np.linalg.norm(D, p)  # NumPy's squares underflow
        d.close(sm.norm(K, p), expected, max(D.shape) * expected + d.floor, f"id 13 {p}")


@identity()
def test_15_associativity(d):
    A, B, C = d.matrix(high=3), d.matrix(high=3), d.matrix(high=3)
    left = sm.Kronecker(sm.Kronecker(A, B), sm.Dense(C)).to_dense()
    right = sm.Kronecker(sm.Dense(A), sm.Kronecker(B, C)).to_dense()
    D = kron(A, B, C)
    for found in (left, right, sm.kron(sm.kron(A, B), C).to_dense()):
        d.close(found, D, np.abs(D), "id 15")


@identity()
def test_16_bilinearity(d):
    """A⊗(B+C) = A⊗B + A⊗C, a Separated of two terms"""
    A, B = d.matrix(), d.matrix()
    C = d.array(*B.shape)
    S = sm.Kronecker(A, B) + sm.Kronecker(A, C)
    assert type(S) is sm.Separated and S.terms == 2
    d.close(S.to_dense(), kron(A, w(B) + w(C)), F(A) * (F(B) + F(C)), "id 16")


@identity("float32", "float64")
def test_17_perfect_shuffle(d):
    """P (A⊗B) Qᵀ = B⊗A, bit for bit"""
    A, B = d.matrix(), d.matrix()
    P = ref.permutation_shuffle(A.shape[0], B.shape[0])
    Q = ref.permutation_shuffle(A.shape[1], B.shape[1])
    rows, cols = P.argmax(1) if P.size else [], Q.argmax(1) if Q.size else []
    K, swapped = sm.Kronecker(A, B), sm.Kronecker(B, A)
    equal(K.block(list(map(int, rows)), list(map(int, cols))), swapped.to_dense(), "id 17")
    np.testing.assert_array_equal(P.T, ref.permutation_shuffle(B.shape[0], A.shape[0]))


@identity()
def test_18_properties_that_are_inherited(d):
    """Orthogonal, triangular and permutation factors give orthogonal, triangular and permutation products."""
    A, B = d.regular(), d.regular()
    Q, S = np.linalg.qr(A)[0], np.linalg.qr(B)[0]
    K = sm.Kronecker(Q, S)
    N = K.shape[0]
    d.close((K.H @ K).to_dense(), np.eye(N), N * math.sqrt(N), "id 18 unitary")
    T = sm.Kronecker(np.triu(A), np.triu(B)).to_dense()
    np.testing.assert_array_equal(np.tril(T, -1), 0)
    P = sm.Kronecker(np.eye(len(A))[::-1], np.eye(len(B))[::-1]).to_dense()
    np.testing.assert_array_equal(P, np.eye(N)[::-1])


@identity()
def test_19_diagonal(d):
    A, B = d.square(), d.square()
    if d.mode == "seeded":  # subnormal entries may lose a bit on the way
        equal(sm.diagonal(sm.Kronecker(A, B)), np.diagonal(sm.Kronecker(A, B).to_dense()), "id 19")
    D = kron(np.diagonal(A)[:, None], np.diagonal(B)[:, None])[:, 0]
    d.close(sm.diagonal(sm.Kronecker(A, B)), D, np.abs(D), "id 19 diagonal")


@identity()
def test_20_hadamard(d):
    A, B = d.matrix(), d.matrix()
    C, D = d.array(*A.shape), d.array(*B.shape)
    left = sm.Kronecker(A, B).to_dense() * sm.Kronecker(C, D).to_dense()
    exact = kron(w(A) * w(C), w(B) * w(D))
    d.close(left, exact, np.abs(exact) + (d.floor if d.mode == "entries" else 0), "id 20")


# --- rearrangement ---------------------------------------------------------------------------------------------------------------


@identity()
def test_21_22_23_rearrangement(d):
    shapes = tuple((d.size(0, 3), d.size(0, 3)) for _ in range(d.size(1, 3)))
    m, n = (math.prod(s[i] for s in shapes) for i in range(2))
    A = d.array(m, n)
    RA = sm.rearrange(A, shapes)
    assert RA.shape == tuple(p * q for p, q in shapes)
    equal(sm.rearrange_back(RA, shapes), A, "id 21")
    equal(sm.rearrange(sm.rearrange_back(RA, shapes), shapes), RA, "id 21")
    equal(np.sort_complex(RA.reshape(-1)), np.sort_complex(A.reshape(-1)), "id 23")
    factors = [d.array(*s) for s in shapes]
    K = sm.Kronecker(*factors).to_dense()
    outer = w(factors[0]).reshape(-1)
    for V in factors[1:]:
        outer = np.multiply.outer(outer, w(V).reshape(-1))
    d.close(sm.rearrange(K, shapes), outer, math.prod(map(F, factors)) * len(shapes), "id 22")


@identity()
def test_27_separation_rank_of_a_rank_one_matrix(d):
    """seprank(u vᵀ) = rank(mat u) rank(mat v); seprank(I) = 1"""
    (m1, n1), (m2, n2) = ((d.size(1, 3), d.size(1, 3)) for _ in range(2))
    u, v = normal(np.random.default_rng(m1), (m1 * m2,)), normal(np.random.default_rng(n2 + 9), (n1 * n2,))
    R = sm.rearrange(np.outer(u, v), ((m1, n1), (m2, n2)))
    equal(np.linalg.matrix_rank(R), min(m1, m2) * min(n1, n2), "id 27")
    N = (m1, m1), (m2, m2)
    equal(np.linalg.matrix_rank(sm.rearrange(np.eye(m1 * m2), N)), 1, "id 27")


# --- separated representations ----------------------------------------------------------------------------------------------------


def separated(d, shapes=None, terms=None, scales=True):
    shapes = shapes or [(d.size(1, 3), d.size(1, 3)) for _ in range(d.size(1, 3))]
    terms = d.size(0, 4) if terms is None else terms
    factors = [d.array(terms, *s) for s in shapes]
    s = d.array(terms) if scales and d.data.draw(st.booleans()) else None
    weight = sum(
        (1 if s is None else abs(w(s[l]))) * math.prod(F(V[l]) for V in factors) for l in range(terms)
    )  # fmt: skip
    return sm.Separated(factors, s), ref.separated(*map(w, factors), scales=None if s is None else w(s)), float(weight)


@identity()
def test_26_30_algebra_of_representations(d):
    """Sums add the terms, products multiply their numbers; values by the bound on Σ|s_l|."""
    shapes = [(d.size(1, 3), d.size(1, 3)) for _ in range(d.size(1, 3))]
    A, DA, NA = separated(d, shapes)
    B, DB, NB = separated(d, shapes)
    C, DC, NC = separated(d, [(n, d.size(1, 3)) for _, n in shapes])
    for M, D in ((A + B, DA + DB), (A - B, DA - DB)):
        assert type(M) is sm.Separated and M.terms == A.terms + B.terms
        d.close(M.to_dense(), D, (len(shapes) + M.terms) * (NA + NB), "id 30 sum")
    P = A @ C
    assert type(P) is sm.Separated and P.terms == A.terms * C.terms
    scale = (sum(n for _, n in shapes) + len(shapes) + P.terms) * NA * NC
    d.close(P.to_dense(), DA @ DC, scale, "id 30 product")
    equal([A.T.terms, (3 * A).terms, (A + B).terms], [A.terms, A.terms, A.terms + B.terms], "id 26")
    if A.terms and len(shapes) == 2 and d.mode == "seeded":
        assert np.linalg.matrix_rank(sm.rearrange(A.to_dense(), shapes).astype(complex), rtol=1e-4) <= A.terms


@identity()
def test_28_29_condition_number(d):
    """κ >= 1/√r, and it does not see scalings, permutations of the terms, sign moves and transposition."""
    terms = d.size(1, 4)
    shapes = [(2, 2), (1, 3), (2, 1)]
    rng = np.random.default_rng(d.size(0, 5) + 10 * terms)
    factors, scales = [normal(rng, (terms, *s), d.dtype) for s in shapes], normal(rng, (terms,), d.dtype)
    S = sm.Separated(factors, scales)
    kappa = S.condition_number
    slack = 1 + (1e-3 if d.single else 1e-10) * kappa
    assert kappa >= (1 - 1e-5) / math.sqrt(terms)
    order = rng.permutation(terms)
    for other in (
        sm.Separated([V[order] for V in factors], scales[order]), S.T, 2 * S, -S, S.normalized(), S.conj(),
        sm.Separated([-factors[0], *factors[1:]], -scales),
        sm.Separated([2 * factors[0], factors[1] / 4, *factors[2:]], scales),
    ):  # fmt: skip
        equal(kappa / slack <= other.condition_number <= kappa * slack, True, "id 28")
    t = 0.25  # splitting a term: the matrix stays, κ falls at most by √2
    split = sm.Separated(
        [np.concatenate((V, V[:1])) for V in factors],
        np.concatenate(([t * scales[0]], scales[1:], [(1 - t) * scales[0]])),
    )
    np.testing.assert_allclose(split.to_dense(), S.to_dense(), rtol=0, atol=1e-4 if d.single else 1e-12)
    assert split.condition_number >= kappa / math.sqrt(2) / slack
    r = 4  # one term split into equal parts: equality in κ >= 1/√r
    parts = sm.Separated([np.repeat(V[:1], r, axis=0) for V in factors], np.full(r, 0.25, d.dtype))
    np.testing.assert_allclose(parts.condition_number, 0.5, rtol=1e-5)


@identity()
def test_31_inner_product(d):
    """⟨A, B⟩ = tr(Aᴴ B) = Σ s̄_l t_m Π ⟨V_i^l, W_i^m⟩"""
    shapes = [(2, 3), (2, 1)]
    A, DA, NA = separated(d, shapes)
    B, DB, NB = separated(d, shapes)
    scale = (12 + A.terms * B.terms + 2 + 5) * NA * NB
    d.close(sm.trace(A.H @ B), np.vdot(DA, DB), scale, "id 31")


@identity()
def test_32_33_products_and_evaluation(d):
    A, D, N = separated(d)
    K = sum(s[1] for s in A.shapes) + A.terms + len(A.shapes)
    x, X = d.array(A.shape[1]), d.array(A.shape[1], 3)
    d.close(A @ x, D @ w(x), K * N * F(x), "id 32")
    d.close(A @ X, D @ w(X), K * N * F(X), "id 32")
    np.testing.assert_allclose(
        A @ X, np.stack([A @ X[:, i] for i in range(3)], 1), rtol=0, atol=float(K * N * F(X) * 1e-5 + 1e-30)
    )
    d.close(A.to_dense(), D, (len(A.shapes) + A.terms) * N, "id 33")


@identity()
def test_terms_and_factors_in_any_order(d):
    """Permuting the terms changes nothing; permuting two factors is the perfect shuffle."""
    S, D, N = separated(d, [(2, 3), (3, 1)])
    order = list(range(S.terms))[::-1]
    P = sm.Separated([V[order] for V in S.factors], None if S.scales is None else S.scales[order])
    d.close(P.to_dense(), D, (S.terms + 2) * N, 0.5, "order of the terms")
    swapped = sm.Separated(S.factors[::-1], S.scales)
    rows, cols = (ref.permutation_shuffle(*pair).argmax(1) for pair in ((2, 3), (3, 1)))
    d.close(swapped.to_dense(), D[np.ix_(rows, cols)], (S.terms + 2) * N, 0.5, "order of the factors")


@identity("float32", "float64")
def test_powers_of_two_are_neutral(d):
    """Scaling one factor by 2^k and another by 2^-k: bitwise equal."""
    A, B = (normal(np.random.default_rng(d.size(0, 5) + i), (3, 3), d.dtype) for i in (0, 7))
    k = d.data.draw(st.integers(-40, 40))
    x = normal(np.random.default_rng(k + 50), (9, 2), d.dtype)
    up, down = np.asarray(2.0**k, d.dtype), np.asarray(2.0**-k, d.dtype)
    for plain, scaled in (
        (sm.Kronecker(A, B), sm.Kronecker(A * up, B * down)),
        (sm.Separated([A[None], B[None]]), sm.Separated([A[None] * up, B[None] * down])),
    ):
        np.testing.assert_array_equal(scaled @ x, plain @ x)
        np.testing.assert_array_equal(scaled.to_dense(), plain.to_dense())
        np.testing.assert_array_equal(scaled.apply(x.T), plain.apply(x.T))
        np.testing.assert_array_equal(scaled[4, 5], plain[4, 5])
        np.testing.assert_array_equal(sm.trace(scaled), sm.trace(plain))


# --- every class ---------------------------------------------------------------------------------------------------------------------


@identity()
def test_linearity_and_impulses(d):
    """A(αx + βy) = α A x + β A y; A e_j is column j: of a sum of a Kronecker product and a circulant."""
    c, K1, K2 = d.array(6), d.array(2, 2), d.array(3, 3)
    x, y = d.array(6), d.array(6)
    A = sm.Circulant(c) + sm.Kronecker(K1, K2)
    D = ref.circulant(w(c)) + kron(K1, K2)
    size = F(ref.circulant(w(c))) + F(K1) * F(K2)
    d.close(A @ (2 * x - 3 * y), 2 * (D @ w(x)) - 3 * (D @ w(y)), 6 * size * (2 * F(x) + 3 * F(y)), 1.0, "linearity")
    for j in range(6):
        d.close(A @ np.eye(6, dtype=d.dtype)[:, j], D[:, j], 6 * size, 1.0, "impulses")


@identity()
def test_circulants_commute(d):
    n = d.size(1, 9)
    for cls, make in ((sm.Circulant, ref.circulant), (sm.SkewCirculant, ref.skew_circulant)):
        a, b = d.array(n), d.array(n)
        A, B = cls(a), cls(b)
        exact = make(w(a)) @ make(w(b))
        scale = ref.fft_constant(n) * F(make(w(a))) * F(make(w(b)))
        assert type(A @ B) is cls
        d.close((A @ B).to_dense(), exact, scale, 0.1, "circulants commute")
        d.close((B @ A).to_dense(), exact, scale, 0.1, "circulants commute")


@identity()
def test_shifts(d):
    """A cyclic shift of x shifts y = C x; Z_fⁿ = f I; Z_f(v) = Σ v_i Z_fⁱ."""
    n = d.size(1, 8)
    c, x = d.array(n), d.array(n)
    C = sm.Circulant(c)
    scale = ref.fft_constant(n) * F(ref.circulant(w(c))) * F(x)
    d.close(C @ np.roll(x, 1), np.roll((ref.circulant(w(c)) @ w(x)), 1), scale, 0.1, "shift")
    for f in (1, -1, 2.5):
        Z = np.asarray(sm.shift(n, f))
        np.testing.assert_array_equal(Z, ref.shift(n, f))
        np.testing.assert_array_equal(np.linalg.matrix_power(Z, n), f * np.eye(n))
    for f, cls in ((1, sm.Circulant), (-1, sm.SkewCirculant)):
        Z = np.asarray(sm.shift(n, f))
        series = sum((w(c[i]) * np.linalg.matrix_power(Z, i) for i in range(n)), np.zeros((n, n)))
        np.testing.assert_array_equal(cls(c).to_dense(), series.astype(d.dtype))


@identity("complex64", "complex128")
def test_skew_circulants_are_twisted_circulants(d):
    """Z_{-1}(h) = D Z_1(D⁻¹ h) D⁻¹ with D = diag(ωʲ), ω = e^{iπ/n}"""
    n = d.size(1, 8)
    h = d.array(n)
    power = np.exp(1j * np.pi / n * np.arange(n)).astype(d.dtype)
    D, Dinv = sm.Diagonal(power), sm.Diagonal(power.conj())
    twisted = D @ sm.Circulant(power.conj() * h) @ Dinv
    d.close(
        twisted.to_dense(), ref.skew_circulant(w(h)), ref.fft_constant(n) * F(ref.skew_circulant(w(h))), 0.2, "twist"
    )


@identity()
def test_toeplitz_splits(d):
    """Every square Toeplitz matrix is (circulant + skew-circulant)/2, and Hankel = Toeplitz · flip."""
    n = d.size(1, 7)
    t = d.array(2 * n - 1)  # t[n - 1 + k] = t_k
    c, r = t[n - 1 :], t[n - 1 :: -1]
    T = ref.toeplitz(w(c), w(r))
    wrapped = np.concatenate((np.zeros(1, d.dtype), t[: n - 1]))  # t_{i-n}
    half = np.asarray(0.5, d.dtype)
    split = (sm.Circulant(c + wrapped) + sm.SkewCirculant(c - wrapped)) * half
    assert type(split) is sm.Toeplitz
    d.close(split.to_dense(), T, n * F(t), 2.0, "Toeplitz splits")
    np.testing.assert_array_equal(sm.Toeplitz(c, r).to_dense(), T.astype(d.dtype))
    H = sm.Hankel(t[:n], t[n - 1 :])
    np.testing.assert_array_equal(H.to_dense(), sm.Toeplitz(c, r).to_dense()[:, ::-1])
    x = d.array(n)
    d.close(H @ x, T @ w(x)[::-1], ref.fft_constant(4 * n) * F(t) * F(x) * math.sqrt(n), 0.2, "Hankel")


@identity()
def test_kronecker_sum(d):
    """(A⊕B) vr(X) = vr(A X + X Bᵀ); A⊗I and I⊗B commute; A⊕B = A⊗I + I⊗B."""
    A, B = d.square(1, 4), d.square(1, 4)
    m, n = len(A), len(B)
    X = d.array(m, n)
    S = sm.KroneckerSum(A, B)
    scale = (max(m, n) + 2) * (F(A) + F(B)) * F(X)
    d.close(S @ X.reshape(-1), (w(A) @ w(X) + w(X) @ w(B).T).reshape(-1), scale, 1.0, "Kronecker sum")
    eye_m, eye_n = np.eye(m, dtype=d.dtype), np.eye(n, dtype=d.dtype)
    parts = sm.Kronecker(A, eye_n) + sm.Kronecker(eye_m, B)
    d.close(parts.to_dense(), S.to_dense(), F(A) * n + F(B) * m, 1.0, "Kronecker sum")
    left, right = sm.Kronecker(A, eye_n) @ sm.Kronecker(eye_m, B), sm.Kronecker(eye_m, B) @ sm.Kronecker(A, eye_n)
    d.close(left.to_dense(), right.to_dense(), (m + n) * F(A) * F(B), "id 12 commute")


# --- displacement -------------------------------------------------------------------------------------------------------------------


@given(st.data())
def test_displacement_rank_of_toeplitz_is_two_exactly(data):
    """In integers: Z_1 T - T Z_{-1} is zero but for row 0 and the last column, with the entries of the closed form."""
    n = data.draw(st.integers(1, 8))
    t = data.draw(st.lists(st.integers(-1000, 1000), min_size=2 * n - 1, max_size=2 * n - 1))
    T = sm.Toeplitz([float(v) for v in t[n - 1 :]], [float(v) for v in t[n - 1 :: -1]])
    N = sm.displacement(T.to_dense())
    at = dict(zip(range(1 - n, n), t, strict=True))
    assert all(N[i, j] == 0 for i in range(1, n) for j in range(n - 1))
    assert all(N[0, j] == at[n - 1 - j] - at[-1 - j] for j in range(n - 1))
    assert all(N[i, n - 1] == at[i] + at[i - n] for i in range(1, n))
    assert N[0, n - 1] == 2 * at[0]
    assert sm.displacement_rank(T.to_dense()) <= 2
    W = sm.convert(T, sm.LowDisplacementRank)
    assert W.terms <= 2
    np.testing.assert_allclose(W.to_dense(), T.to_dense(), atol=1e-10 * (1 + np.abs(t).max()))


@identity()
def test_displacement_of_the_generators(d):
    """∇(W(G, H)) = 2 G (J H)ᵀ, and M = W(P/2, J Q) when ∇(M) = P Qᵀ"""
    n, r = d.size(1, 6), d.size(0, 3)
    G, H = d.array(n, r), d.array(n, r)
    W = ref.low_displacement_rank(w(G), w(H))
    size = ref.displacement_constant(G, H) * ref.displacement_norm(w(G), w(H))
    found = sm.LowDisplacementRank(G, H)
    d.close(found.to_dense(), W, n * size, 0.1, "W(G, H)")
    d.close(sm.displacement(found.to_dense()), 2 * w(G) @ w(H)[::-1].T, n * size, 0.1, "displacement of W")
    M = d.array(n, n)
    back = sm.LowDisplacementRank(sm.displacement(M) / 2, np.eye(n, dtype=d.dtype)[::-1])
    d.close(back.to_dense(), M, 60 * n**2 * F(M), 0.1, "every matrix has n terms")
    assert sm.displacement_rank(np.eye(n)) == 1


@identity("float64", "complex128")
def test_displacement_ranks(d):
    """Inverse Toeplitz 2, product of two 4, rank k 2k, circulant and skew-circulant 1."""
    n = 8
    rng = np.random.default_rng(d.size(0, 5))
    t = [normal(rng, (2 * n - 1,), d.dtype) for _ in range(2)]
    T, S = (ref.toeplitz(v[n - 1 :], v[n - 1 :: -1]).astype(d.dtype) for v in t)
    assert sm.displacement_rank(np.linalg.inv(T + 4 * np.eye(n)), tol=1e-10) == 2
    assert sm.displacement_rank(T @ S, tol=1e-10) == 4
    assert sm.displacement_rank(np.outer(T[0], S[0]), tol=1e-10) == 2
    assert sm.displacement_rank(ref.circulant(T[0]).astype(d.dtype), tol=1e-10) == 1
    assert sm.displacement_rank(ref.skew_circulant(T[0]).astype(d.dtype), tol=1e-10) == 1


# --- batches ------------------------------------------------------------------------------------------------------------------------


@identity()
def test_batches_are_loops(d):
    n = d.size(1, 6)
    lead = tuple(d.size(0, 2) for _ in range(d.size(0, 2)))
    A = sm.Toeplitz(d.array(n)) + sm.Kronecker(d.array(n, n), d.array(1, 1))
    x = d.array(*lead, n)
    whole = A.apply(x)
    assert whole.shape == (*lead, n)
    size = (ref.fft_constant(4 * n) + 2 * n) * sum(float(F(a)) for B in A.terms for a in B.arrays()) * 100
    for index in itertools.product(*map(range, lead)):
        d.close(A @ x[index], whole[index], size * F(x) + 1e-300, 0.1, "batch = loop")


@identity()
def test_padding_by_one(d):
    """x⊗1: factors of size 1×1 with entry 1 change nothing, bit for bit where all numbers are normal.

    The exponents of three factors are shared out differently, which rounds subnormal entries: the term υ of B3.
    """
    A, B = d.matrix(1), d.matrix(1)
    x = d.array(A.shape[1] * B.shape[1])
    one = np.ones((1, 1), d.dtype)
    real, info = np.finfo(d.dtype).dtype, np.finfo(d.dtype)
    parts = np.abs(np.concatenate([np.ravel(M).view(real) for M in (A, B)]))
    largest = [float(np.max(np.abs(M), initial=0)) or 1.0 for M in (one, A, B)]
    moved = 2 * max(largest) / min(largest)  # no exponent moves by more, so what lies above stays normal
    entries_normal = not np.any((parts > 0) & (parts < info.tiny * moved))
    lost = 4 * float(info.smallest_subnormal) * max(1.0, *(float(np.max(np.abs(M), initial=0)) for M in (A, B)))
    for factors in ((one, A, B), (A, one, B), (A, B, one)):
        K = sm.Kronecker(*factors)
        found, expected = (np.ravel(M.to_dense()).view(real) for M in (K, sm.Kronecker(A, B)))
        normal = np.abs(expected) >= info.tiny
        if entries_normal:
            np.testing.assert_array_equal(found[normal], expected[normal])
        else:
            np.testing.assert_allclose(found[normal], expected[normal], rtol=0, atol=lost)
        assert np.all(np.abs(found[~normal]) <= 2 * info.tiny)
        scale = (A.shape[1] + B.shape[1]) * F(A) * F(B) * F(x)
        d.close(K @ x, kron(A, B) @ w(x), scale, 0.5, "padding")
