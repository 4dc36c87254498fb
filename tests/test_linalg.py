"""solve, inverse, slogdet, trace, diagonal, norm, eigvals, svdvals: values against dense oracles with the bounds
B12 to B22, and for every class without a rule an UnsupportedError that names two ways out."""

import functools
import itertools
import math
import re

import numpy as np
import pytest
import reference as ref
from cases import BY_NAME, CASES, circulant, diag, normal
from conftest import check, dtype_of, host
from test_contract import DTYPES, Built, built

import sepmat as sm
from sepmat._bounds import BOUNDS

ALL = {"solve", "inverse", "slogdet", "trace", "diagonal", "norm", "eigvals", "svdvals"}
RULES = {
    sm.Dense: ALL,
    sm.Diagonal: ALL,
    sm.Identity: ALL,
    sm.LowRank: ALL,
    sm.Kronecker: ALL,
    sm.KroneckerSum: ALL - {"svdvals"},
    sm.Separated: {"trace", "diagonal", "norm"},
    sm.Circulant: ALL,
    sm.SkewCirculant: ALL,
    sm.Toeplitz: ALL - {"eigvals", "svdvals"},
    sm.Hankel: ALL - {"eigvals", "svdvals"},
    sm.LowDisplacementRank: ALL - {"eigvals", "svdvals"},
    sm.MultilevelCirculant: ALL,
    sm.MultilevelToeplitz: {"trace", "diagonal", "norm"},
    sm.Sum: {"solve", "inverse", "slogdet", "trace", "diagonal"},
}
SQUARE_ONLY = {"solve", "inverse", "slogdet", "eigvals"}
NAMED = [
    c for c in CASES if c.kind in RULES and "structures" not in c.name and not (c.kind is sm.Sum and "@" in c.name)
]


def size(b):
    """K, the sum of the sizes that sums run over."""
    return sum(sum(s) for s in b.case.shapes) + sum(b.A.shape) + 1


def run(b, function, *args):
    """The function of b.A, or None where this class has no rule: then the refusal is checked."""
    f = getattr(sm, function)
    (m, n), kind = b.A.shape, b.case.kind
    if m != n and function in SQUARE_ONLY:
        with pytest.raises(
            sm.ShapeError, match=f"{function}: A: {m}×{n}; expected a square matrix. Use (sm|numpy.linalg).lstsq"
        ):
            f(b.A, *args)
        return None
    single = kind is sm.Separated and b.A.terms <= 1 and function in SQUARE_ONLY
    corner = kind in (sm.Circulant, sm.SkewCirculant) and m != n and function == "svdvals"
    other = kind is sm.Sum and function in SQUARE_ONLY and not woodbury(b.A)
    if (function not in RULES[kind] or corner or other) and not single:
        refused(lambda: f(b.A, *args), function)
        return None
    factors = b.case.shapes if kind is sm.Kronecker else b.A.shapes if single and b.A.terms else ()
    if function == "eigvals" and any(r != c for r, c in factors):
        refused(lambda: f(b.A, *args), function)
        return None
    return f(b.A, *args)


def woodbury(A):
    """Whether a sum is low rank plus one term with a rule."""
    rest = [B for B in A.terms if type(B) is not sm.LowRank]
    return len(rest) == 1 < len(A.terms) and type(rest[0]) in sm.solve.rules


def refused(call, function):
    """UnsupportedError, with the class and two ways out."""
    with pytest.raises(sm.UnsupportedError) as caught:
        call()
    where, _, _, _, advice = caught.value.args
    assert where == function
    ways = re.split(r", or | and ", advice)
    assert len(ways) == 2 and re.match("Use |Read ", advice), advice
    assert isinstance(caught.value, NotImplementedError)


def deficient(b):
    """Whether the structure alone makes a square matrix singular."""
    D = b.o.D
    return len(D) > 0 and np.linalg.matrix_rank(D.astype(complex)) < len(D)


def numbers(b):
    """D in double precision, ‖G‖₂, κ₂(D)"""
    D = np.asarray(b.o.D, complex)
    return D, ref.spectral(b.o.G), np.linalg.cond(D) if D.size else 1.0


def every(test):
    return pytest.mark.parametrize("backend", DTYPES)(pytest.mark.parametrize("case", NAMED, ids=str)(test))


def each(case, backend):
    for dtype in DTYPES[backend]:
        yield built(case, backend, dtype)


def real(dtype):
    return {"complex64": "float32", "complex128": "float64"}.get(dtype, dtype)


# --- solve, inverse, slogdet -------------------------------------------------------------------------------------------------


