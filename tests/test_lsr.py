"""The orthonormal tree, and from low matrix rank to low separation rank."""

import itertools
import math

import numpy as np
import pytest
from conftest import check, dtype_of, host, library

import sepmat as sm
from sepmat.tree import tree

DTYPES = ["float32", "float64", "complex64", "complex128"]


def draw(rng, shape, dtype="float64"):
    x = rng.standard_normal(shape)
    if dtype.startswith("complex"):
        x = x + 1j * rng.standard_normal(shape)
    return x.astype(dtype)


def outer_sum(weights, factors):
    """Σ_l w_l f_1[:, l] ∘ … ∘ f_d[:, l] in double precision."""
    columns = np.ones((1, len(weights)), np.complex128 if np.iscomplexobj(factors[0]) else np.float64)
    for F in factors:
        columns = (columns[:, None, :] * F[None, :, :]).reshape(-1, len(weights))
    return (columns @ weights).reshape([len(F) for F in factors])


def on_host(found):
    return host(found[0]).astype(np.float64), [host(F).astype(np.result_type(host(F), np.float64)) for F in found[1]]


# the tree ---------------------------------------------------------------------------------------------------------------

SHAPES = [(1,), (5,), (3, 4), (4, 3), (1, 1, 1), (2, 3, 4), (9, 2, 2), (2, 3, 4, 5), (3, 1, 2, 4, 2)]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_tree_is_exact_and_orthonormal(shape, dtype, rng, xp):
    T = draw(rng, shape, dtype)
    found = tree(xp.asarray(T))
    assert library(found[0]) == library(xp.asarray(T)) and {dtype_of(F) for F in found[1]} == {dtype}
    assert dtype_of(found[0]) == dtype.replace("complex64", "float32").replace("complex128", "float64")
    w, factors = on_host(found)
    assert [F.shape for F in factors] == [(n, len(w)) for n in shape]
    assert len(w) <= math.prod(shape) // max(shape) and np.all(np.diff(w) <= 0) and np.all(w > 0)
    check(np.linalg.norm(outer_sum(w, factors) - T), np.linalg.norm(T), 200, dtype, "tree exact")
    gram = np.ones((len(w), len(w)))
    for F in factors:
        gram = gram * (F.conj().T @ F)
    check(np.max(np.abs(gram - np.eye(len(w)))), 1.0, 200, dtype, "tree orthonormal")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(6, 7), (4, 5, 6), (3, 4, 2, 5)])
def test_tree_error_is_that_of_the_weights_left_out(shape, dtype, rng):
    T = draw(rng, shape, dtype)
    norm = np.linalg.norm(T)
    everything = on_host(tree(T))[0]
    for options in ({"rank": 1}, {"rank": 3}, {"rank": 10**6}, {"tol": 0.1}, {"tol": 0.5}, {"tol": 0.5, "rank": 2}):
        w, factors = on_host(tree(T, **options))
        tail = np.linalg.norm(everything[len(w) :])
        check(np.linalg.norm(outer_sum(w, factors) - T) - tail, norm, 200, dtype, "tree error formula")
        if "rank" in options:
            assert len(w) <= options["rank"]
        else:
            assert tail <= options["tol"] * norm < np.linalg.norm(everything[len(w) - 1 :])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(8, 9), (6, 7, 8), (3, 4, 5, 3)])
def test_tree_leaves_no_round_off(shape, dtype, rng):
    w, _ = on_host(tree(outer_sum(np.ones(1), [draw(rng, (n, 1), dtype) for n in shape]).astype(dtype)))
    assert len(w) == 1
    two = outer_sum(np.ones(2), [draw(rng, (n, 2), dtype) for n in shape]).astype(dtype)
    assert len(on_host(tree(two))[0]) == 2 ** (len(shape) - 1)


@pytest.mark.parametrize("shape", [(3,), (0,), (2, 3), (0, 3), (2, 3, 4), (2, 0, 4), (0, 0, 0)])
def test_tree_of_zero_has_no_terms(shape, xp):
    w, factors = tree(xp.zeros(shape))
    assert tuple(w.shape) == (0,) and [tuple(F.shape) for F in factors] == [(n, 0) for n in shape]


