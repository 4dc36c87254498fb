"""The identities of separated representations of 1 to 5 factors, rectangular as they come, against dense extended precision.

Numbers of the identities and limits as in test_identities.py.
"""

import itertools
import math

import numpy as np
import pytest
from conftest import check
from draws import identity
from reference import frobenius, sum_of_terms, weight, wide

import sepmat as sm
from sepmat.algebra import relative_distance

U = 2.0**-53


class Terms:
    """Drawn factors and scales, the matrix made of them, its dense form D and its weight N."""

    def __init__(self, d, shapes, low=0, high=3):
        self.terms = d.size(low, high)
        self.factors = [d.array(self.terms, *s) for s in shapes]
        self.scales = d.array(self.terms) if d.size(0, 1) else None
        self.matrix = sm.Separated(self.factors, self.scales)
        self.D, self.N = sum_of_terms(self.factors, self.scales), weight(self.factors, self.scales)
        self.d, self.size = len(shapes), sum(m * n for m, n in shapes)


def sizes(d):
    """Sides for 1 to 5 factors, so that the dense matrix stays small."""
    count = d.size(1, 5)
    return [d.size(1, (5, 4, 3, 2, 2)[count - 1]) for _ in range(count)]


def shapes_of(d):
    rows = sizes(d)
    return [(m, d.size(1, (5, 4, 3, 2, 2)[len(rows) - 1])) for m in rows]


# --- identities --------------------------------------------------------------------------------------------------------------