@every
def test_solve(case, backend):
    """Residuals free of the condition: B12 (circulant), B15 (Kronecker), B16 (Kronecker sum), LAPACK's for the others."""
    for b in each(case, backend):
        n = b.A.shape[0]
        right, rn = b.draw(n, 2)
        direct = "solve" in RULES[case.kind] or (case.kind is sm.Separated and b.A.terms <= 1)
        if direct and n == b.A.shape[1] and deficient(b):
            for f in (lambda: sm.solve(b.A, right), lambda: sm.inverse(b.A)):  # noqa: B023
                with pytest.raises(sm.SingularMatrixError, match="rcond"):
                    f()
            continue
        x = run(b, "solve", right)
        if x is None:
            continue
        for right_hand, shape in ((rn, (n, 2)), (rn[:, 0], (n,)), (rn[:, :0], (n, 0))):
            x = sm.solve(b.A, b.xp.asarray(right_hand, copy=True))
            assert tuple(x.shape) == shape and dtype_of(x) == b.dtype
            residual(b, x, right_hand, "random b")
        x0 = normal(b.rng, (n, 2), b.dtype)
        right_hand = (b.o.D @ x0).astype(b.dtype)  # b = A x0 shows what random b hides
        residual(b, sm.solve(b.A, b.xp.asarray(right_hand, copy=True)), right_hand, "b = A x0")


def residual(b, x, right, how):
    x, n = host(x), b.A.shape[0]
    kind = b.case.kind
    if kind is sm.LowDisplacementRank:  # its terms may cancel, further than extended precision reaches
        difference = ref.residual_of_displacement(right, *b.data, x)
    else:
        difference = (right - b.o.D @ x).astype(complex)
    error, length = np.linalg.norm(difference, axis=0), np.linalg.norm(x, axis=0)
    if kind in (sm.Circulant, sm.SkewCirculant, sm.MultilevelCirculant):
        frobenius = math.sqrt(n) * np.linalg.norm(b.data[0]) if n else 0.0
        check(error, frobenius * length, BOUNDS["B12"](n), b.dtype, "B12 circulant solve")
    elif kind is sm.KroneckerSum:
        sizes = [len(F) for F in b.data]
        scale = sum(np.linalg.norm(F) for F in b.data)
        check(error, scale * length, BOUNDS["B16"](sum(sizes)), b.dtype, f"B16 Kronecker sum solve, {how}")
    elif kind in (sm.Toeplitz, sm.Hankel, sm.LowDisplacementRank):  # b of a float32 matrix is rounded when it is A x0
        scale = ref.spectral(b.o.D) * length + (n > 0) * np.linalg.norm(right, axis=0) / 30 / max(n, 1)
        check(error, scale, BOUNDS["B14"](n), b.dtype, f"B14 solve by displacement, {how}")
    else:
        K = sum(s[-1] for s in b.case.shapes)
        # of rounded entries only: b itself is rounded when it is A x0
        scale = ref.spectral(b.o.G) if kind is sm.LowRank else ref.spectral(b.o.D)
        check(
            error,
            scale * length + (n > 0) * np.linalg.norm(right, axis=0),
            BOUNDS["B15"](K),
            b.dtype,
            f"B15 solve, {how}",
        )


INVERSES = {
    sm.Separated: sm.Kronecker,
    sm.LowRank: sm.Dense,
    sm.KroneckerSum: sm.Inverse,
    sm.Toeplitz: sm.LowDisplacementRank,
    sm.Hankel: sm.Product,
}


@every
def test_inverse(case, backend):
    for b in each(case, backend):
        if b.A.shape[0] == b.A.shape[1] and deficient(b):
            continue
        X = run(b, "inverse")
        if X is None:
            continue
        assert type(X) is INVERSES.get(case.kind, case.kind) and dtype_of(X) == b.dtype and X.shape == b.A.shape
        D, norm, kappa = numbers(b)
        n = len(D)
        limit = 30 * size(b) + 40 * ref.log2(n)
        scale = kappa * max(1.0, norm / max(ref.spectral(D), 1e-300)) * math.sqrt(n)
        check(np.linalg.norm(host(X.to_dense()) @ D - np.eye(n)), scale, limit, b.dtype, "inverse")
        x, xn = b.draw(n)
        check(np.linalg.norm(host(X @ (b.A @ x)) - xn), scale * np.linalg.norm(xn), limit, b.dtype, "inverse @ A x")


