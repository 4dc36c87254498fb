"""Low rank plus one term that is easy to solve with: solve, inverse and slogdet of the sum against dense oracles, with
residual bounds at any condition that the formula survives, and an error where it does not."""

import re

import numpy as np
import pytest
import reference as ref
from cases import normal
from conftest import check, dtype_of, host

import sepmat as sm

DTYPES = ("float64", "complex128", "float32", "complex64")


def term(name, n, rng, dtype, xp):
    """(a well-conditioned matrix with a rule, its dense oracle)"""
    if name == "Diagonal":
        d = normal(rng, (n,), dtype) + np.asarray(3, dtype)
        return sm.Diagonal(xp.asarray(d)), np.diag(ref.wide(d))
    if name == "Identity":
        return sm.Identity(n, like=xp.asarray(np.zeros(1, dtype))), np.eye(n)
    if name == "Scaled":
        return -2.5 * sm.Identity(n, like=xp.asarray(np.zeros(1, dtype))), -2.5 * np.eye(n)
    if name in ("Circulant", "SkewCirculant"):
        c = normal(rng, (n,), dtype) / np.asarray(4 * max(n, 1) ** 0.5, dtype)
        c[:1] += 2
        build = ref.circulant if name == "Circulant" else ref.skew_circulant
        return getattr(sm, name)(xp.asarray(c)), build(ref.wide(c))
    factors = [normal(rng, (k, k), dtype) / 4 + 2 * np.eye(k, dtype=dtype) for k in (n // 2, 2)]
    return sm.Kronecker(*(xp.asarray(F) for F in factors)), ref.kronecker(*(ref.wide(F) for F in factors))


TERMS = ["Diagonal", "Identity", "Scaled", "Circulant", "SkewCirculant", "Kronecker"]


def built(name, n, k, rng, dtype, xp):
    """(A, its dense oracle, the size of its terms ‖M‖ + ‖U‖ ‖V‖)"""
    M, D = term(name, n, rng, dtype, xp)
    U, V = normal(rng, (n, k), dtype), normal(rng, (n, k), dtype)
    A = M + sm.LowRank(xp.asarray(U), xp.asarray(V))
    size = np.linalg.norm(D.astype(complex), 2) + np.linalg.norm(U) * np.linalg.norm(V) if n else 0.0
    return A, D + ref.low_rank(ref.wide(U), ref.wide(V)), size


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", TERMS)
def test_solve_inverse_slogdet(name, dtype, xp, rng):
    for n, k in ((10, 1), (10, 3), (10, 10), (10, 0), (12, 14)):
        A, D, size = built(name, n, k, rng, dtype, xp)
        assert type(A) is sm.Sum
        for shape in ((n,), (n, 2), (n, 0)):
            b = normal(rng, shape, dtype)
            x = sm.solve(A, xp.asarray(b, copy=True))
            assert dtype_of(x) == dtype and tuple(x.shape) == shape
            residual = np.linalg.norm((b - D @ host(x)).astype(complex))
            check(residual, size * np.linalg.norm(host(x)) + np.linalg.norm(b), n, dtype, "Woodbury solve")
        kappa = np.linalg.cond(D.astype(complex)) * size / np.linalg.norm(D.astype(complex), 2)
        X = sm.inverse(A)
        assert dtype_of(X) == dtype
        check(
            np.linalg.norm((host(X.to_dense()) @ D - np.eye(n)).astype(complex)),
            kappa * n,
            30 * n,
            dtype,
            "Woodbury inverse",
        )
        sign, logabs = sm.slogdet(A)
        s, l = ref.slogdet(D)
        check(
            abs(host(sign) - complex(s)) + abs(float(host(logabs)) - float(l)), kappa, 30 * n, dtype, "Woodbury slogdet"
        )


@pytest.mark.parametrize("n", [0, 1, 2, 7])
def test_small_sizes(n, xp, rng):
    for name in TERMS[:5]:
        A, D, size = built(name, n, 1, rng, "float64", xp)
        b = rng.standard_normal(n)
        x = host(sm.solve(A, xp.asarray(b)))
        check(np.linalg.norm((b - D @ x).astype(float)), size * np.linalg.norm(x) + np.linalg.norm(b), 30, "float64")
        assert host(sm.inverse(A).to_dense()).shape == (n, n)
        assert np.isclose(float(host(sm.slogdet(A).logabsdet)), float(ref.slogdet(D)[1]), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("kappa", [1e2, 1e6, 1e10, 1e12])
@pytest.mark.parametrize("how", ["diagonal", "low rank", "both", "sum"])
def test_ill_conditioned(how, kappa, rng):
    """Refinement keeps the residual at rounding whether the term, the low rank or only the sum is ill-conditioned."""
    n, k = 40, 3
    kappa = kappa**0.5 if how == "both" else kappa
    for trial in range(5):
        d = np.geomspace(1, 1 / kappa, n)[rng.permutation(n)] if how in ("diagonal", "both") else 1 + rng.random(n)
        U, V = rng.standard_normal((n, k)), rng.standard_normal((n, k))
        if how in ("low rank", "both"):
            U = U * np.geomspace(1, kappa, k)
        if how == "sum":  # smallest singular value about 1/κ: U Vᵀ removes all but that of one direction
            u = rng.standard_normal(n)
            U, V = (np.stack((-d * u * (1 - 1 / kappa), rng.standard_normal(n)), axis=1),
                    np.stack((u / (u @ u), np.zeros(n)), axis=1))  # fmt: skip
        A = sm.Diagonal(d) + sm.LowRank(U, V)
        D = np.diag(ref.wide(d)) + ref.low_rank(ref.wide(U), ref.wide(V))
        b = (D @ rng.standard_normal(n)).astype(float) if trial % 2 else rng.standard_normal(n)
        x = sm.solve(A, b)
        size = np.linalg.norm(d, np.inf) + np.linalg.norm(U) * np.linalg.norm(V)
        check(np.linalg.norm((b - D @ x).astype(float)), size * np.linalg.norm(x) + np.linalg.norm(b), n, "float64",
              "Woodbury solve, ill-conditioned")  # fmt: skip


@pytest.mark.parametrize("dtype", DTYPES)
def test_singular_sums_are_found(dtype, xp, rng):
    """(I − u uᴴ/‖u‖²) is singular; so is it to the precision when the 1 is off by u."""
    n = 50
    u = normal(rng, (n,), dtype)
    for off in (0.0, 2.0**-25 if dtype in ("float32", "complex64") else 2.0**-54):
        scale = -(1 - off) / np.vdot(u, u).real
        A = sm.Identity(n, like=xp.asarray(u)) + sm.LowRank(
            xp.asarray((scale * u)[:, None].astype(dtype)), xp.asarray(u.conj()[:, None].copy())
        )
        for call in (lambda: sm.solve(A, xp.asarray(np.ones(n, dtype))), lambda: sm.inverse(A)):  # noqa: B023
            with pytest.raises(sm.SingularMatrixError, match="rcond") as caught:
                call()
            assert isinstance(caught.value, np.linalg.LinAlgError)
        assert float(host(sm.slogdet(A).logabsdet)) < -10
    exact = sm.Identity(2, like=xp.asarray(np.zeros(1, dtype))) + sm.LowRank(
        xp.asarray([[-1.0], [0.0]]), xp.asarray([[1.0], [0.0]])
    )
    with pytest.raises(sm.SingularMatrixError, match="rcond"):
        sm.solve(exact, xp.asarray(np.ones(2, dtype)))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("small", [0.0, 1e-30, 1e-9])
def test_zeros_on_the_diagonal(small, dtype, xp, rng):
    """As many zeros as the rank leave the sum nonsingular, and solved to n u; one more makes it singular."""
    n, k = 20, 3
    d = normal(rng, (n,), dtype) + np.asarray(3, dtype)
    d[[2, 5, 11]] = small
    U, V = normal(rng, (n, k), dtype), normal(rng, (n, k), dtype)
    A = sm.Diagonal(xp.asarray(d)) + sm.LowRank(xp.asarray(U), xp.asarray(V))
    D = (np.diag(ref.wide(d)) + ref.low_rank(ref.wide(U), ref.wide(V))).astype(complex)
    b = normal(rng, (n, 2), dtype)
    x = host(sm.solve(A, xp.asarray(b, copy=True)))
    kappa = np.linalg.cond(D)
    assert kappa < 1e6
    check(
        np.linalg.norm(b - D @ x),
        np.linalg.norm(D, 2) * np.linalg.norm(x) + np.linalg.norm(b),
        2 * n,
        dtype,
        "Woodbury, zeros",
    )
    check(np.linalg.norm(host(sm.inverse(A).to_dense()) @ D - np.eye(n)), kappa * n, 30 * n, dtype, "Woodbury, zeros")
    sign, logabs = sm.slogdet(A)
    s, l = np.linalg.slogdet(D)
    check(abs(host(sign) - s) + abs(float(host(logabs)) - l), kappa, 30 * n, dtype, "Woodbury, zeros")
    d[7] = 0.0
    if not small:
        A = sm.Diagonal(xp.asarray(d)) + sm.LowRank(xp.asarray(U), xp.asarray(V))
        with pytest.raises(sm.SingularMatrixError, match=r"more zeros on the diagonal than the rank 3, rcond"):
            sm.solve(A, xp.asarray(b, copy=True))


def test_what_the_formula_cannot_do_is_refused(rng):
    """A singular or nearly singular term beside a well-conditioned sum, where its entries cannot be raised."""
    n = 20
    u = np.ones(n) + 0.1 * rng.standard_normal(n)
    for off in (0.0, 1e-19):
        c = np.r_[1.0, -1 + off, np.zeros(n - 2)]
        A = sm.Circulant(c) + sm.LowRank(u[:, None], u[:, None])
        assert np.linalg.cond(A.to_dense()) < 1e4
        with pytest.raises(sm.UnsupportedError, match="solve: A: the term Circulant") as caught:
            sm.solve(A, np.ones(n))
        assert len(re.split(", or ", caught.value.args[4])) == 2
        np.testing.assert_allclose(A @ sm.solve(sm.Dense(A.to_dense()), np.ones(n)), 1, rtol=1e-10)
    A = sm.Circulant(np.r_[1.0, -1 + 1e-9, np.zeros(n - 2)]) + sm.LowRank(u[:, None], u[:, None])
    np.testing.assert_allclose(A @ sm.solve(A, np.ones(n)), 1, rtol=1e-13)  # refinement takes this


def test_other_sums_have_no_rule(rng):
    c, b = rng.standard_normal(6), np.ones(6)
    L = sm.LowRank(rng.standard_normal((6, 1)), rng.standard_normal((6, 1)))
    for A in (sm.Circulant(c) + sm.Diagonal(c), sm.Circulant(c) + sm.Diagonal(c) + L,
              sm.Kronecker(np.eye(2), np.ones((3, 3))) + sm.Circulant(c)):  # fmt: skip
        for f in (lambda A: sm.solve(A, b), sm.inverse, sm.slogdet):
            with pytest.raises(sm.UnsupportedError) as caught:
                f(A)
            assert len(re.split(", or ", caught.value.args[4])) == 2


def test_several_low_rank_terms_are_one(rng):
    U, V = rng.standard_normal((2, 8, 2)), rng.standard_normal((2, 8, 2))
    D = sm.Diagonal(3 + rng.random(8))
    A = sm.Sum._of(terms=(sm.LowRank(U[0], V[0]), D, sm.LowRank(U[1].astype("float32"), V[1].astype("float32"))))
    x = sm.solve(A, np.ones(8))
    np.testing.assert_allclose(A.to_dense() @ x, 1, rtol=1e-11)


def test_nested_and_mixed(rng):
    """Scaled sums, real sums with complex right-hand sides, sums with low rank inside a product."""
    n = 9
    A = sm.Circulant(np.r_[4.0, rng.standard_normal(n - 1) / 3]) + sm.LowRank(
        rng.standard_normal((n, 2)), rng.standard_normal((n, 2))
    )
    D = A.to_dense()
    b = rng.standard_normal((n, 2)) + 1j * rng.standard_normal((n, 2))
    np.testing.assert_allclose(D @ sm.solve(A, b), b, rtol=1e-11)
    np.testing.assert_allclose(3 * D @ sm.solve(3 * A, b), b, rtol=1e-11)
    np.testing.assert_allclose(D @ D @ sm.solve(sm.Product._of(factors=(A, A)), b), b, rtol=1e-10)
    np.testing.assert_allclose(D.T @ sm.solve(A.T, b), b, rtol=1e-11)
    np.testing.assert_allclose(sm.Inverse(A) @ b, sm.solve(A, b), rtol=1e-14)


def toeplitz(n, rng, dtype, xp, singular=False):
    c, r = normal(rng, (n,), dtype), normal(rng, (n,), dtype)
    r[0] = c[0]
    if singular:
        c, r = np.ones(n, dtype), np.ones(n, dtype)
    return sm.Toeplitz(xp.asarray(c), xp.asarray(r)), ref.toeplitz(ref.wide(c), ref.wide(r))


def displaced(name, n, rng, dtype, xp):
    """(a sum of low displacement rank, its dense oracle)"""
    T, D = toeplitz(n, rng, dtype, xp, singular=name == "singular T + low rank")
    S, E = toeplitz(n, rng, dtype, xp)
    c, U, V = normal(rng, (n,), dtype), normal(rng, (n, 2), dtype), normal(rng, (n, 2), dtype)
    C, F = sm.Circulant(xp.asarray(c)), ref.circulant(ref.wide(c))
    L, G = sm.LowRank(xp.asarray(U), xp.asarray(V)), ref.low_rank(ref.wide(U), ref.wide(V))
    I = sm.Identity(n, like=xp.asarray(c))
    if name == "singular T + low rank":
        U = np.eye(n, n - 1, dtype=dtype) * np.arange(1, n).astype(dtype)
        return T + sm.LowRank(xp.asarray(U), xp.asarray(np.eye(n, n - 1, dtype=dtype))), D + ref.wide(U) @ np.eye(
            n - 1, n
        )
    return {
        "T + low rank": lambda: (T + L, D + G),
        "T T + C": lambda: (T @ S + C, D @ E + F),
        "T T + I": lambda: (T @ S + 3 * I, D @ E + 3 * np.eye(n)),
        "W + low rank": lambda: (sm.convert(T, sm.LowDisplacementRank) + L, D + G),
        "W + Wᵀ": lambda: (sm.convert(T, sm.LowDisplacementRank) + sm.convert(S, sm.LowDisplacementRank).T, D + E.T),
        "C C' + C": lambda: (C @ sm.SkewCirculant(xp.asarray(c)) + C, F @ ref.skew_circulant(ref.wide(c)) + F),
    }[name]()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "name", ["T + low rank", "singular T + low rank", "T T + C", "T T + I", "W + low rank", "W + Wᵀ", "C C' + C"]
)
def test_sums_of_low_displacement_rank(name, dtype, xp, rng):
    """Toeplitz matrices among the terms: solved with pivoting as one W(G, H), so that no term must be nonsingular."""
    for n in (1, 6, 20):
        A, D = displaced(name, n, rng, dtype, xp)
        if np.linalg.cond(D.astype(complex)) > (100 if dtype in ("float32", "complex64") else 1e6):
            continue
        assert type(A) is sm.Sum
        D = D.astype(complex)
        b = normal(rng, (n, 2), dtype)
        x = sm.solve(A, xp.asarray(b, copy=True))
        assert dtype_of(x) == dtype
        scale = np.linalg.norm(D, 2) * np.linalg.norm(host(x)) + np.linalg.norm(b)
        check(np.linalg.norm(b - D @ host(x)), scale, 10 * n, dtype, "solve, sum of low displacement rank")
        F = sm.factorize(A)
        for right in (b, (b + 1j * b[::-1]).astype("complex64" if dtype == "float32" else "complex128")):
            x = host(F.solve(xp.asarray(right, copy=True)))
            scale = np.linalg.norm(D, 2) * np.linalg.norm(x) + np.linalg.norm(right)
            check(np.linalg.norm(right - D @ x), scale, 10 * n, dtype, "factorize, sum of low displacement rank")
        sign, logabs = sm.slogdet(A)
        s, l = np.linalg.slogdet(D)
        check(
            abs(host(sign) - s) + abs(float(host(logabs)) - l), np.linalg.cond(D) ** 2, 100 * n, dtype, "slogdet, sum"
        )
        X = sm.inverse(A)
        assert type(X) is sm.LowDisplacementRank
        check(
            np.linalg.norm(host(X.to_dense()) @ D - np.eye(n)),
            np.linalg.cond(D) ** 2 * n,
            100 * n,
            dtype,
            "inverse, sum",
        )


@pytest.mark.parametrize("dtype", ["float64", "complex128"])
@pytest.mark.parametrize("zeros", [False, True])
def test_gradients(zeros, dtype, rng):
    torch = pytest.importorskip("torch")
    arrays = [torch.asarray(normal(rng, s, dtype)) for s in ((4,), (4, 2), (4, 2), (4, 2))]
    arrays[0] = arrays[0] + 3
    if zeros:
        arrays[0][:2] = 0
    arrays = [a.requires_grad_() for a in arrays]

    def make(d, U, V):
        return sm.Diagonal(d) + sm.LowRank(U, V)

    def toeplitz(b, d, U, V):
        return sm.solve(sm.Toeplitz(d + 0, torch.concat((d[:1], U[1:, 0]))) + sm.LowRank(U, V), b)

    assert zeros or torch.autograd.gradcheck(toeplitz, [arrays[3], *arrays[:3]])
    for f in (lambda b, *a: sm.solve(make(*a), b), lambda b, *a: sm.inverse(make(*a)).to_dense(),
              lambda b, *a: sm.slogdet(make(*a)).logabsdet):  # fmt: skip
        assert torch.autograd.gradcheck(f, [arrays[3], *arrays[:3]])


def test_the_factorization_is_remembered(rng, monkeypatch):
    from sepmat.linalg import solve

    n, count = 30, [0]
    rule = solve.rules[sm.Diagonal]
    A = sm.Diagonal(2 + rng.random(n)) + sm.LowRank(rng.standard_normal((n, 4)), rng.standard_normal((n, 4)))

    def counting(D, b):
        count[0] += b.shape[1]
        return rule(D, b)

    monkeypatch.setitem(solve.rules, sm.Diagonal, counting)
    sm.solve(A, np.ones(n))
    first = count[0]
    F = sm.factorize(A)
    assert count[0] == first
    F.solve(np.ones(n))
    assert count[0] - first <= 3 < first  # the formula once and one or two steps of refinement
