"""What other libraries got wrong in silence, or refused with an error that names no cause: here each is right, or refused clearly.

The wrong answers were measured on NumPy, SciPy, torch, PyLops, CoLA, pykronecker, linear_operator and TensorLy.
"""

import numpy as np
from conftest import host

import sepmat as sm

from .catalogue import BAD3, S3, S4, circulant, solved, toeplitz
from .engine import TRUE, Case, Refusal, Value

# fmt: off
# one case a line

L = np.longdouble
R = np.random.default_rng(9)
X12 = R.standard_normal(12)
D12 = np.kron(S3.astype(L), S4.astype(L))
T0 = [1e-13, 1.0, 0.5, -0.3]


def rank_two():
    """A tensor of two collinear terms, exactly."""
    a, b = np.array([1.0, 2, 3]), np.array([1.0, 2, 3.0001])
    return [np.stack([a, b])[:, :, None] for _ in range(3)]


def never(b):
    """A Hankel-like Kronecker solve with nonsymmetric factors: no positive definiteness is assumed."""
    x = np.linspace(1, 2, 12)
    y = host(sm.solve(sm.Kronecker(b(S3), b(S4)), b((D12 @ x).astype(float))))
    A = D12.astype(float)
    return bool(np.linalg.norm(A @ y - A @ x) <= 30 * 12 * 2.0**-53 * np.linalg.norm(A, 2) * np.linalg.norm(y))