@identity()
def test_08_partial_trace(d):
    """tr_k(… ⊗ V_k ⊗ …) = tr(V_k) (the others), for every choice of factors, and the full trace where none is left."""
    shapes = [(n, n) if d.size(0, 2) else (n, n + 1) for n in sizes(d)]
    A = Terms(d, shapes)
    square = [i for i, (m, n) in enumerate(shapes) if m == n]
    for count in range(len(square) + 1):
        for traced in itertools.combinations(square, count):
            T = wide(A.D).reshape([m for m, _ in shapes] + [n for _, n in shapes])
            for i in sorted(traced, reverse=True):
                T = np.trace(T, axis1=i, axis2=i + T.ndim // 2)
            rest = [shapes[i] for i in range(len(shapes)) if i not in traced]
            expected = T.reshape(math.prod(m for m, _ in rest), math.prod(n for _, n in rest))
            scale = (math.prod(n for _, n in shapes) + A.terms) * A.N
            found = sm.partial_trace(A.matrix, [i - len(shapes) * (i % 2) for i in traced[::-1]])
            if rest:
                assert type(found) is sm.Separated and found.shapes == tuple(rest) and found.terms == A.terms
                found = found.to_dense()
            d.close(found, expected if rest else expected[0, 0], scale, "id 8 partial trace")


@identity()
def test_20_hadamard(d):
    """(V ⊗ W) ∘ (X ⊗ Y) = (V ∘ X) ⊗ (W ∘ Y), entry by entry: d + r products, then the sums."""
    shapes = shapes_of(d)
    A, B = Terms(d, shapes), Terms(d, shapes)
    found = sm.hadamard(A.matrix, B.matrix)
    assert type(found) is sm.Separated and found.terms == A.terms * B.terms
    G = sum_of_terms([np.abs(F) for F in A.factors], None if A.scales is None else np.abs(A.scales))
    H = sum_of_terms([np.abs(F) for F in B.factors], None if B.scales is None else np.abs(B.scales))
    d.close(found.to_dense(), A.D * B.D, (2 * A.d + found.terms + 2) * G * H, "id 20 separated")
    K, L = (sm.Kronecker(*(d.array(*s) for s in shapes)) for _ in range(2))
    assert type(sm.hadamard(K, L)) is sm.Kronecker
    expected = sum_of_terms([F[None] for F in K.factors]) * sum_of_terms([F[None] for F in L.factors])
    d.close(sm.hadamard(K, L).to_dense(), expected, 3 * len(shapes) * np.abs(expected), "id 20 Kronecker")


@identity()
def test_26_30_sums_products_and_kronecker_products(d):
    """Numbers of terms add in sums and multiply in products of both kinds; values by the weights."""
    shapes, further = shapes_of(d), [(d.size(1, 2), d.size(1, 2)) for _ in range(d.size(1, 2))]
    A, B, C = Terms(d, shapes), Terms(d, shapes), Terms(d, [(n, d.size(1, 2)) for _, n in shapes])
    for M, D in ((A.matrix + B.matrix, A.D + B.D), (A.matrix - B.matrix, A.D - B.D)):
        assert type(M) is sm.Separated and M.terms == A.terms + B.terms
        d.close(M.to_dense(), D, (A.d + M.terms) * (A.N + B.N), "id 30 sum, d <= 5")
    P = A.matrix @ C.matrix
    assert type(P) is sm.Separated and P.terms == A.terms * C.terms and (3 * A.matrix).terms == A.terms
    scale = (sum(n for _, n in shapes) + A.d + P.terms) * A.N * C.N
    d.close(P.to_dense(), A.D @ C.D, scale, "id 30 product, d <= 5")
    E = Terms(d, further, high=2)
    for M, D in ((sm.kron(A.matrix, E.matrix), np.kron(A.D, E.D)), (sm.kron(E.matrix, A.matrix), np.kron(E.D, A.D))):
        assert type(M) is sm.Separated and M.terms == A.terms * E.terms and len(M.shapes) == A.d + E.d
        d.close(M.to_dense(), D, (A.d + E.d + M.terms) * A.N * E.N, "id 26 Kronecker product")
    M = A.matrix.merged()
    assert M.terms <= A.terms and M.merged() is M
    d.close(M.to_dense(), A.D, (A.d + A.terms + 16 * A.d) * A.N, 0.14, "merged")


@identity()
def test_28_condition_number(d):
    """κ >= 1/√r; it does not see scales, order, signs, adjoints, orthogonal factors; κ(A ⊗ B) = κ(A) κ(B)."""
    shapes = shapes_of(d)
    A = Terms(d, shapes, low=1)
    S, kappa = A.matrix, A.matrix.condition_number
    if d.mode == "entries" and not frobenius(A.D) > 1e-30 * A.N:
        return  # the terms cancel completely, or there are none
    e = 2 * U * (1 + len(shapes))
    assert kappa >= (1 - 4 * A.terms * e) / math.sqrt(A.terms)
    if kappa > 1e6 or (d.mode == "entries" and d.single):
        return
    slack = 1 + 40 * A.terms * e * kappa  # double precision whatever the data is …
    moved = 1 + 40 * A.terms * (2.0**-23 if d.single else 2.0**-52) * kappa  # … but these round the data
    order = np.random.default_rng(A.terms).permutation(A.terms)
    weights = np.asarray(S._weights)
    for other, limit in (
        (sm.Separated([F[order] for F in A.factors], weights[order]), slack), (S.T, slack), (S.conj(), slack),
        (-S, slack), (2.0 * S, slack), (sm.Separated([-A.factors[0], *A.factors[1:]], -weights), slack),
        (sm.Separated([F * 2.0**k for k, F in enumerate(A.factors)], weights), slack),
        (3 * S, moved), (S.normalized(), moved),
    ):  # fmt: skip
        assert kappa / limit <= other.condition_number <= kappa * limit
    if d.mode == "seeded":
        left, right = ([np.linalg.qr(d.array(k, k))[0] for k in side] for side in zip(*shapes, strict=True))
        turned = sm.Kronecker(*left) @ S @ sm.Kronecker(*right)
        assert kappa / moved**3 <= turned.condition_number <= kappa * moved**3
        B = Terms(d, [(2, 1)], low=1, high=2).matrix
        product = kappa * B.condition_number
        assert sm.kron(S, B).condition_number == pytest.approx(product, rel=(moved - 1) * B.condition_number + 1e-5)


@identity()
def test_29_splitting_and_merging(d):
    """Splitting a term leaves A and lowers κ at most by √2; merging equal terms is exact, and undoes it."""
    A = Terms(d, shapes_of(d), low=1)
    S, weights = A.matrix, np.asarray(A.matrix._weights)
    t = 0.25
    split = sm.Separated([np.concatenate((F, F[:1])) for F in A.factors], np.append(weights, weights[0] * (1 - t)))
    split = sm.Separated(split.factors, np.concatenate(([weights[0] * t], np.asarray(split.scales)[1:])))
    d.close(split.to_dense(), A.D, (A.d + A.terms + 1) * A.N, "id 29")
    if math.isfinite(S.condition_number) and S.condition_number < 1e4:
        assert split.condition_number >= S.condition_number / math.sqrt(2) * (1 - 1e-4)
    M = S.merged()
    assert (S + S).merged().terms == split.merged().terms == M.terms
    assert (S - S).merged().terms == 0
    for F, G in zip((S + S).merged().factors, M.factors, strict=True):
        np.testing.assert_array_equal(F, G)
    twice = (S + S).merged()
    if M.terms == A.terms:
        np.testing.assert_array_equal(twice._weights, 2 * M._weights)
    # where terms of S merge among themselves, the sum of their weights depends on its order
    d.close(twice.to_dense(), 2 * A.D, 2 * (A.d + 2 * A.terms + 1) * A.N, "id 29")
    r = 4  # equality in κ >= 1/√r
    equal = sm.Separated([np.repeat(F[:1], r, axis=0) for F in A.factors], np.full(r, 0.25, d.dtype))
    if all(np.any(F[0] != 0) for F in A.factors):
        assert equal.condition_number == pytest.approx(0.5, rel=1e-12)


@identity()
def test_31_inner_product(d):
    """⟨A, B⟩ = Σ s̄_l t_m Π ⟨V_k^l, W_k^m⟩, conjugate symmetric, ‖A‖² = ⟨A, A⟩."""
    shapes = shapes_of(d)
    A, B = Terms(d, shapes), Terms(d, shapes)
    scale = (A.size + A.terms * B.terms + A.d) * A.N * B.N
    d.close(sm.inner(A.matrix, B.matrix), np.vdot(A.D, B.D), scale, "id 31, d <= 5")
    d.close(sm.inner(B.matrix, A.matrix), np.vdot(B.D, A.D), scale, "id 31, d <= 5")
    d.close(sm.inner(A.matrix, A.matrix), np.vdot(A.D, A.D), (A.size + A.terms**2 + A.d) * A.N**2, "id 31, d <= 5")


@identity()
def test_32_33_products_and_evaluation(d):
    """A x against the dense matrix, columns one by one, ⟨Ax, y⟩ = ⟨x, Aᴴy⟩; a separated x gives a separated A x."""
    shapes = shapes_of(d)
    A = Terms(d, shapes)
    S, K = A.matrix, sum(n for _, n in shapes) + A.terms + A.d
    X, y = d.array(S.shape[1], 2), d.array(S.shape[0])
    d.close(S @ X, A.D @ wide(X), K * A.N * frobenius(X), "id 32, d <= 5")
    d.close(S @ X[:, 0], A.D @ wide(X[:, 0]), K * A.N * frobenius(X), "id 32, d <= 5")
    both = K + sum(m for m, _ in shapes) + sum(S.shape)
    gap = np.vdot(wide(S @ X[:, 0]), wide(y)) - np.vdot(wide(X[:, 0]), wide(S.H @ y))
    d.close(gap, 0, both * A.N * frobenius(X) * frobenius(y), "id 32 adjoint")
    d.close(S.to_dense(), A.D, (A.d + A.terms) * A.N, "id 33, d <= 5")
    x = Terms(d, [(n, 1) for _, n in shapes], high=2)
    image = S @ x.matrix
    assert type(image) is sm.Separated and image.shape == (S.shape[0], 1)
    d.close(image.to_dense(), A.D @ x.D, (K + image.terms) * A.N * x.N, "id 32 separated x")


@identity()
def test_35_norms_and_distances_by_the_qr_sweep(d):
    """‖A‖_F and ‖A − B‖_F to 20 d e N, N the weight: e of double precision, then one rounding to the dtype of the data."""
    shapes = shapes_of(d)
    A, B = Terms(d, shapes), Terms(d, shapes)
    near = [F * (1 + d.rng.uniform(-1, 1) * 1e-5) for F in A.factors] if d.rng is not None else A.factors
    near = Near(near, A.scales, d.dtype)
    for found, D, N in (
        (sm.norm(A.matrix), A.D, A.N), (sm.distance(A.matrix, B.matrix), A.D - B.D, A.N + B.N),
        (sm.distance(A.matrix, near.matrix), A.D - near.D, A.N + near.N), (sm.distance(A.matrix, A.matrix), 0 * A.D, 2 * A.N),
    ):  # fmt: skip
        true = frobenius(D)
        assert np.asarray(found).dtype == np.dtype(
            d.dtype.replace("complex64", "float32").replace("complex128", "float64")
        )
        u = 2.0**-24 if d.single else U
        error = abs(wide(found) - true) - u * true
        check(max(error, 0), 2 * A.d * (N + d.floor / U), 20, "float64", "id 35")
    true = frobenius(A.D)
    if true > 1e-6 * A.N > 0:
        found = relative_distance(A.matrix, near.matrix)
        check(
            max(abs(found - frobenius(A.D - near.D) / true), 0),
            2 * A.d * 2 * (A.N + near.N) / true,
            20,
            "float64",
            "id 35",
        )


class Near:
    def __init__(self, factors, scales, dtype):
        factors = [F.astype(dtype) for F in factors]
        self.matrix, self.D, self.N = (
            sm.Separated(factors, scales),
            sum_of_terms(factors, scales),
            weight(factors, scales),
        )