@every
def test_slogdet(case, backend):
    """B21; the sign of a real matrix is exact."""
    for b in each(case, backend):
        result = run(b, "slogdet")
        if result is None:
            continue
        sign, logabs = result
        assert dtype_of(sign) == b.dtype and dtype_of(logabs) == real(b.dtype)
        assert sign.shape == logabs.shape == ()
        n = b.A.shape[0]
        if deficient(b):
            if case.kind in (sm.LowRank, sm.Kronecker, sm.Separated):
                assert host(sign) == 0 and host(logabs) == -np.inf
            continue
        s, l = ref.slogdet(b.o.D)
        _, _, kappa = numbers(b)
        scale = (
            sum(n / f[0] * f[0] ** 2 for f in case.shapes if f[0]) * kappa
            if case.kind is sm.Kronecker
            else n * n * kappa
        )
        check(abs(float(host(logabs)) - float(l)), scale, BOUNDS["B21"](), b.dtype, "B21 log|det|")
        if b.complex:
            check(abs(complex(host(sign)) - complex(s)), scale, BOUNDS["B21"](), b.dtype, "B21 sign")
        else:
            assert float(host(sign)) == float(s)


# --- trace, diagonal, norms ---------------------------------------------------------------------------------------------------


@every
def test_trace_and_diagonal(case, backend):
    for b in each(case, backend):
        k = min(b.A.shape)
        d, t = run(b, "diagonal"), run(b, "trace")
        E = np.diagonal(b.o.E)
        b.same(d, np.diagonal(b.o.D), E, name="diagonal")
        assert t.shape == () and dtype_of(t) == b.dtype
        check(abs(host(t) - np.trace(b.o.D)), np.sum(E) + 3 * k * np.trace(b.o.G), 1.01, b.dtype, "trace")
        if case.kind in (sm.Circulant, sm.SkewCirculant, sm.Toeplitz, sm.Hankel, sm.Diagonal, sm.Dense,
                         sm.MultilevelCirculant, sm.MultilevelToeplitz):  # fmt: skip
            np.testing.assert_array_equal(host(d), np.diagonal(b.o.D).astype(b.dtype))


ORDERS = {
    sm.Dense: ("fro", 1, np.inf, 2, "nuc"),
    sm.Diagonal: ("fro", 1, np.inf, 2, "nuc"),
    sm.Identity: ("fro", 1, np.inf, 2, "nuc"),
    sm.LowRank: ("fro", 2, "nuc"),
    sm.Kronecker: ("fro", 1, np.inf, 2, "nuc"),
    sm.KroneckerSum: ("fro",),
    sm.Separated: ("fro",),
    sm.Circulant: ("fro", 1, np.inf, 2, "nuc"),
    sm.SkewCirculant: ("fro", 1, np.inf, 2, "nuc"),
    sm.Toeplitz: ("fro", 1, np.inf),
    sm.Hankel: ("fro", 1, np.inf),
    sm.LowDisplacementRank: ("fro",),
    sm.MultilevelCirculant: ("fro", 1, np.inf, 2, "nuc"),
    sm.MultilevelToeplitz: ("fro",),
}


SUMS = (sm.LowRank, sm.Separated, sm.LowDisplacementRank)  # terms may cancel: errors are relative to them


def dense_norm(D, ord):
    return ref.frobenius(D) if ord == "fro" else np.linalg.norm(np.asarray(D, complex), ord) if D.size else 0.0


@pytest.mark.parametrize("backend", DTYPES)
@pytest.mark.parametrize("case", [c for c in NAMED if c.kind in ORDERS], ids=str)
def test_norm(case, backend):
    for b in each(case, backend):
        corner = case.kind in (sm.Circulant, sm.SkewCirculant) and b.A.shape[0] != b.A.shape[1]
        for ord in ("fro", 1, np.inf, 2, "nuc"):
            if ord not in ORDERS[case.kind] or (corner and ord in (2, "nuc")):
                refused(lambda: sm.norm(b.A, ord), "norm")  # noqa: B023
                continue
            found = sm.norm(b.A, ord)
            assert found.shape == () and dtype_of(found) == real(b.dtype)
            # sums of norms of terms where terms cancel (LowRank, Separated), else the norm itself
            scale = dense_norm(b.o.G if case.kind in SUMS else b.o.D, ord)
            check(abs(float(host(found)) - float(dense_norm(b.o.D, ord))), scale, 30 * size(b), b.dtype, f"norm {ord}")
        assert float(host(sm.norm(b.A))) == float(host(sm.norm(b.A, ord="fro")))


# --- spectra ------------------------------------------------------------------------------------------------------------------