CASES = [
    # Kronecker products
    ("int64 1e10 ⊗ 1e10 wraps around", lambda b: sm.kron(b([[10**10]], "int64"), b([[10**10]], "int64")).to_dense(), Value([[1e20]]), "Kronecker product", "dtype"),
    ("int8 100 ⊗ 100 wraps around", lambda b: sm.kron(b([[100]], "int8"), b([[100]], "int8")) @ b([1], "int8"), Value([1e4]), "Kronecker product", "dtype"),
    ("A 1e200 ⊗ B 1e200 times 1e-300 is ∞", lambda b: sm.Kronecker(b(S3 * 1e200), b(S4 * 1e200)) @ b(X12 * 1e-300), Value(np.kron((S3 * 1e200).astype(L), (S4 * 1e200).astype(L)) @ (X12 * 1e-300)), "Kronecker product", "scale"),
    ("A 1e-200 ⊗ B 1e-200 times 1e300 is 0", lambda b: sm.Kronecker(b(S3 * 1e-200), b(S4 * 1e-200)) @ b(X12 * 1e300), Value(np.kron((S3 * 1e-200).astype(L), (S4 * 1e-200).astype(L)) @ (X12 * 1e300)), "Kronecker product", "scale"),
    ("a subnormal factor ⊗ 1e20 loses digits", lambda b: sm.Kronecker(b([[2.0**-1060, 2.0**-1050]]), b([[1e20, 3e20]])) @ b(np.ones(4)), Value([4e20 * L(2) ** -1050 * (1 + L(2) ** -10)]), "Kronecker product", "scale"),
    ("masked factors: the mask is ignored", lambda b: sm.Kronecker(np.ma.masked_array(S3, S3 > 0), S4), Refusal(TypeError, r"factors\[0\]", "masked", "filled"), "Kronecker product", "container"),
    ("a column x (12, 1) comes back flat", lambda b: sm.Kronecker(b(S3), b(S4)) @ b(X12[:, None]), Value((D12 @ X12)[:, None]), "Kronecker product", "shape"),
    ("1×1 factors are refused", lambda b: sm.Kronecker(b([[2.0]]), b([[3.0]])) @ b([1.0]), Value([6.0]), "Kronecker product", "shape"),
    ("20 factors claim 7766279631452241920", lambda b: sm.Kronecker(*[b(np.eye(10))] * 20).shape == (10**20, 10**20), TRUE, "Kronecker product", "size"),
    ("three rectangular factors: AssertionError", lambda b: sm.Kronecker(b(np.ones((2, 3))), b(np.ones((1, 2))), b(np.ones((3, 1)))) @ b(np.ones(6)), Value(np.full(6, 6.0)), "Kronecker product", "shape"),
    ("x of the wrong length: AssertionError, or a wrong answer", lambda b: sm.Kronecker(b(S3), b(S4)) @ b(np.ones(24)), Refusal(sm.ShapeError, "x", r"\(24,\).*length 12", "."), "Kronecker product", "shape"),
    ("the adjoint of complex factors: not implemented", lambda b: sm.Kronecker(b(S3 + 1j), b(S4 - 2j)).H @ b(X12), Value(np.conj(np.kron(S3 + 1j, S4 - 2j).T) @ X12, "complex128"), "Kronecker product", "dtype"),
    ("the transpose of complex factors", lambda b: sm.Kronecker(b(S3 + 1j), b(S4 - 2j)).T @ b(X12), Value(np.kron(S3 + 1j, S4 - 2j).T @ X12, "complex128"), "Kronecker product", "dtype"),
    ("to_dense of 1e6×1e6: no error in 20 s", lambda b: sm.Kronecker(b(np.eye(1000)), b(np.eye(1000))).to_dense(), Refusal(MemoryError, "size", "8.0 TB", "."), "Kronecker product", "size"),
    # Kronecker solves
    ("[[1, 2, 3], …] ⊗ B: garbage of 1e15", lambda b: sm.solve(sm.Kronecker(b(BAD3), b(S4)), b(X12)), Refusal(sm.SingularMatrixError, r"A\.factors\[0\]", "rcond", "lstsq"), "Kronecker solve", "singular"),
    ("(2×3) ⊗ (3×2): garbage of 1e15", lambda b: sm.solve(sm.Kronecker(b(np.ones((2, 3))), b(np.ones((3, 2)))), b(np.ones(6))), Refusal(sm.SingularMatrixError, "A", "rank <= 4 < 6", "lstsq"), "Kronecker solve", "singular"),
    ("nonsymmetric factors taken as positive definite", never, TRUE, "Kronecker solve", "singular"),
    ("a zero factor gets jitter", lambda b: sm.solve(sm.Kronecker(b(np.zeros((3, 3))), b(S4)), b(X12)), Refusal(sm.SingularMatrixError, r"A\.factors\[0\]", "singular|rcond", "lstsq"), "Kronecker solve", "singular"),
    ("the imaginary part is dropped", lambda b: sm.solve(sm.Kronecker(b(np.eye(3) * 1j), b(np.eye(4))), b(np.ones(12))), Value(np.full(12, -1j), "complex128"), "Kronecker solve", "dtype"),
    # Toeplitz and circulant
    ("t_0 = 1e-13, κ = 2.5: error 3e-4", lambda b: solved(b, T0, [1.0, -1, 2, 0.5]), TRUE, "Toeplitz solve", "singular"),
    ("a near-singular 2×2 minor: error 6e-5", lambda b: solved(b, [1.0, 1 + 1e-12, -0.5, 0.3], [1.0, 2, 3, 4]), TRUE, "Toeplitz solve", "singular"),
    ("SymmetricToeplitz([1, 2, 3, 4]) \\ b is NaN", lambda b: solved(b, [1.0, 2, 3, 4], [1.0, 1, 1, 1]), TRUE, "Toeplitz solve", "singular"),
    ("entries 1e308 whose result is 0: NaN", lambda b: sm.Toeplitz(b([1e308, 1e308]), b([1e308, -1e308])) @ b([1.0, 1.0]), Value([0.0, np.inf]), "Toeplitz product", "scale"),
    ("entries 1e308 that cancel", lambda b: sm.Toeplitz(b([1e308, -1e308]), b([1e308, -1e308])) @ b([1.0, 1.0]), Value([0.0, 0.0], scale=1e308, limit=60), "Toeplitz product", "scale"),
    ("a bool column", lambda b: sm.Toeplitz(b([True, True, False], "bool")) @ b([1.0, 2, 3]), Value([3.0, 6, 5]), "Toeplitz product", "dtype"),
    ("an int column in float32", lambda b: sm.Toeplitz(b([2**24 + 1, 0], "int64")) @ b([1.0, 1]), Value([2.0**24 + 1] * 2), "Toeplitz product", "dtype"),
    ("a complex column", lambda b: sm.Toeplitz(b([1 + 1j, 2j])) @ b([1.0, 1]), Value(toeplitz(np.array([1 + 1j, 2j])) @ [1, 1], "complex128"), "Toeplitz product", "dtype"),
    ("strings are parsed", lambda b: sm.solve(sm.Toeplitz(["1", "0"]), b([1.0, 1])), Refusal(TypeError, "c", "dtype <U1", "Convert"), "Toeplitz solve", "dtype"),
    ("strings as x", lambda b: sm.Toeplitz([1.0, 0]) @ np.array(["1", "2"]), Refusal(TypeError, "x", "dtype <U1", "Convert"), "Toeplitz product", "dtype"),
    ("a masked column", lambda b: sm.solve(sm.Toeplitz(np.ma.masked_array([2.0, 1], [0, 1])), np.ones(2)), Refusal(TypeError, "c", "1 entries are masked", "filled"), "Toeplitz solve", "container"),
    ("r[0] ≠ c[0] is ignored", lambda b: sm.Toeplitz(b([1.0, 2]), b([9.0, 3])), Refusal(ValueError, "r", "9.0", "Set one"), "Toeplitz product", "shape"),
    ("float32, singular in float32: 1.3e8", lambda b: sm.solve(sm.Circulant(b([1, -1 + 1e-9, 0, 0], "float32")), b(np.ones(4), "float32")), Refusal(sm.SingularMatrixError, "A", "n u = 2.4e-07", "lstsq"), "circulant solve", "singular"),
    ("a subnormal circulant: NaN", lambda b: sm.solve(sm.Circulant(b([2.0**-1040, 2.0**-1042, 0, 0])), b([2.0**-1040, 0, 0, 0])), Value(np.linalg.solve(circulant([1, 0.25, 0, 0]).astype(float), [1.0, 0, 0, 0])), "circulant solve", "scale"),
    # fits
    (
        "a zero tensor: Singular matrix",
        lambda b: sm.nearest_separated(b(np.zeros((27, 1))), ((3, 1),) * 3, rank=1).matrix.to_dense(),
        Value(np.zeros((27, 1))),
        "fit",
        "empty",
    ),
    (
        "data times 1e-200: Singular matrix",
        lambda b: sm.nearest_separated(b(np.full((8, 1), 1e-200)), ((2, 1),) * 3, rank=1).relative_error < 1e-12,
        TRUE,
        "fit",
        "scale",
    ),
    (
        "data times 1e200: NaN",
        lambda b: sm.nearest_separated(b(np.full((8, 1), 1e200)), ((2, 1),) * 3, rank=1).relative_error < 1e-12,
        TRUE,
        "fit",
        "scale",
    ),
    (
        "one ∞: 20 s",
        lambda b: sm.nearest_separated(b([[1.0], [np.inf]] * 4), ((2, 1),) * 3, rank=1),
        Refusal(sm.NonFiniteError, "M", r"4 non-finite.*\[1, 0\]", "."),
        "fit",
        "nonfinite",
    ),
    (
        "NaN: SVD did not converge",
        lambda b: sm.nearest_separated(b([[1.0], [np.nan]] * 4), ((2, 1),) * 3, rank=1),
        Refusal(sm.NonFiniteError, "M", r"4 non-finite.*\[1, 0\]", "."),
        "fit",
        "nonfinite",
    ),
    ("collinear terms, exact rank 2: 2.7e-5 after 2000 sweeps", lambda b: sm.compress(sm.Separated([b(F) for F in rank_two()]), rank=2).relative_error < 1e-9, TRUE, "fit", "singular"),
]


def cases():
    for what, call, promise, operation, kind in CASES:
        yield Case("9", what, call, promise, operation, kind)