@pytest.mark.parametrize("scale", [1e-300, 1e-150, 1e150, 1e300])
def test_tree_knows_no_scale(scale, rng):
    T = draw(rng, (3, 4, 5))
    w, factors = tree(T * scale)
    check(np.linalg.norm(outer_sum(w / scale, factors) - T), np.linalg.norm(T), 200, "float64", "tree exact")


# U Vᵀ in separated form -------------------------------------------------------------------------------------------------

FACTORS = [
    ((4, 3),),
    ((3, 2), (4, 3)),
    ((1, 5), (4, 2)),
    ((8, 1), (2, 6)),
    ((3, 2), (4, 3), (2, 4)),
    ((2, 2), (3, 1), (2, 3)),
    ((2, 2), (2, 3), (1, 2), (3, 2)),
    ((2, 1), (1, 2), (2, 2), (2, 2), (3, 2)),
]


def full(shapes):
    return math.prod(m for m, _ in shapes), math.prod(n for _, n in shapes)


def columns(rng, sizes, r, dtype="float64"):
    """r columns that are Kronecker products of vectors."""
    total = np.ones((1, r), dtype)
    for n in sizes:
        total = (total[:, None, :] * draw(rng, (n, r), dtype)[None, :, :]).reshape(-1, r)
    return total


def rearranged_rank(M, shapes, left):
    """The rank of an unfolding of R(M), written out: each row is a choice of the entries of the factors in `left`."""
    d, rest = len(shapes), [i for i in range(len(shapes)) if i not in left]
    T = M.reshape([m for m, _ in shapes] + [n for _, n in shapes])
    T = T.transpose([k for i in (*left, *rest) for k in (i, d + i)])
    return np.linalg.matrix_rank(T.reshape(math.prod(shapes[i][0] * shapes[i][1] for i in left), -1))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rank", [1, 3])