@every
def test_svdvals(case, backend):
    """B22: |σ̂ - σ| <= 30 K u ‖A‖; largest first, min(m, n) of them, padded with zeros."""
    for b in each(case, backend):
        s = run(b, "svdvals")
        if s is None:
            continue
        k = min(b.A.shape)
        assert tuple(s.shape) == (k,) and dtype_of(s) == real(b.dtype)
        found = host(s)
        assert np.all(found[:-1] >= found[1:]) and np.all(found >= 0)
        D, norm, _ = numbers(b)
        expected = np.linalg.svd(D, compute_uv=False) if k else np.zeros(0)
        check(np.abs(found - expected), norm, BOUNDS["B22"](size(b)), b.dtype, "B22 singular values")


@every
def test_eigvals(case, backend):
    """Bauer-Fike on a backward error of 30 K u ‖A‖: the condition of the eigenvectors enters, 1 for normal matrices."""
    for b in each(case, backend):
        values = run(b, "eigvals")
        if values is None:
            continue
        n = b.A.shape[0]
        assert tuple(values.shape) == (n,) and dtype_of(values).startswith("complex")
        assert (dtype_of(values) == "complex64") == (real(b.dtype) == "float32")
        D, norm, _ = numbers(b)
        if deficient(b) and case.kind is sm.LowRank and b.A.rank < n - 1:
            np.testing.assert_array_equal(np.sort(abs(host(values)))[: n - b.A.rank], 0)
        w, V = np.linalg.eig(D) if n else (np.zeros(0), np.eye(0))
        kappa = np.linalg.cond(V) if n else 1.0
        if not kappa < 1e3:  # a multiple eigenvalue: the trace is all that is well conditioned
            check(abs(host(values).sum() - np.trace(D)), n * norm, 30 * size(b), b.dtype)
            continue
        check(ref.match(host(values), w), norm * kappa, 30 * size(b), b.dtype, "eigenvalues")


# --- nodes ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", DTYPES)
def test_rules_of_scaled_and_products(backend):
    for dtype in DTYPES[backend]:
        a, d = Built(circulant(sm.SkewCirculant, 5, 5), backend, dtype), Built(diag(5), backend, dtype)
        C, D = np.asarray(a.o.D, complex), np.asarray(d.o.D, complex)
        S = sm.Scaled._of(scale=a.xp.asarray(-2.5, dtype=a.A.dtype), matrix=a.A)
        P = a.A @ d.A
        x, xn = a.draw(5)
        for A, dense, kappa in ((S, -2.5 * C, np.linalg.cond(C)), (P, C @ D, np.linalg.cond(C) * np.linalg.cond(D))):
            solution = host(sm.solve(A, x))
            exact = np.linalg.solve(dense, xn)
            scale = kappa * np.linalg.norm(exact)
            check(np.linalg.norm(solution - exact), scale, 500, dtype, "nodes: solve")
            check(np.linalg.norm(host(sm.inverse(A) @ x) - exact), scale, 500, dtype, "nodes: inverse")
            sign, logabs = sm.slogdet(A)
            s, l = np.linalg.slogdet(dense)
            check(abs(host(sign) - s) + abs(host(logabs) - l), kappa, 500, dtype, "nodes: slogdet")
        check(ref.match(host(sm.eigvals(S)), np.linalg.eigvals(-2.5 * C)), np.linalg.norm(C), 300, dtype)
        check(abs(host(sm.svdvals(S)) - 2.5 * np.linalg.svd(C, compute_uv=False)), np.linalg.norm(C), 300, dtype)
        for ord in ("fro", 1, np.inf, 2):
            check(abs(host(sm.norm(S, ord)) - 2.5 * np.linalg.norm(C, ord)), np.linalg.norm(C), 300, dtype)
        with pytest.raises(sm.SingularMatrixError):
            sm.solve(sm.Scaled._of(scale=a.xp.asarray(0.0, dtype=a.A.dtype), matrix=a.A), x)
        for f in (sm.svdvals, sm.eigvals, sm.norm):
            refused(lambda: f(P), f.__name__)  # noqa: B023
        total = a.A + d.A
        refused(lambda: sm.solve(total, x), "solve")  # noqa: B023


def test_no_class_is_forgotten():
    """Every class with a rule of any function is in the table above, with exactly the functions it has."""
    table = {f: set(getattr(sm, f).rules) for f in ALL}
    for cls in set().union(*table.values()) - {sm.Scaled, sm.Product, sm.Separated}:
        if cls in RULES:
            assert {f for f in ALL if cls in table[f]} == RULES[cls], cls
    refused(lambda: sm.lstsq(sm.MultilevelToeplitz(np.ones((3, 3))), np.ones(4)), "lstsq")
    refused(lambda: sm.factorize(sm.MultilevelToeplitz(np.ones((3, 3)))), "factorize")


