"""f(2^j A, 2^k b) is 2^i f(A, b) bit for bit, up to the edges of the dtype: no rounding and no branch depends on the units."""

import numpy as np
import pytest
from cases import CASES

import sepmat as sm

# what it is of (A, b), and the degrees in A and in b
FUNCTIONS = {
    "matmul": (lambda A, b: A @ b, 1, 1),
    "norm": (lambda A, b: sm.norm(A), 1, 0),
    "to_dense": (lambda A, b: A.to_dense(), 1, 0),
    "trace": (lambda A, b: sm.trace(A), 1, 0),
    "diagonal": (lambda A, b: sm.diagonal(A), 1, 0),
    "svdvals": (lambda A, b: sm.svdvals(A), 1, 0),
    "solve": (lambda A, b: sm.solve(A, b), -1, 1),
    "lstsq": (lambda A, b: sm.lstsq(A, b), -1, 1),
    "inverse": (lambda A, b: sm.inverse(A).to_dense(), -1, 0),
    "slogdet": (lambda A, b: sm.slogdet(A).sign, 0, 0),
}
SQUARE = {"trace", "solve", "inverse", "slogdet"}
EDGES = {"float64": ((3, 5), (-300, 200), (900, 60), (-900, -30)), "complex64": ((3, 5), (60, -30), (-60, 30))}
# LAPACK scales large numbers by what is no power of two before their SVD, and the shifts of Schur forms depend on the units
ROUNDED = {("svdvals", sm.StructuredMatrix): 8}  # roundings of the largest entry
ROUNDED |= {(name, sm.KroneckerSum): 64 for name in ("solve", "lstsq", "inverse")}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("dtype", EDGES)
@pytest.mark.parametrize("case", [c for c in CASES if max(max(s, default=0) for s in c.shapes) <= 100], ids=str)
def test_powers_of_two_pass_through(case, dtype):
    rng = np.random.default_rng(0)
    A = case.make(*case.data(rng, dtype))
    for name, (f, in_A, in_b) in FUNCTIONS.items():
        if name in SQUARE and A.shape[0] != A.shape[1]:
            continue
        b = rng.standard_normal((A.shape[1 if name == "matmul" else 0], 2)).astype(A.dtype)
        try:
            expected = np.asarray(f(A, b))
        except sm.SepmatError:  # singular, or no rule
            continue
        allowed = max((r for (g, cls), r in ROUNDED.items() if g == name and isinstance(A, cls)), default=0)
        for j, k in EDGES[dtype]:
            found = np.asarray(f(2.0**j * A, b * A.dtype.type(2.0**k)))
            assert found.dtype == expected.dtype and found.shape == expected.shape
            back = np.asarray(found, np.complex128) * 2.0 ** (-j * in_A) * 2.0 ** (-k * in_b)
            off, size = np.max(np.abs(back - expected), initial=0.0), np.max(np.abs(expected), initial=0.0)
            assert off <= allowed * np.finfo(A.dtype).eps / 2 * size, (name, j, k, off)


@pytest.mark.parametrize("name", ["solve", "factorize", "lstsq"])
@pytest.mark.parametrize(
    "dtype, steps, edge", [("float32", (7, 12, 40, 100), 100), ("float64", (9, 80, 300, 900), 900)]
)
def test_units_pass_from_one_factor_to_another(name, dtype, steps, edge):
    """2^k V ⊗ 2^-k W is V ⊗ W: neither inverse takes b out of the range, wherever b is in it."""
    rng = np.random.default_rng(2)
    V, W = ((rng.standard_normal((6, 6)) + 4 * np.eye(6)).astype(dtype) for _ in range(2))
    b = rng.standard_normal((36, 2)).astype(dtype)
    f = {"solve": sm.solve, "factorize": lambda A, b: sm.factorize(A).solve(b), "lstsq": sm.lstsq}[name]
    expected = f(sm.Kronecker(V, W), b)
    for k in (*steps, *(-k for k in steps)):
        for j in (0, edge, -edge):
            found = f(sm.Kronecker(np.ldexp(V, k), np.ldexp(W, -k)), np.ldexp(b, j))
            assert np.array_equal(found, np.ldexp(expected, j)), (k, j)


def draw(rng, n):
    """A Toeplitz matrix with random diagonals."""
    t = rng.standard_normal(2 * n - 1)
    return t[np.subtract.outer(np.arange(n), np.arange(n)) + n - 1]


def targets():
    rng = np.random.default_rng(1)
    pairs = np.kron(draw(rng, 3), draw(rng, 4))
    yield "pairs", pairs, ((3, 3), (4, 4))
    yield "nearly pairs", pairs + 1e-3 * rng.standard_normal((12, 12)), ((3, 3), (4, 4))
    three = np.kron(np.kron(draw(rng, 3), draw(rng, 2)), draw(rng, 3))
    yield "nearly three", three + 1e-2 * rng.standard_normal((18, 18)), ((3, 3), (2, 2), (3, 3))


FITS = {
    "nearest_kronecker": lambda M, shapes: sm.nearest_kronecker(M, shapes),
    "rank": lambda M, shapes: sm.nearest_separated(M, shapes, rank=2, max_condition=5),
    "tolerance": lambda M, shapes: sm.nearest_separated(M, shapes, tol=0.05),
    "displacement": lambda M, shapes: sm.nearest_displacement(M, rank=3),
    "compress": lambda M, shapes: sm.compress(sm.nearest_separated(M, shapes, rank=3).matrix, rank=2, max_condition=5),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", FITS)
@pytest.mark.parametrize("kind, M, shapes", list(targets()), ids=lambda x: x if isinstance(x, str) else "")
def test_fits_do_not_depend_on_the_units(name, kind, M, shapes):
    """The same classes, ranks and steps, and the same numbers to a few roundings."""
    if name == "nearest_kronecker" and len(shapes) > 2:
        return
    fit = FITS[name](M, shapes)
    for k in (-40, 60):
        other = FITS[name](M * 2.0**k, shapes)
        kinds = [[type(F) for F in getattr(A, "operators", ())] for A in (fit.matrix, other.matrix)]
        assert type(other.matrix) is type(fit.matrix) and kinds[0] == kinds[1]
        found, expected = other.matrix.to_dense() * 2.0**-k, fit.matrix.to_dense()
        assert np.max(np.abs(found - expected)) <= 2.0**-44 * np.max(np.abs(expected))
        assert abs(other.relative_error - fit.relative_error) <= 2.0**-44
        assert (other.condition_number or 0) == pytest.approx(fit.condition_number or 0, rel=1e-12)
        for field in ("num_parameters", "converged", "iterations", "optimal"):
            assert getattr(other, field) == getattr(fit, field), field