@pytest.mark.parametrize("shapes", FACTORS, ids=str)
def test_separated_from_low_rank_is_exact(shapes, rank, dtype, rng, xp):
    U, V = (draw(rng, (n, rank), dtype) for n in full(shapes))
    S = sm.separated_from_low_rank(xp.asarray(U), xp.asarray(V), shapes)
    assert S.shapes == shapes and dtype_of(S.factors[0]) == dtype and library(S.factors[0]) == library(xp.asarray(U))
    size = np.sum(np.linalg.norm(U, axis=0) * np.linalg.norm(V, axis=0))
    wide = np.result_type(U, np.float64)
    check(np.linalg.norm(host(S.to_dense()) - U.astype(wide) @ V.T), size, 200, dtype, "rank to separated form")
    lower, upper = sm.separation_rank_bounds((xp.asarray(U), xp.asarray(V)), shapes)
    assert lower <= S.terms == upper
    cap = rank * math.prod(full(shapes)) // max(m for m, _ in shapes) // max(n for _, n in shapes)
    assert S.terms <= min(cap, math.prod(m * n for m, n in shapes) // max(m * n for m, n in shapes))
    if len(shapes) <= 2:
        assert sm.separation_rank((xp.asarray(U), xp.asarray(V)), shapes) == S.terms
        assert abs(S.condition_number - 1) < 1e-4


@pytest.mark.parametrize("dtype", ["float64", "complex128"])
@pytest.mark.parametrize("shapes", [s for s in FACTORS if len(s) > 1] + [((20, 30), (30, 20), (25, 16))], ids=str)
def test_kronecker_columns_give_one_term_each(shapes, dtype, rng):
    U, V = (columns(rng, [p[side] for p in shapes], 2, dtype) for side in (0, 1))
    S = sm.separated_from_low_rank(U, V, shapes)
    assert 1 <= S.terms <= 2
    size = np.sum(np.linalg.norm(U, axis=0) * np.linalg.norm(V, axis=0))
    if math.prod(full(shapes)) < 10**6:
        check(np.linalg.norm(S.to_dense() - U @ V.T), size, 200, dtype, "rank to separated form")
    else:  # 15000 × 9600 by entries
        i, j = rng.integers(0, len(U), 50), rng.integers(0, len(V), 50)
        error = [S[int(a), int(b)] - U[a] @ V[b] for a, b in zip(i, j, strict=True)]
        check(np.abs(error), size, 200, dtype, "rank to separated form")


def test_a_kronecker_product_of_full_rank_is_one_term(rng):
    A = [draw(rng, (4, 4)) for _ in range(3)]
    U, s, Vt = np.linalg.svd(np.kron(np.kron(A[0], A[1]), A[2]))
    assert sm.separated_from_low_rank(U * s, Vt.T, ((4, 4),) * 3).terms == 1
    assert sm.separated_from_low_rank(np.eye(64), np.eye(64), ((4, 4),) * 3).terms == 1


@pytest.mark.parametrize("shapes", FACTORS, ids=str)
@pytest.mark.parametrize("rank", [0, 2])
def test_zero_has_no_terms(shapes, rank, xp):
    m, n = full(shapes)
    S = sm.separated_from_low_rank(xp.zeros((m, rank)), xp.zeros((n, rank)), shapes)
    assert S.terms == 0 and S.shapes == shapes
    assert sm.separation_rank_bounds((xp.zeros((m, rank)), xp.zeros((n, rank))), shapes) == (0, 0)
    assert sm.separation_rank_bounds(xp.zeros((m, n)), shapes) == (0, 0)
    assert sm.separation_rank_bounds(S) == (0, 0)


@pytest.mark.parametrize("shapes", [((0, 2), (3, 2)), ((2, 2), (0, 1), (2, 0)), ((0, 0),)], ids=str)
def test_empty(shapes):
    m, n = full(shapes)
    assert sm.separated_from_low_rank(np.ones((m, 1)), np.ones((n, 1)), shapes).terms == 0
    assert sm.separation_rank_bounds((np.ones((m, 1)), np.ones((n, 1))), shapes) == (0, 0)
    assert sm.separation_rank_bounds(np.ones((m, n)), shapes) == (0, 0)


def test_columns_that_cancel_leave_no_terms_of_round_off(rng):
    u, v, w = draw(rng, (12, 1)), columns(rng, (4, 3), 1), columns(rng, (3, 4), 1)
    U, V = np.hstack([u, -u, w]), np.hstack([v, v, v])
    assert sm.separation_rank((U, V), ((3, 4), (4, 3))) == 1
    assert sm.separated_from_low_rank(U, V, ((3, 4), (4, 3))).terms == 1


@pytest.mark.parametrize("left, right", [(1e-200, 1e200), (1e150, 1e150), (1e-150, 1e-150)])
@pytest.mark.parametrize("shapes", [((3, 2), (4, 3)), ((3, 2), (4, 3), (2, 4))], ids=str)
def test_scales_do_not_matter(shapes, left, right, rng):
    U, V = (draw(rng, (n, 2)) for n in full(shapes))
    S = sm.separated_from_low_rank(U * left, V * right, shapes)
    assert S.terms == sm.separated_from_low_rank(U, V, shapes).terms
    check(np.linalg.norm(S.to_dense() / left / right - U @ V.T), np.linalg.norm(U) * np.linalg.norm(V), 200, "float64")
    uneven = np.array([1e-100, 1e100])
    S = sm.separated_from_low_rank(U * uneven, V / uneven, shapes)
    check(np.linalg.norm(S.to_dense() - U @ V.T), np.linalg.norm(U) * np.linalg.norm(V), 200, "float64")


@pytest.mark.parametrize("shapes", [((3, 4), (4, 3)), ((3, 2), (2, 2), (2, 3))], ids=str)
def test_gradients_of_the_terms_are_those_of_the_product(shapes, rng):
    torch = pytest.importorskip("torch")
    U, V = (torch.asarray(draw(rng, (n, 2))).requires_grad_() for n in full(shapes))
    assert torch.autograd.gradcheck(lambda U, V: sm.separated_from_low_rank(U, V, shapes).to_dense(), (U, V))


# separation ranks ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float64", "complex128"])
def test_rank_of_u_v_is_the_product_of_the_ranks(dtype, rng):
    """Identity: the separation rank of u vᵀ is rank(mat u) rank(mat v)."""
    for m1, m2, n1, n2 in itertools.product((1, 2, 4), (3, 5), (1, 4), (2, 3)):
        for a, b in itertools.product(range(1, min(m1, m2) + 1), range(1, min(n1, n2) + 1)):
            u, v = (
                (draw(rng, (k, r), dtype) @ draw(rng, (r, l), dtype)).reshape(-1, 1)
                for k, l, r in ((m1, m2, a), (n1, n2, b))
            )
            assert sm.separation_rank((u, v), ((m1, n1), (m2, n2))) == a * b
            assert sm.separation_rank(u @ v.T, ((m1, n1), (m2, n2))) == a * b


def simple_bound(r, m1, n1, m2, n2):
    return min(r * min(m1, m2) * min(n1, n2), min(m1, r * m2) * min(n1, r * n2), min(m2, r * m1) * min(n2, r * n1))


def test_generic_separation_rank():
    """That of random columns in every case; the simple bound is above it in two, both with r = 2."""
    rng, sizes, cases, below = np.random.default_rng(0), (1, 2, 3, 5, 7), 0, set()
    for m1, n1, m2, n2 in itertools.product(sizes, repeat=4):
        if m1 > m2:
            continue
        for r in range(1, min(m1 * m2, n1 * n2, 4) + 1):
            shapes = ((m1, n1), (m2, n2))
            M = np.einsum("rab,rcd->acbd", draw(rng, (r, m1, m2)), draw(rng, (r, n1, n2)))
            found = np.linalg.matrix_rank(M.reshape(m1 * n1, m2 * n2))
            assert found == sm.generic_separation_rank(r, shapes) <= simple_bound(r, m1, n1, m2, n2)
            if found < simple_bound(r, m1, n1, m2, n2):
                below.add((r, m1, m2, n1, n2))
            cases += 1
    assert cases == 1237 and below == {(2, 3, 5, 5, 3), (2, 5, 7, 7, 5)}


@pytest.mark.parametrize(
    "r, m, n, rank",
    [(2, (9, 13), (13, 9), 114), (3, (4, 11), (11, 4), 43), (3, (5, 14), (11, 4), 54), (4, (5, 19), (19, 5), 94)],
)
def test_generic_separation_rank_below_the_simple_bound(r, m, n, rank, rng):
    shapes = tuple(zip(m, n, strict=True))
    U, V = draw(rng, (m[0] * m[1], r)), draw(rng, (n[0] * n[1], r))
    assert sm.separation_rank((U, V), shapes) == sm.generic_separation_rank(r, shapes) == rank
    assert rank < simple_bound(r, m[0], n[0], m[1], n[1])


@pytest.mark.parametrize("shapes", [((3, 2), (4, 3)), ((2, 5), (5, 2)), ((3, 5), (5, 3)), ((6, 1), (1, 6))], ids=str)
def test_random_columns_have_the_generic_separation_rank(shapes, rng):
    for r in range(1, min(full(shapes)) + 1):
        pair = tuple(draw(rng, (n, r)) for n in full(shapes))
        assert sm.separation_rank(pair, shapes) == sm.generic_separation_rank(r, shapes)
    assert sm.generic_separation_rank(0, shapes) == 0


def test_low_rank_and_dense_agree(rng, xp):
    for shapes in ((3, 2), (4, 3)), ((2, 5), (6, 1)), ((2, 2), (2, 2)):
        for r in (1, 2, 4):
            U, V = (draw(rng, (n, r)) for n in full(shapes))
            expected = rearranged_rank(U @ V.T, shapes, [0])
            U, V = xp.asarray(U), xp.asarray(V)
            assert sm.separation_rank((U, V), shapes) == sm.separation_rank(sm.LowRank(U, V), shapes) == expected
            assert sm.separation_rank(sm.separated_from_low_rank(U, V, shapes)) == expected


def test_known_separation_ranks():
    """64 × 64 matrices in 8×8 ⊗ 8×8, exactly and at five tolerances; two of rank 15 hold less above round-off."""
    pytest.importorskip("threadpoolctl")
    from studies import separation_rank as study

    shapes, found = ((8, 8), (8, 8)), study.matrices(np.random.default_rng(0))
    for name, (exact, at) in study.EXPECTED.items():
        M = found[name]
        if name not in study.BEYOND_DOUBLE:
            assert sm.separation_rank(M, shapes) == sm.separation_rank(3e100 * M.T, shapes) == exact, name
        if at is not None:
            assert [sm.separation_rank(M, shapes, tol=tol) for tol in study.TOLERANCES] == at, name


def test_the_smallest_counter_example():
    """Matrix rank 1 and separation rank 2, 4 (the largest there is)."""
    u = np.array([[1.0], [0.0], [0.0], [1.0]])
    e = np.array([[1.0], [0.0], [0.0], [0.0]])
    assert sm.separation_rank((u, np.ones((1, 1))), ((2, 1), (2, 1))) == 2
    assert sm.separation_rank((u, e), ((2, 2), (2, 2))) == 2
    assert sm.separation_rank((u, u), ((2, 2), (2, 2))) == 4 == sm.generic_separation_rank(1, ((2, 2), (2, 2)))


def test_a_random_matrix_of_rank_one_has_the_largest_separation_rank(rng):
    U, V = draw(rng, (768, 1)), draw(rng, (768, 1))
    assert sm.separation_rank((U, V), ((32, 32), (24, 24))) == 576 == 24 * 24


def test_unfolding_ranks_bound_from_below(rng):
    shapes = ((3, 2), (4, 3), (2, 4))
    U, V = draw(rng, (24, 1)), draw(rng, (24, 1))
    assert [rearranged_rank(U @ V.T, shapes, [i]) for i in range(3)] == [6, 12, 8]
    assert sm.separation_rank_bounds((U, V), shapes) == (12, 36)
    assert sm.separation_rank_bounds(sm.separated_from_low_rank(U, V, shapes)) == (12, 36)
    lower, upper = sm.separation_rank_bounds(U @ V.T, shapes)
    assert lower == 12 and 36 <= upper <= 48


@pytest.mark.parametrize("shapes", FACTORS, ids=str)
def test_bounds_hold_for_sums_of_random_terms(shapes, rng, xp):
    for r in (1, 2, 4):
        S = sm.Separated([xp.asarray(draw(rng, (r, *p))) for p in shapes])
        splits = [[i] for i in range(len(shapes))] + [list(range(i)) for i in range(2, len(shapes) - 1)]
        expected = max(rearranged_rank(host(S.to_dense()), shapes, left) for left in splits)
        lower, upper = sm.separation_rank_bounds(S)
        assert lower == expected <= upper <= r
        assert sm.separation_rank_bounds(S.to_dense(), shapes)[0] == expected
        twice = sm.separation_rank_bounds(S + S)
        assert twice == (lower, upper)
        for bound in (sm.separation_rank_bounds(S.T), sm.separation_rank_bounds(-3.0 * S)):
            assert bound == (lower, upper)


def test_ranks_of_sums_and_products(rng):
    """Identities: r(A + B) <= r(A) + r(B), r(AB) <= r(A) r(B), r(cA) = r(A), r(PAQ) = r(A) for invertible Kronecker P, Q."""
    A, B = (sm.Separated([draw(rng, (r, 3, 3)), draw(rng, (r, 4, 4))]) for r in (2, 3))
    assert [sm.separation_rank(X) for X in (A, B, A + B, A @ B, A - A, A.T)] == [2, 3, 5, 6, 0, 2]
    assert sm.separation_rank(A, [[3, 3], [4, 4]]) == 2
    with pytest.raises(sm.DTypeError, match="to_dense"):
        sm.separation_rank(A, [[4, 4], [3, 3]])
    P = sm.Separated([draw(rng, (1, 3, 3)), draw(rng, (1, 4, 4))])
    assert sm.separation_rank(P @ A @ P) == 2
    assert sm.separation_rank(A.to_dense(), ((4, 4), (3, 3))) > 2  # other shapes, other rank


def test_factors_of_one_entry_do_not_count(rng):
    M = draw(rng, (12, 6))
    assert sm.separation_rank(M, ((1, 1), (3, 2), (1, 1), (4, 3))) == sm.separation_rank(M, ((3, 2), (4, 3))) == 6
    assert sm.separation_rank(M, ((12, 6), (1, 1))) == sm.separation_rank(M, ((12, 6),)) == 1


def test_tolerance_is_that_of_the_nearest_sum(rng):
    M = draw(rng, (12, 20)) * np.exp(-np.arange(20) / 2)
    shapes = ((3, 4), (4, 5))
    for tol in (0.5, 0.1, 1e-3):
        s = sm.separation_rank(M, shapes, tol=tol)
        assert sm.nearest_kronecker(M, shapes, rank=s, exact=True).relative_error <= tol
        assert s == 1 or sm.nearest_kronecker(M, shapes, rank=s - 1, exact=True).relative_error > tol


def test_example_of_the_adapter(rng):
    """A 768×4 factor of random entries: 48 terms 32×2 ⊗ 24×2; 16 of them have 1,792 parameters and error 0.56."""
    A = draw(rng, (768, 4))
    assert sm.separation_rank(A, ((32, 2), (24, 2))) == 48 == sm.generic_separation_rank(4, ((32, 2), (24, 2)))
    fit = sm.nearest_kronecker(A, ((32, 2), (24, 2)), rank=16, exact=True)
    assert sum(F.size for F in fit.matrix.factors) == 16 * (64 + 48) == 1792
    assert abs(fit.relative_error - 0.558) < 0.025  # 0.538 to 0.579 in 200 draws


# what cannot be done ------------------------------------------------------------------------------------------------------


def test_three_factors_have_no_exact_rank():
    with pytest.raises(sm.UnsupportedError, match=r"NP-hard.* Use separation_rank_bounds, or nearest_"):
        sm.separation_rank(np.eye(8), ((2, 2), (2, 2), (2, 2)))


@pytest.mark.parametrize(
    "call, error, message",
    [
        (lambda: sm.separation_rank(np.eye(6), ((2, 2), (2, 2))), sm.ShapeError, "rows 2·2 ≠ 6"),
        (lambda: sm.separation_rank(np.eye(6)), sm.ShapeError, "shapes: None"),
        (lambda: sm.separation_rank(np.ones(6), ((2, 2), (3, 3))), sm.ShapeError, "M: shape"),
        (lambda: sm.separation_rank((np.ones((6, 1)),) * 3, ((2, 2), (3, 3))), sm.ShapeError, "a pair"),
        (lambda: sm.separation_rank((np.ones((6, 1)), np.ones((6, 2))), ((2, 2), (3, 3))), sm.ShapeError, "V: shape"),
        (lambda: sm.separation_rank(np.eye(6) * np.nan, ((2, 2), (3, 3))), sm.NonFiniteError, "non-finite"),
        (lambda: sm.separation_rank(sm.Identity(6), ((2, 2), (3, 3))), sm.DTypeError, "M.to_dense"),
        (lambda: sm.separation_rank(np.eye(6), ((2, 2), (3, 3)), tol=0), sm.ArgumentError, "between 0 and 1"),
        (lambda: sm.separation_rank(np.eye(6), ((2, 2), (3, 3)), tol="x"), sm.DTypeError, "between 0 and 1"),
        (lambda: sm.separation_rank_bounds(np.eye(8), ((2, 2), (2, 2))), sm.ShapeError, "rows 2·2 ≠ 8"),
        (lambda: sm.separated_from_low_rank(np.ones((6, 1)), np.ones((6, 1)), None), sm.ShapeError, "shapes: None"),
        (
            lambda: sm.separated_from_low_rank(np.full((4, 1), np.inf), np.ones((4, 1)), ((2, 2), (2, 2))),
            sm.NonFiniteError,
            "low_rank: U: 4 non-finite",
        ),
        (
            lambda: sm.separated_from_low_rank(np.ones((4, 1)), np.ones((4, 2)), ((2, 2), (2, 2))),
            sm.ShapeError,
            "V: shape",
        ),
        (lambda: sm.generic_separation_rank(5, ((2, 2), (2, 2))), sm.ArgumentError, "5 > 4 possible"),
        (lambda: sm.generic_separation_rank(1.0, ((2, 2), (2, 2))), sm.DTypeError, "rank: 1.0"),
        (lambda: sm.generic_separation_rank(1, ((2, 2), (2, 2), (2, 2))), sm.ShapeError, "separation_rank_bounds"),
        (lambda: sm.generic_separation_rank(1, ((2, -2), (2, 2))), sm.ArgumentError, "shapes"),
    ],
)
def test_bad_input(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_terms_that_cannot_be_stored_are_refused(rng):
    U, V = draw(rng, (2**15, 1)), draw(rng, (2**15, 1))
    with pytest.raises(sm.SizeLimitError, match="separated_from_low_rank: size: needs"):
        sm.separated_from_low_rank(U, V, ((32, 32),) * 3)