# --- singular and ill-conditioned ------------------------------------------------------------------------------------------------


def singular_matrices(xp, dtype):
    """(name, matrix): exactly singular, or singular to the precision."""

    def arr(x):
        return xp.asarray(np.asarray(x, dtype))

    three = [[1, 2, 3], [4, 5, 6], [7, 8, 9]]
    good = [[2.0, 1.0], [0.0, 1.0]]
    u = 2.0**-24 if dtype == "float32" else 2.0**-53
    yield "dense zero", sm.Dense(arr(np.zeros((3, 3))))
    yield "dense 123", sm.Dense(arr(three))
    yield "diagonal", sm.Diagonal(arr([1.0, 0.0]))
    yield "low rank", sm.LowRank(arr(np.ones((3, 2))), arr(np.ones((3, 2))))
    yield "Kronecker 123", sm.Kronecker(arr(good), arr(three))
    yield "Kronecker zero", sm.Kronecker(arr(np.zeros((2, 2))), arr(good))
    yield "Kronecker rectangular", sm.Kronecker(arr(np.ones((2, 3))), arr(np.ones((3, 2))))
    yield "circulant", sm.Circulant(arr([1.0, -1.0]))
    yield "circulant zero", sm.Circulant(arr(np.zeros(4)))
    yield "circulant to the precision", sm.Circulant(arr([1.0, 1.0 - u, 0.0, 0.0]) + 0 * arr([1.0, 0, 0, 0]))
    yield "skew", sm.SkewCirculant(arr(np.zeros(3)))
    yield "one term", sm.Separated([arr([three]), arr([good])])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_singular_matrices(xp, dtype):
    for name, A in singular_matrices(xp, dtype):
        b = xp.asarray(np.ones(A.shape[0], dtype))
        for call in (lambda: sm.solve(A, b), lambda: sm.inverse(A)):  # noqa: B023
            with pytest.raises(sm.SingularMatrixError, match=r"rcond|singular") as e:
                call()
            assert isinstance(e.value, np.linalg.LinAlgError) and "lstsq(" in str(e.value), name
        sign, logabs = sm.slogdet(A)
        assert float(logabs) < -8 or float(sign) == 0, name


def test_singular_factor_is_named():
    three = [[1.0, 2, 3], [4, 5, 6], [7, 8, 9]]
    with pytest.raises(sm.SingularMatrixError, match=r"solve: A\.factors\[1\]: .*rcond"):
        sm.solve(sm.Kronecker(np.eye(2), three), np.ones(6))
    with pytest.raises(sm.SingularMatrixError, match=r"rank <= 4 < 6"):
        sm.solve(sm.Kronecker(np.ones((2, 3)), np.ones((3, 2))), np.ones(6))
    with pytest.raises(sm.SingularMatrixError):  # λ_i + μ_j = 0
        sm.solve(sm.KroneckerSum(np.diag([1.0, 2.0]), np.diag([-1.0, 5.0])), np.ones(4))


def test_graded_diagonals_are_not_singular():
    """A diagonal system is exact entry by entry, whatever its condition."""
    d = np.array([1e-300, 1.0, 1e300])
    np.testing.assert_array_equal(sm.solve(sm.Diagonal(d), d), 1.0)
    assert np.isclose(float(sm.slogdet(sm.Diagonal(d)).logabsdet), 0)


@pytest.mark.parametrize("kappa", [1e1, 1e4, 1e8, 1e12])
def test_kronecker_solve_is_backward_stable(kappa):
    """B15 at any condition of the factors; inverses instead of solves would fail here by a factor of 1e4."""
    rng = np.random.default_rng(int(kappa))
    for _ in range(5):
        factors = [conditioned(rng, n, kappa) for n in (4, 3, 5)]
        K = sm.Kronecker(*factors)
        D = ref.kronecker(*map(ref.wide, factors))
        x0 = rng.standard_normal(60)
        b = (D @ x0).astype(float)
        x = sm.solve(K, b)
        scale = math.prod(np.linalg.norm(F, 2) for F in factors) * np.linalg.norm(x)
        check(np.linalg.norm((b - D @ x).astype(float)), scale, BOUNDS["B15"](12), "float64", "B15 at any condition")


@pytest.mark.parametrize("scale", [1.0, 1e-100])
@pytest.mark.parametrize("columns", [1, 5, 16, 70])
@pytest.mark.parametrize("sizes", [(2, 66, 3), (65, 64), (1, 17, 1)])
def test_kronecker_solve_in_every_layout(xp, sizes, columns, scale):
    """B15 with pivots, for few and many columns: stacks turned side by side, solved where they lie, or by getrs."""
    rng = np.random.default_rng(columns)
    for dtype in ("float64", "complex128"):
        factors = [scale ** (i == 0) * normal(rng, (n, n), dtype) for i, n in enumerate(sizes)]
        b = normal(rng, (math.prod(sizes), columns), dtype)
        K = sm.Kronecker(*map(xp.asarray, factors))
        for solve in (lambda c: sm.solve(K, c), sm.factorize(K).solve):  # noqa: B023
            right = xp.asarray(b, copy=True)
            x = host(solve(right))
            np.testing.assert_array_equal(host(right), b)  # b is not written to
            product = ref.wide(x).reshape(*sizes, columns)
            for i, F in enumerate(factors):
                product = np.moveaxis(np.tensordot(ref.wide(F), product, (1, i)), 0, i)
            difference = (b - product.reshape(b.shape)).astype(complex)
            bound = math.prod(np.linalg.norm(F, 2) for F in factors) * np.linalg.norm(x, axis=0)
            check(np.linalg.norm(difference, axis=0), bound, BOUNDS["B15"](sum(sizes)), dtype, "B15 in every layout")


@pytest.mark.parametrize(
    "powers, right", [((-905, 601), -600), ((-600, 230), 500), ((907, -600, -300), 0), ((602, -600, -905), -900)]
)
def test_kronecker_solve_of_factors_far_from_one(xp, powers, right):
    """What one factor takes out of the range, and the others bring back: exactly that of the factors near 1."""
    rng = np.random.default_rng(7)
    factors = [normal(rng, (n, n), "float64") for n in (2, 3, 2)[: len(powers)]]
    b = normal(rng, (math.prod(len(F) for F in factors), 3), "float64")
    plain = sm.Kronecker(*map(xp.asarray, factors))
    K = sm.Kronecker(*(xp.asarray(F * 2.0**k) for F, k in zip(factors, powers, strict=True)))
    c = xp.asarray(b * 2.0**right)
    for name, solve in {
        "solve": sm.solve,
        "factorize": lambda K, c: sm.factorize(K).solve(c),
        "lstsq": sm.lstsq,
    }.items():
        x = ref.wide(host(solve(K, c))) * np.longdouble(2) ** (sum(powers) - right)
        expected = host(solve(plain, xp.asarray(b)))
        kappa = np.linalg.cond(functools.reduce(np.kron, factors))
        check(ref.frobenius(x - expected), ref.frobenius(expected) * kappa, 60, "float64", name)


@pytest.mark.parametrize("kappa", [1e1, 1e4, 1e8, 1e12])
@pytest.mark.parametrize("n", [8, 13, 64, 100, 127])
def test_circulant_solve(kappa, n):
    """B12 and B13: the residual knows no condition, the forward error κ₂ ‖C‖_F/‖C‖₂."""
    rng = np.random.default_rng(n)
    eigenvalues = np.geomspace(1, 1 / kappa, n // 2 + 1) * np.exp(2j * np.pi * rng.random(n // 2 + 1))
    eigenvalues[0] = abs(eigenvalues[0])
    if n % 2 == 0:
        eigenvalues[-1] = abs(eigenvalues[-1])
    c = np.fft.irfft(eigenvalues, n)
    D = ref.circulant(ref.wide(c))
    x0 = rng.standard_normal(n)
    b = (D @ x0).astype(float)
    x = sm.solve(sm.Circulant(c), b)
    frobenius, two = float(ref.frobenius(D)), abs(np.fft.fft(c)).max()
    error = np.linalg.norm((b - D @ x).astype(float))
    check(error, frobenius * np.linalg.norm(x), BOUNDS["B12"](n), "float64", "B12")
    true_kappa = two / abs(np.fft.fft(c)).min()
    error = np.linalg.norm(x - x0) / np.linalg.norm(x0)
    check(error, true_kappa * frobenius / two, BOUNDS["B13"](n) + 1, "float64", "B13")


def conditioned(rng, n, kappa):
    Q, P = (np.linalg.qr(rng.standard_normal((n, n)))[0] for _ in range(2))
    return Q * np.geomspace(1, 1 / kappa, n) @ P


def test_separated_norm_under_cancellation():
    """B8: ‖A‖_F by the QR sweep keeps the digits that κ leaves; a Gram matrix would lose all of them at κ = 1e8."""
    rng = np.random.default_rng(0)
    for kappa in (1e0, 1e4, 1e8, 1e12):
        U = [rng.standard_normal((1, 3, 3)) for _ in range(3)]
        W = [rng.standard_normal((1, 3, 3)) for _ in range(3)]
        factors = [np.concatenate((u, u, w)) for u, w in zip(U, W, strict=True)]
        scales = np.array([kappa, -kappa, 1.0]) / math.prod(np.linalg.norm(u) for u in U)
        S = sm.Separated(factors, scales)
        exact = math.prod(np.linalg.norm(w) for w in W) * scales[2]
        weight = np.linalg.norm([kappa, kappa, exact])
        bound = BOUNDS["B8"](3, 3)
        check(abs(float(sm.norm(S)) - exact), weight, bound, "float64", "B8 norm by the QR sweep")
        found = S.condition_number
        check(abs(weight / found - exact), weight, bound, "float64", "B8 condition number")


# --- range of the numbers -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scales", list(itertools.permutations((1e200, 1e-200, 1.0))))
def test_scales_that_cancel(scales):
    """Factors of 1e±200: what overflows or underflows on the way must not show in a result that is in range."""
    rng = np.random.default_rng(1)
    plain = [rng.standard_normal((2, 2)) for _ in range(3)]
    factors = [s * F for s, F in zip(scales, plain, strict=True)]
    x = rng.standard_normal(8)
    S = sm.Separated([F[None] for F in factors])
    for A, B in ((sm.Kronecker(*factors), sm.Kronecker(*plain)), (S, sm.Separated([F[None] for F in plain]))):
        for f in (lambda M: M @ x, lambda M: M.T.apply(x), lambda M: M.to_dense(), sm.norm, sm.trace, sm.diagonal,
                  lambda M: M[3, 5], lambda M: sm.solve(M, x), lambda M: sm.inverse(M) @ x, lambda M: sm.slogdet(M)[0],
                  lambda M: 2 * M @ x, lambda M: (M + M) @ x):  # fmt: skip
            np.testing.assert_allclose(f(A), f(B), rtol=1e-11, atol=1e-13)
    K = sm.Kronecker(*factors)
    for f in (sm.svdvals, lambda M: np.sort_complex(sm.eigvals(M)), lambda M: sm.norm(M, 1), lambda M: sm.norm(M, 2)):
        np.testing.assert_allclose(f(K), f(sm.Kronecker(*plain)), rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("cls", [sm.Circulant, sm.SkewCirculant, sm.Toeplitz, sm.Hankel])
@pytest.mark.parametrize("scale", [2.0**1020, 2.0**-1060, 2.0**500, 2.0**-500])
def test_extreme_spectra(cls, scale):
    """A scaling by a power of two passes through the FFT unharmed, to the edges of the range."""
    rng = np.random.default_rng(2)
    c, x = np.round(rng.standard_normal(8) * 64) / 64, np.round(rng.standard_normal(8) * 64) / 64
    y = cls(c * scale) @ (x * 2.0**-9)
    np.testing.assert_allclose(y / scale, cls(c) @ x * 2.0**-9, rtol=1e-13, atol=1e-14 if scale > 1e-300 else 1e-3)
    if cls in (sm.Circulant, sm.SkewCirculant):
        np.testing.assert_allclose(
            sm.solve(cls(c * scale), x * scale), sm.solve(cls(c), x), rtol=1e-11 if scale > 1e-300 else 1e-2
        )


# --- gradients --------------------------------------------------------------------------------------------------------------------

DIFFERENTIABLE = ["Dense 4x4", "Diagonal 5", "Kronecker 3x3.2x2", "KroneckerSum 3x3.2x2", "Circulant 5x5", "Circulant 8x8",
                  "SkewCirculant 5x5", "SkewCirculant 8x8", "Separated 3 x 2x3.4x2 scaled", "Separated 2 x 3x3.2x2",
                  "LowRank 4x4 rank 2", "Toeplitz 3x7", "Hankel 7x4", "MultilevelCirculant 3x4",
                  "MultilevelToeplitz 3x2.2x4"]  # fmt: skip


@pytest.mark.parametrize("dtype", ["float64", "complex128"])
@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_gradients(name, dtype):
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(6)
    case = BY_NAME[name]
    arrays = [torch.asarray(a).requires_grad_() for a in case.data(rng, dtype)]
    A = case.make(*arrays)
    b = torch.asarray(normal(rng, (A.shape[0], 2), dtype)).requires_grad_()
    functions = {
        "solve": lambda A: sm.solve(A, b),
        "inverse": lambda A: sm.inverse(A).to_dense(),
        "slogdet": lambda A: sm.slogdet(A).logabsdet,
        "trace": sm.trace,
        "diagonal": sm.diagonal,
        "norm": sm.norm,
        "svdvals": sm.svdvals,
    }
    checked = 0
    for function, f in functions.items():
        try:
            f(A)
        except (sm.UnsupportedError, sm.ShapeError, sm.SingularMatrixError):
            continue
        if function == "svdvals" and case.kind in (sm.LowRank, sm.Circulant, sm.SkewCirculant, sm.MultilevelCirculant):
            continue  # zero or double singular values have no derivative
        if function == "slogdet" and case.kind is sm.LowRank:
            continue
        assert torch.autograd.gradcheck(lambda *arrays: f(case.make(*arrays)), arrays), function  # noqa: B023
        checked += 1
    assert checked >= 3


def test_low_rank_says_who_refuses_and_why():
    """The function that was called, the rank, and for 16-bit numbers the dtype to use."""
    rng = np.random.default_rng(0)
    A = sm.LowRank(rng.standard_normal((4, 2)), rng.standard_normal((4, 2)))
    for name, call in (("solve", lambda: sm.solve(A, np.ones(4))), ("inverse", lambda: sm.inverse(A))):
        with pytest.raises(sm.SingularMatrixError, match=rf"^{name}: A: .*rank 2 < 4"):
            call()
    torch = pytest.importorskip("torch")
    half = sm.LowRank(*(torch.ones(4, 2, dtype=torch.float16) for _ in range(2)))
    for name in ("norm", "svdvals"):
        with pytest.raises(sm.DTypeError, match=rf"^{name}: A: .*float16.*float32"):
            getattr(sm, name)(half)


def test_kronecker_products_of_extreme_factors_and_of_lists():
    """Exponents that only cancel in the product; nested lists as factors; a diagonal too large to store names itself."""
    factors = [1e200 * np.eye(2), 1e200 * np.eye(3), 1e-300 * np.eye(2)]
    K = sm.Kronecker(*factors)
    assert float(sm.trace(K)) == pytest.approx(12e100, rel=1e-14)
    np.testing.assert_allclose(sm.diagonal(K), 1e100, rtol=1e-14)
    wide, tall = np.arange(1.0, 7).reshape(2, 3), np.arange(2.0, 8).reshape(3, 2)
    K = sm.Kronecker(1e200 * wide, 1e200 * tall, 1e-300 * np.eye(2))
    expected = np.diagonal(np.kron(np.kron(wide, tall), np.eye(2))) * 1e100
    np.testing.assert_allclose(sm.diagonal(K), expected, rtol=1e-14)
    K = sm.Kronecker(1e150 * wide, 1e150 * tall)  # 1e301: more than the factors may share, and less than overflows
    np.testing.assert_allclose(sm.diagonal(K), np.diagonal(np.kron(wide, tall)) * 1e300, rtol=1e-14)
    np.testing.assert_array_equal(sm.Kronecker([[1, 2], [3, 4]]).to_dense(), [[1, 2], [3, 4]])
    K = sm.Kronecker([[1, 2], [3, 4]], ((0.5,), (2.0,)))
    np.testing.assert_array_equal(K.to_dense(), np.kron([[1, 2], [3, 4]], [[0.5], [2.0]]))
    with pytest.raises(sm.SizeLimitError, match=r"^diagonal: "):
        sm.diagonal(sm.Kronecker(*[np.eye(1000)] * 4))


def test_dense_and_diagonal_say_who_refuses():
    with pytest.raises(sm.ShapeError, match=r"^Diagonal: d: shape \(2, 2\)"):
        sm.Diagonal(np.eye(2))
    with pytest.raises(sm.SingularMatrixError, match=r"^inverse: A \(dense 2×2\): "):
        sm.inverse(sm.Dense(np.ones((2, 2))))


@pytest.mark.parametrize("kind", [sm.Circulant, sm.SkewCirculant])
def test_a_toeplitz_matrix_needs_a_corner_entry(kind):
    """Corners without rows or without columns have no entry to store; the empty matrix has nothing to lose."""
    for shape in ((0, 3), (3, 0)):
        with pytest.raises(
            sm.UnsupportedError, match=rf"^convert: A: {kind.__name__}\({shape[0]}×{shape[1]}\) without entries"
        ):
            sm.convert(kind(np.zeros(3), shape=shape), sm.Toeplitz)
    assert sm.convert(kind(np.zeros(0), shape=(0, 0)), sm.Toeplitz).shape == (0, 0)
