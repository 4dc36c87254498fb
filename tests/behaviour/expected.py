"""The expected behaviour, rows 1 to 51: dtypes, containers, layouts, edges of the range, shapes, arguments, processes."""

import numpy as np
import reference as ref
import scipy.sparse
from cases import BY_NAME
from conftest import host

import sepmat as sm

from .catalogue import BAD3, F32, S3, S4, K, circulant, toeplitz
from .engine import TRUE, Case, Refusal, Skip, Value

# fmt: off
# one case a line

R = np.random.default_rng(3)
X3, X4, X12 = R.standard_normal(3), R.standard_normal(4), R.standard_normal(12)
L = np.longdouble
D12 = np.kron(S3.astype(L), S4.astype(L))
SUBNORMAL = S3 * 1e-310
DTYPES = ("float32", "float64", "complex64", "complex128")
CLASSES = (
    "Dense 3x5",
    "Diagonal 5",
    "LowRank 4x4 rank 2",
    "Kronecker 2x3.4x2",
    "KroneckerSum 3x3.2x2",
    "Separated 2 x 2x3.4x2",
    "Circulant 5x5",
    "SkewCirculant 8x8",
    "Toeplitz 3x7",
    "Hankel 7x4",
    "MultilevelCirculant 3x4",
    "MultilevelToeplitz 3x2.2x4",
    "LowDisplacementRank 5x5 r=2",
    "s (Dense 3x3)",
)


def member(name, dtype="float64"):
    """(arrays, the dense matrix in higher precision) of one class of the contract tests."""
    case = BY_NAME[name]
    arrays = case.data(np.random.default_rng(7), dtype)
    return arrays, case.oracle(*arrays).D


def built(b, name, dtype="float64"):
    return BY_NAME[name].make(*(b(a, dtype) for a in member(name, dtype)[0]))


def vector(n, dtype="float64"):
    x = np.random.default_rng(n).standard_normal(n)
    return (x + 1j * x[::-1] if dtype.startswith("complex") else x).astype(dtype)


def product(name, dtype, other):
    D = member(name, dtype)[1]
    x = vector(D.shape[1], other)
    want = D @ ref.wide(x)
    # FFT classes are right relative to the norm of the generator times that of x, not to the result
    return Value(
        want,
        str(np.result_type(dtype, other)),
        scale=max(np.max(np.abs(want)), np.linalg.norm(D.astype(complex)) * np.linalg.norm(x)),
    )


def norm_of(d, dtype):
    return float(np.linalg.norm(d.astype(complex if dtype.startswith("complex") else float)))


def rows():
    """(row, what, call, promise, operation, kind, where)"""
    everywhere, numpy, torch = (), ("numpy",), ("torch",)
    for name in CLASSES:
        for dtype in DTYPES:
            yield 1, f"{name} {dtype}", lambda b, n=name, t=dtype: built(b, n, t) @ b(vector(member(n, t)[1].shape[1], t), t), product(name, dtype, dtype), "product", "dtype", everywhere
        for a, o in (
            ("float32", "float64"),
            ("float64", "float32"),
            ("float64", "complex64"),
            ("complex64", "float32"),
            ("float32", "complex128"),
        ):
            yield 2, f"{name} {a} times {o}", lambda b, n=name, a=a, o=o: built(b, n, a) @ b(vector(member(n, a)[1].shape[1], o), o), product(name, a, o), "product", "dtype", everywhere
        yield 23, f"{name} times nothing", lambda b, n=name: built(b, n) @ b(np.zeros((member(n)[1].shape[1], 0))), Value(np.zeros((member(name)[1].shape[0], 0))), "product", "empty", everywhere
        yield 32, f"{name} times n + 1", lambda b, n=name: built(b, n) @ b(np.ones(member(n)[1].shape[1] + 1)), Refusal(sm.ShapeError, "x", r"shape \(\d+,\).*length \d+", "."), "product", "shape", everywhere
        yield 32, f"{name} times 2 n", lambda b, n=name: built(b, n) @ b(np.ones(member(n)[1].shape[1] * 2)), Refusal(sm.ShapeError, "x", r"shape \(\d+,\).*length \d+", "."), "product", "shape", everywhere
        yield 33, f"{name} times a scalar", lambda b, n=name: built(b, n) @ 2.0, Refusal(sm.ShapeError, "x", r"shape \(\)|scalar", r"2 \* A"), "product", "shape", everywhere
        yield 34, f"{name} times a column", lambda b, n=name: ((built(b, n) @ b(np.ones((member(n)[1].shape[1], 1)))).shape == (member(n)[1].shape[0], 1)), TRUE, "product", "shape", everywhere
        if member(name)[1].shape[1] > 1:
            yield 35, f"{name} times a row", lambda b, n=name: built(b, n) @ b(np.ones((1, member(n)[1].shape[1]))), Refusal(sm.ShapeError, "x", r"shape \(1, ", r"x\.ravel\(\) or x @ A"), "product", "shape", everywhere
        yield 36, f"{name} A.T", lambda b, n=name: built(b, n, "complex128").T.to_dense(), Value(member(name, "complex128")[1].T, "complex128", scale=norm_of(member(name, "complex128")[1], "complex")), "entries", "other", everywhere
        yield 36, f"{name} A.H", lambda b, n=name: built(b, n, "complex128").H.to_dense(), Value(np.conj(member(name, "complex128")[1].T), "complex128", scale=norm_of(member(name, "complex128")[1], "complex")), "entries", "other", everywhere
        yield 49, f"{name} pickle", lambda b, n=name: pickled(built(b, n)), TRUE, "other", "state", numpy + torch
    # dtypes
    for t in ("bool", "int8", "uint8", "int16", "int32", "int64", "uint16", "uint32", "uint64"):

        def ints(b, t=t):
            if t in ("uint16", "uint32", "uint64") and b.name == "torch":
                raise Skip("torch does not compute with unsigned integers")
            return sm.Kronecker(b([[1, 1], [0, 1]], t), b([[1]], t)) @ b([1, 1], t)

        yield 3, t, ints, Value([2.0, 1.0]), "product", "dtype", everywhere
    yield 3, "2^53", lambda b: sm.Dense(b([[2**53]], "int64")).to_dense(), Value([[2.0**53]], scale=0), "build", "dtype", everywhere
    yield 3, "2^60 is a double too", lambda b: sm.Dense(b([[2**60]], "int64")).to_dense(), Value([[2.0**60]], scale=0), "build", "dtype", everywhere
    yield 3, "2^53 + 1", lambda b: sm.Dense(b([[1, 2, 2**53 + 1]], "int64")), Refusal(ValueError, r"A\[0, 2\]", "9007199254740993 is not exact in float64", "Convert it yourself"), "build", "dtype", everywhere
    yield 3, "a list with 2^53 + 1", lambda b: sm.Dense([[2**53 + 1]]), Refusal(ValueError, r"A\[0, 0\]", "9007199254740993", "yourself"), "build", "dtype", everywhere
    yield 3, "2^64, which is no int64", lambda b: sm.Dense([[2**64]]), Refusal(TypeError, "A", "object", "float64"), "build", "dtype", everywhere
    yield 3, "a mixed list", lambda b: sm.Dense([[1, 2.5], [True, 4]]).to_dense(), Value([[1, 2.5], [1, 4]], library="numpy"), "build", "dtype", everywhere
    yield 4, "1e10 ⊗ 1e10", lambda b: sm.Kronecker(b([[10**10]], "int64"), b([[10**10]], "int64")) @ b([1], "int64"), Value([1e20]), "Kronecker product", "dtype", everywhere
    yield 4, "int8 100 ⊗ 100", lambda b: sm.Kronecker(b([[100]], "int8"), b([[100]], "int8")).to_dense(), Value([[1e4]]), "entries", "dtype", everywhere
    yield 4, "int8 trace", lambda b: sm.trace(sm.Diagonal(b([100] * 9, "int8"))), Value(900.0), "other", "dtype", everywhere
    yield 5, "float16", lambda b: sm.Dense(S3.astype(np.float16)), Refusal(TypeError, "A", "float16", "float32"), "build", "dtype", everywhere
    yield 5, "float16 x", lambda b: K(np.asarray) @ np.ones(12, np.float16), Refusal(TypeError, "x", "float16", "float32"), "product", "dtype", everywhere
    for t in ("float16", "bfloat16"):
        yield 6 if t == "bfloat16" else 5, f"{t} on torch", lambda b, t=t: half(b, t), TRUE, "product", "dtype", torch
        for f in (
            lambda A, b: sm.solve(A, b),
            lambda A, b: sm.inverse(A),
            lambda A, b: sm.svdvals(A),
            lambda A, b: sm.nearest_low_rank(A.to_dense(), 1),
        ):
            n = len(HALVES)
            HALVES.append(f)
            yield 6 if t == "bfloat16" else 5, f"{t} refused {n}", lambda b, t=t, f=f: f(sm.Dense(tensor(b, np.eye(3), t)), tensor(b, np.ones(3), t)), Refusal(TypeError, "A|M|b", t, "float32"), "solve", "dtype", torch
    for t in ("longdouble", "clongdouble"):
        yield 7, t, lambda b, t=t: sm.Dense(S3.astype(t)), Refusal(TypeError, "A", "float128|complex256|longdouble", "float64"), "build", "dtype", everywhere
        yield 7, f"{t} x", lambda b, t=t: K(np.asarray) @ np.ones(12, t), Refusal(TypeError, "x", "float128|complex256|longdouble", "float64"), "product", "dtype", everywhere
    for what, x in (
        ("object", np.array([[object()]])),
        ("object of floats", np.array([[1.0, 2.0]], object)),
        ("strings", np.array([["a"]])),
        ("numeric strings", np.array([["1.5"]])),
        ("dates", np.array([["2020-01-01"]], "M8[D]")),
        ("durations", np.array([[5]], "m8[s]")),
        ("structured", np.zeros((1, 1), [("x", float)])),
        ("void", np.zeros((1, 1), "V8")),
        ("bytes", np.array([[b"1"]])),
    ):
        yield 8, what, lambda b, x=x: sm.Dense(x), Refusal(TypeError, "A", r"dtype \S+", "."), "build", "dtype", everywhere
        yield 8, f"{what} as x", lambda b, x=x: sm.Dense([[1.0]]) @ x[0][:1], Refusal(TypeError, "x", r"dtype \S+", "."), "product", "dtype", everywhere
    for t in (">f8", ">f4", ">c16", ">i4", "<f8"):
        want = np.dtype(t).newbyteorder("=")
        yield 9, t, lambda b, t=t: sm.Dense(b.watch(np.arange(4.0).reshape(2, 2).astype(t))) @ b.watch(np.ones(2, t)), Value([1, 5], str(want) if want.kind in "fc" else "float64", library="numpy"), "product", "layout", everywhere
    # containers
    for what, x in (
        ("nested lists", S3.tolist()),
        ("nested tuples", tuple(map(tuple, S3))),
        ("rows of arrays", list(S3)),
        ("a range", [range(3), range(3), range(3)]),
        ("NumPy scalars", [[np.float64(v) for v in row] for row in S3]),
        ("__array__", Claims(S3)),
        ("a memoryview", memoryview(S3.copy())),
    ):
        want = np.asarray(x.x if isinstance(x, Claims) else x, float)
        yield 10, what, lambda b, x=x: sm.Dense(x) @ np.ones(3), Value(want.astype(L) @ np.ones(3), library="numpy"), "product", "container", everywhere
    yield 10, "a list beside arrays", lambda b: sm.Kronecker(b(S3), [[1.0, 2.0]]).to_dense(), Value(np.kron(S3.astype(L), [[1, 2]])), "build", "container", everywhere
    yield 10, "a list as x", lambda b: sm.Dense(b(S3)) @ [1, 2, 3], Value(S3.astype(L) @ [1, 2, 3]), "product", "container", everywhere
    for what, x in (
        ("rows", [[1.0, 2], [3.0, 4, 5]]),
        ("a row and a number", [[1.0, 2], 3.0]),
        ("deeper", [[[1.0], [1.0]], [[1.0], [1.0, 2]]]),
        ("an array among rows", [np.ones(2), np.ones(3)]),
    ):
        yield 11, what, lambda b, x=x: sm.Kronecker(x, [[1.0]]), Refusal(sm.ShapeError, r"factors\[0\]", "ragged: rows have lengths", "Pad or cut"), "build", "container", everywhere
    for what, call in (
        ("factor", lambda b: sm.Kronecker(None, b(S3))),
        ("c", lambda b: sm.Circulant(None)),
        ("x", lambda b: K(b) @ None),
        ("b", lambda b: sm.solve(K(b), None)),
        ("M", lambda b: sm.nearest_toeplitz(None)),
        ("U", lambda b: sm.LowRank(None, b(S3))),
    ):
        yield 12, what, call, Refusal(TypeError, what if what != "factor" else r"factors\[0\]", "None", "Pass"), "build", "container", everywhere
    for what, shape, advice in (
        ("0-d", (), "scalar"),
        ("1-D", (3,), r"a\[:, None\]"),
        ("3-D", (2, 2, 2), "Separated"),
        ("4-D", (1, 1, 1, 1), "Reshape"),
    ):
        yield (
            13,
            what,
            lambda b, s=shape: sm.Dense(b(np.ones(s))),
            Refusal(sm.ShapeError, "A", r"\([\d, ]*\).*a matrix \(2-D\)", advice),
            "build",
            "shape",
            everywhere,
        )
    yield 14, "np.matrix", lambda b: sm.Dense(np.asarray(S3).view(np.matrix)) @ np.ones(3), Value(S3.astype(L).sum(1), library="numpy"), "product", "container", everywhere
    yield 14, "np.matrix as x", lambda b: sm.Dense(S3) @ np.ones((3, 1)).view(np.matrix), Value(S3.astype(L).sum(1)[:, None], library="numpy"), "product", "container", everywhere
    for what, call in (
        ("A", lambda b: sm.Dense(np.ma.masked_array(S3, S3 > 0))),
        ("x", lambda b: K(np.asarray) @ np.ma.masked_array(X12)),
        ("c", lambda b: sm.Toeplitz(np.ma.masked_array(X3))),
        ("M", lambda b: sm.nearest_circulant(np.ma.masked_array(S3))),
        ("b", lambda b: sm.solve(sm.Dense(S3), np.ma.masked_array(X3))),
    ):
        yield 15, what, call, Refusal(TypeError, what, r"\d+ entries are masked", r"\.filled"), "build", "container", everywhere
    yield from guests()
    for what, call in (
        ("B beside A", lambda b: sm.Kronecker(S3, other(b)(S3))),
        ("x beside A", lambda b: sm.Dense(b(S3)) @ other(b)(X3)),
        ("A + B", lambda b: sm.Dense(b(S3)) + sm.Dense(other(b)(S3))),
        ("A @ B", lambda b: sm.Dense(b(S3)) @ sm.Dense(other(b)(S3))),
        ("b beside A", lambda b: sm.solve(sm.Dense(b(S3)), other(b)(X3))),
        ("x @ A", lambda b: sm.Dense(b(S3)).__rmatmul__(other(b)(X3))),
    ):
        yield 17, what, call, Refusal(TypeError, ".", "mixed libraries: .*(numpy|torch|array_api_strict)", "Convert one|Use A.to_device"), "product", "device", everywhere if what != "B beside A" else torch
    yield 18, "requires_grad", lambda b: sm.Dense(S3) @ tensor(b, X3, "float64", True), Refusal(TypeError, "x", "mixed libraries", "gradients flow"), "product", "device", torch
    yield from layouts()
    # empty
    for what, F in (("rows", (0, 2)), ("columns", (2, 0))):
        yield 22, f"no {what}", lambda b, F=F: sm.Kronecker(b(np.zeros(F)), b(S3)) @ b(np.ones(F[1] * 3)), Value(np.zeros(F[0] * 3)), "Kronecker product", "empty", everywhere
    yield 22, "Separated", lambda b: sm.Separated([b(np.ones((2, 0, 3))), b(np.ones((2, 2, 2)))]).to_dense(), Value(np.zeros((0, 6))), "entries", "empty", everywhere
    for n, e in enumerate(EMPTY):
        yield 22, f"0×0 {n}", e[0], Value(e[1], e[2] if len(e) > 2 else "float64"), "other", "empty", everywhere
    yield 24, "no factors", lambda b: sm.Kronecker(), Refusal(ValueError, "factors", "empty", "Identity"), "build", "empty", everywhere
    for what, S in (
        ("no terms", lambda b: sm.Separated([b(np.zeros((0, 2, 2))), b(np.zeros((0, 3, 3)))])),
        ("scales 0", lambda b: sm.Separated([b(np.ones((2, 2, 2))), b(np.ones((2, 3, 3)))], b([0.0, -0.0]))),
    ):
        row = 25 if what == "no terms" else 26
        yield row, f"{what}: product", lambda b, S=S: S(b) @ b(np.ones(6)), Value(np.zeros(6)), "product", "empty", everywhere
        yield row, f"{what}: norm", lambda b, S=S: sm.norm(S(b)), Value(0.0), "other", "empty", everywhere
        yield row, f"{what}: κ", lambda b, S=S: S(b).condition_number == 1, TRUE, "other", "empty", everywhere
        yield row, f"{what}: solve", lambda b, S=S: sm.solve(S(b), b(np.ones(6))), Refusal(sm.SingularMatrixError, "A", "singular", "lstsq|Identity"), "solve", "empty", everywhere
        yield row, f"{what}: log|det|", lambda b, S=S: sm.slogdet(S(b)).logabsdet, Value(-np.inf), "other", "empty", everywhere
        yield row, f"{what}: compress", lambda b, S=S: sm.compress(S(b), rank=1).matrix.to_dense(), Value(np.zeros((6, 6))), "fit", "empty", everywhere
    # range
    yield 27, "subnormal scale", lambda b: sm.Separated([b(np.ones((1, 2, 2)))] * 2, b([5e-324])) @ b(np.ones(4)), Value(np.full(4, 2e-323), scale=0), "product", "scale", everywhere
    yield 27, "subnormal factor ⊗ 1e20", lambda b: sm.Kronecker(b(SUBNORMAL), b(S4 * 1e20)) @ b(X12), Value(np.kron(SUBNORMAL.astype(L), (S4 * 1e20).astype(L)) @ X12), "Kronecker product", "scale", everywhere
    yield 27, "normalized", lambda b: sm.norm(sm.Separated([b(np.full((1, 2, 2), 1e-310))] * 2, b([1e300])).normalized()), Value(4e-320, scale=1e-320 * 2**60), "other", "scale", everywhere
    yield 28, "1e200 ⊗ 1e-200", lambda b: sm.Kronecker(b(S3 * 1e200), b(S4 * 1e-200)) @ b(X12), Value(np.kron((S3 * 1e200).astype(L), (S4 * 1e-200).astype(L)) @ X12), "Kronecker product", "scale", everywhere
    yield 28, "1e200 ⊗ 1e200 times 1e-300", lambda b: sm.Kronecker(b(S3 * 1e200), b(S4 * 1e200)) @ b(X12 * 1e-300), Value(np.kron((S3 * 1e200).astype(L), (S4 * 1e200).astype(L)) @ (X12 * 1e-300)), "Kronecker product", "scale", everywhere
    yield 28, "1e-200 ⊗ 1e-200 times 1e300", lambda b: sm.Kronecker(b(S3 * 1e-200), b(S4 * 1e-200)) @ b(X12 * 1e300), Value(np.kron((S3 * 1e-200).astype(L), (S4 * 1e-200).astype(L)) @ (X12 * 1e300)), "Kronecker product", "scale", everywhere
    yield 28, "the norm of 1e200", lambda b: sm.norm(sm.LowRank(b(np.full((3, 1), 1e200)), b(np.full((4, 1), 1e-150)))), Value(np.sqrt(12) * 1e50), "other", "scale", everywhere
    yield 28, "solve 1e-200 ⊗ 1e200", lambda b: sm.solve(sm.Kronecker(b(np.eye(2) * 1e-200), b(np.eye(2) * 1e200)), b(np.ones(4))), Value(np.ones(4)), "Kronecker solve", "scale", everywhere
    yield 28, "log|det| of 1e-200", lambda b: sm.slogdet(sm.Diagonal(b([1e-200] * 5))).logabsdet, Value(-1000 * np.log(L(10))), "other", "scale", everywhere
    yield 28, "float32 1e30 ⊗ 1e-30", lambda b: sm.Kronecker(b(S3 * 1e30, "float32"), b(S4 * 1e-30, "float32")) @ b(X12, "float32"), Value(np.kron((S3 * 1e30).astype("float32").astype(L), (S4 * 1e-30).astype("float32").astype(L)) @ X12.astype("float32"), "float32"), "Kronecker product", "scale", everywhere
    yield 28, "stored as given", lambda b: bool(np.all(host(K(lambda x: b(x * 1e200)).factors[0]) == S3 * 1e200)), TRUE, "build", "scale", everywhere
    for what, A, want in (
        ("Dense", lambda b: sm.Dense(b([[1e308, 1e308]])), np.inf),
        ("Kronecker", lambda b: sm.Kronecker(b([[1e200]]), b([[-1e200]])), -np.inf),
        ("Diagonal", lambda b: sm.Diagonal(b([1e308])) * 10, np.inf),
    ):
        yield 29, what, lambda b, A=A: A(b) @ b(np.ones(A(b).shape[1])), Value([want]), "product", "scale", everywhere
    yield 30, "NaN in x", lambda b: sm.Diagonal(b([1.0, 2])) @ b([np.nan, 1]), Value([np.nan, 2]), "product", "nonfinite", everywhere
    yield 30, "∞ in x", lambda b: sm.Dense(b([[1.0, 0], [0, 1]])) @ b([np.inf, 1]), Value([np.inf, np.nan]), "product", "nonfinite", everywhere
    yield 30, "NaN in a factor", lambda b: sm.Kronecker(b([[np.nan, 0], [0, 1]]), b([[1.0]])).to_dense(), Value([[np.nan, 0], [0, 1]]), "entries", "nonfinite", everywhere
    yield from nonfinite()
    # arguments
    yield 37, "c[0] ≠ r[0]", lambda b: sm.Toeplitz(b([1.0, 2]), b([3.0, 4])), Refusal(ValueError, "r", r"r\[0\] = 3.0 and c\[0\] = 1.0", "Set one"), "build", "shape", everywhere
    yield 38, "r omitted", lambda b: sm.Toeplitz(b([1.0, 2 + 1j, 3j])).to_dense(), Value(toeplitz(np.array([1.0, 2 + 1j, 3j])), "complex128", scale=0), "build", "dtype", everywhere
    yield 38, "symmetric", lambda b: sm.nearest_toeplitz(b([[1, 2 + 1j], [2 + 1j, 1]]), symmetric=True).matrix.to_dense(), Value([[1, 2 + 1j], [2 + 1j, 1]], "complex128"), "fit", "dtype", everywhere
    for r in (np.int8(2), np.int64(2), np.uint16(2), 2):
        yield 39, f"rank {type(r).__name__}", lambda b, r=r: sm.nearest_low_rank(b(S3), r).matrix.rank == 2, TRUE, "fit", "argument", everywhere
    for r in (True, np.True_, 2.0, np.float64(2), -1, 0, "2", None, np.array(2.0), 2 + 0j):
        yield 39, f"rank {r!r} {type(r).__name__}", lambda b, r=r: sm.nearest_low_rank(b(S3), r), Refusal((ValueError, TypeError), "rank", "."), "fit", "argument", everywhere
    for what, call in (
        ("low rank", lambda b: sm.nearest_low_rank(b(F32), 3)),
        ("Kronecker", lambda b: sm.nearest_kronecker(b(np.eye(6)), ((2, 2), (3, 3)), 5)),
        ("displacement", lambda b: sm.nearest_displacement(b(S3), 4)),
        ("compress", lambda b: sm.compress(sm.convert(K(b), sm.Separated), rank=10)),
    ):
        yield 40, what, call, Refusal(ValueError, "rank", r"\d+ > \d+ possible", "smaller"), "fit", "argument", everywhere
    for t in (0, -1e-3, np.nan, 1, 1.5, np.inf, "1e-3", True, 1j, np.array([0.1])):
        yield 41, f"tol {t!r}", lambda b, t=t: sm.nearest_low_rank(b(S3), tol=t), Refusal((ValueError, TypeError), "tol", "number between 0 and 1"), "fit", "tolerance", everywhere
    yield 41, "np.float64", lambda b: sm.nearest_low_rank(b(S3), tol=np.float64(0.5)).relative_error <= 0.5, TRUE, "fit", "tolerance", everywhere
    yield 42, "no convergence", unsettled, TRUE, "fit", "other", everywhere, sm.ConvergenceWarning
    yield 43, "zero: low rank", lambda b: sm.nearest_low_rank(b(np.zeros((3, 4))), 1).matrix.to_dense(), Value(np.zeros((3, 4))), "fit", "empty", everywhere
    for what, f in FITS.items():
        yield 43, f"zero: {what}", lambda b, f=f: bool(f(b(np.zeros((6, 6)))).relative_error == 0 and sm.norm(f(b(np.zeros((6, 6)))).matrix) == 0), TRUE, "fit", "empty", everywhere
    yield from singular()
    yield 45, "2^31 + 1 columns", lambda b: sm.Circulant(b(np.ones(4))) @ np.broadcast_to(np.float64(1), (5, 2**31 + 1)), Refusal((ValueError, TypeError), "x", "5, 2147483649|mixed"), "product", "size", everywhere
    yield 45, "N > 2^63", lambda b: sm.Kronecker(*[b(np.eye(10))] * 20) @ b(X12), Refusal(MemoryError, "x", "N=100000000000000000000", "entries"), "product", "size", everywhere
    yield 46, "8 TB", lambda b: sm.Circulant(b(np.ones(10**6))).to_dense(), Refusal(MemoryError, "size", "8.0 TB", r"A @ x"), "entries", "size", everywhere
    for s in (0, 7, np.int64(7), np.random.default_rng(1)):
        yield 47, f"seed {type(s).__name__} {s if isinstance(s, int) else ''}", lambda b, s=s: sm.nearest_kronecker(b(np.eye(6)), ((2, 2), (3, 3)), 1, seed=s).relative_error < 1e-12, TRUE, "fit", "state", everywhere
    for s in ("0", 1.5, True, -1, np.random.RandomState(0), [1], 1j):
        yield 47, f"seed {str(s)[:12]} {type(s).__name__}", lambda b, s=s: sm.nearest_kronecker(b(np.eye(6)), ((2, 2), (3, 3)), 1, seed=s), Refusal((ValueError, TypeError), "seed", "."), "fit", "state", everywhere
    yield 50, "errstate raise", raising, TRUE, "other", "state", everywhere


HALVES: list = []
EMPTY = [
    (lambda b: sm.Kronecker(b(np.zeros((0, 0)))) @ b(np.zeros(0)), np.zeros(0)),
    (lambda b: sm.solve(sm.Dense(b(np.zeros((0, 0)))), b(np.zeros(0))), np.zeros(0)),
    (lambda b: sm.solve(sm.Circulant(b(np.zeros(0))), b(np.zeros((0, 2)))), np.zeros((0, 2))),
    (lambda b: sm.solve(sm.Toeplitz(b(np.zeros(0))), b(np.zeros(0))), np.zeros(0)),
    (lambda b: sm.slogdet(sm.Dense(b(np.zeros((0, 0))))).logabsdet, 0.0),
    (lambda b: sm.norm(sm.Kronecker(b(np.zeros((0, 3))), b(S3))), 0.0),
    (lambda b: sm.trace(sm.Circulant(b(np.zeros(0)))), 0.0),
    (lambda b: sm.diagonal(sm.LowRank(b(np.zeros((0, 1))), b(np.zeros((3, 1))))), np.zeros(0)),
    (lambda b: sm.svdvals(sm.Dense(b(np.zeros((0, 3))))), np.zeros(0)),
    (lambda b: sm.eigvals(sm.Diagonal(b(np.zeros(0)))), np.zeros(0), "complex128"),
    (lambda b: sm.inverse(sm.Kronecker(b(np.zeros((0, 0))), b(S3))).to_dense(), np.zeros((0, 0))),
    (lambda b: sm.lstsq(sm.Dense(b(np.zeros((0, 3)))), b(np.zeros(0))), np.zeros(3)),
    (lambda b: sm.lstsq(sm.Dense(b(np.zeros((3, 0)))), b(np.ones(3))), np.zeros(0)),
    (lambda b: sm.Toeplitz(b(np.zeros(0)), b(np.zeros(0))).to_dense(), np.zeros((0, 0))),
    (lambda b: (sm.Diagonal(b(np.zeros(0))) @ sm.Diagonal(b(np.zeros(0)))).to_dense(), np.zeros((0, 0))),
    (lambda b: sm.LowDisplacementRank(b(np.zeros((0, 2))), b(np.zeros((0, 2)))) @ b(np.zeros((0, 3))), np.zeros((0, 3))),
    (lambda b: sm.LowRank(b(np.zeros((3, 0))), b(np.zeros((2, 0)))).to_dense(), np.zeros((3, 2))),
    (lambda b: sm.Circulant(b(np.ones(3)))[1:1, :], np.zeros((0, 3))),
    (lambda b: K(b).block([], [0, 1]), np.zeros((0, 2))),
    (lambda b: K(b).apply(b(np.zeros((0, 12)))), np.zeros((0, 12))),
    (lambda b: K(b).apply(b(np.zeros((2, 0, 12)))), np.zeros((2, 0, 12))),
    (lambda b: sm.nearest_circulant(b(np.zeros((0, 0)))).matrix.to_dense(), np.zeros((0, 0))),
]
FITS = {
    "circulant": lambda M: sm.nearest_circulant(M),
    "skew": lambda M: sm.nearest_skew_circulant(M),
    "Toeplitz": lambda M: sm.nearest_toeplitz(M),
    "Hankel": lambda M: sm.nearest_hankel(M),
    "Kronecker": lambda M: sm.nearest_kronecker(M, ((2, 2), (3, 3)), 1),
    "separated": lambda M: sm.nearest_separated(M, ((2, 2), (3, 3)), 1),
    "displacement": lambda M: sm.nearest_displacement(M, 1),
}


class Claims:
    """Something with `__array__` and nothing else."""

    def __init__(self, x):
        self.x = x

    def __array__(self, dtype=None, copy=None):
        return np.array(self.x, dtype)


class Fails:
    """Something whose `__array__` has an error of its own."""

    def __array__(self, dtype=None, copy=None):
        raise RuntimeError("deleted")


def tensor(b, x, dtype, grad=False):
    import torch

    return b.watch(torch.tensor(np.asarray(x), dtype=getattr(torch, dtype)).requires_grad_(grad))


def other(b):
    """A maker of arrays of another library than that of b."""
    from .engine import Backend

    return Backend("array_api_strict" if b.name != "array_api_strict" else "numpy")


def half(b, t):
    """In 16 bits, with sums in 32."""
    A, x = tensor(b, np.full((64, 64), 0.01), t), tensor(b, np.ones(64), t)
    y = sm.Dense(A) @ x
    return str(y.dtype) == f"torch.{t}" and bool(np.all(np.abs(host(y) - 64 * host(A)[0, 0]) <= 2 * 2.0**-8 * 0.64))


def pickled(A):
    """49: a copy by pickle equals the matrix; equality of objects is identity; hashing and weak references work."""
    import copy
    import pickle
    import weakref

    again = pickle.loads(pickle.dumps(A))
    return (
        again.equals(A)
        and copy.copy(A).equals(A)
        and copy.deepcopy(A).equals(A)
        and A == A
        and again != A
        and hash(A) == hash(A)
        and weakref.ref(A)() is A
        and not A.equals(None)
    )


def guests():
    """16: what comes from SciPy and pandas."""

    def sparse(b, where):
        s = scipy.sparse.csr_array(np.eye(3))
        return {
            "A": lambda: sm.Dense(s),
            "x": lambda: sm.Dense(S3) @ s,
            "factors[1]": lambda: sm.Kronecker(S3, s),
            "M": lambda: sm.nearest_low_rank(s, 1),
        }[where]()

    for where in ("A", "x", r"factors[1]", "M"):
        yield 16, f"sparse {where}", lambda b, w=where: sparse(b, w), Refusal(TypeError, where.replace("[", r"\[").replace("]", r"\]"), "sparse", r"\.toarray\(\)"), "build", "container", ()

    def frame(data):
        try:
            import pandas
        except ImportError:
            raise Skip("pandas is not installed") from None
        return pandas.DataFrame(data)

    yield 16, "DataFrame", lambda b: sm.Dense(frame({"a": [1.0, 2], "b": [3, 4]})).to_dense(), Value([[1, 3], [2, 4]], library="numpy"), "build", "container", ()
    def lazy(x):
        try:
            import dask.array
        except ImportError:
            raise Skip("dask is not installed") from None
        return dask.array.from_array(x, chunks=2)

    yield 16, "Dask as A", lambda b: sm.Circulant(lazy(X4)), Refusal(TypeError, "c", "dask", r"c\.compute\(\)"), "build", "container", ()
    yield 16, "Dask as x", lambda b: sm.Circulant(b(X4)) @ lazy(X4), Refusal(TypeError, "x", "dask", r"x\.compute\(\)"), "product", "container", ()
    yield 16, "Dask as M", lambda b: sm.nearest_low_rank(lazy(S3), 1), Refusal(TypeError, "M", "dask", r"M\.compute\(\)"), "fit", "container", ()
    yield 16, "__array__ that raises", lambda b: sm.Dense(Fails()), Refusal(TypeError, "A", "deleted", "."), "build", "container", ()
    yield 16, "DataFrame of objects", lambda b: sm.Dense(frame({"a": ["x", 2], "b": [3, 4]})), Refusal(TypeError, "A", "dtype object", "."), "build", "container", ()
    yield 16, "DataFrame with NA", lambda b: sm.Dense(frame({"a": [1.0, None], "b": [3.0, 4]})).to_dense(), Value([[1, 3], [np.nan, 4]], library="numpy"), "build", "container", ()
    yield (
        16,
        "sparse tensor",
        lambda b: sm.Dense(tensor(b, S3, "float64").to_sparse()),
        Refusal(TypeError, "A", "sparse", r"\.to_dense"),
        "build",
        "container",
        ("torch",),
    )


def layouts():
    """19 and 20: any layout, read-only data and files; 21: no out= argument anywhere, so none can overlap."""
    big = np.zeros((9, 9))
    big[::3, ::3] = S3
    raw = np.zeros(S3.nbytes + 1, np.uint8)
    raw[1:] = S3.reshape(-1).view(np.uint8)
    still = S3.copy()
    still.flags.writeable = False
    made = {
        "Fortran": np.asfortranarray(S3),
        "transposed": np.ascontiguousarray(S3.T).T,
        "step 3": big[::3, ::3],
        "reversed": np.ascontiguousarray(S3[::-1, ::-1])[::-1, ::-1],
        "unaligned": np.frombuffer(raw.data, np.float64, offset=1).reshape(3, 3),
        "read-only": still,
        "a subclass": S3.view(Sub),
    }
    for what, A in made.items():
        yield (
            19,
            f"{what} as A",
            lambda b, A=A: sm.Dense(b.watch(A)) @ X3,
            Value(S3.astype(L) @ X3, library="numpy"),
            "product",
            "layout",
            ("numpy",),
        )
        yield (
            19,
            f"{what} as a factor",
            lambda b, A=A: sm.Kronecker(b.watch(A), S4) @ X12,
            Value(D12 @ X12, library="numpy"),
            "product",
            "layout",
            ("numpy",),
        )
        yield (
            19,
            f"{what} as x",
            lambda b, A=A: sm.Diagonal(X3) @ b.watch(A),
            Value(X3[:, None] * S3, scale=0, library="numpy"),
            "product",
            "layout",
            ("numpy",),
        )
    zero = np.broadcast_to(np.float64(2.0), (3, 3))
    yield (
        19,
        "stride 0",
        lambda b: sm.Dense(b.watch(zero)) @ b.watch(np.broadcast_to(1.0, (3,))),
        Value([6.0, 6, 6], library="numpy"),
        "product",
        "layout",
        ("numpy",),
    )
    yield (
        19,
        "negative steps in x",
        lambda b: sm.Circulant(X4[::-1]) @ b.watch(X4[::-1]),
        Value(circulant(X4[::-1]) @ X4[::-1], library="numpy"),
        "product",
        "layout",
        ("numpy",),
    )
    yield (
        19,
        "a transposed tensor",
        lambda b: sm.Kronecker(b(S3).T, b(S4)) @ b(X12),
        Value(np.kron(S3.T.astype(L), S4.astype(L)) @ X12),
        "product",
        "layout",
        ("torch",),
    )
    yield (
        19,
        "an expanded tensor",
        lambda b: sm.Circulant(tensor(b, [1.0], "float64").expand(4)) @ b(X4),
        Value(np.full(4, X4.astype(L).sum())),
        "product",
        "layout",
        ("torch",),
    )
    yield (
        19,
        "a conjugated tensor",
        lambda b: sm.Dense(b(S3 + 1j).conj()) @ b(X3),
        Value((S3 - 1j) @ X3, "complex128"),
        "product",
        "layout",
        ("torch",),
    )
    yield (
        19,
        "a negated view",
        lambda b: sm.Dense(b(S3 + 1j * S3).conj().imag) @ b(X3),
        Value(-S3.astype(L) @ X3),
        "product",
        "layout",
        ("torch",),
    )

    def mapped(b):
        import pathlib
        import tempfile

        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder) / "x"
            S3.tofile(path)
            x = np.memmap(path, np.float64, "r", shape=(3, 3))
            y = sm.Dense(x) @ x
            del x
        return y

    yield 20, "memmap", mapped, Value(S3.astype(L) @ S3, library="numpy"), "product", "layout", ("numpy",)
    yield (
        21,
        "x is data of A",
        lambda b: sm.Dense(x := S3.copy()) @ x,
        Value(S3.astype(L) @ S3, library="numpy"),
        "product",
        "layout",
        ("numpy",),
    )
    yield (
        21,
        "no out=",
        lambda b: np.matmul(S3, sm.Dense(S3), out=S3.copy()),
        Refusal(TypeError, None, "ufunc|operand|numpy.matmul"),
        "product",
        "layout",
        ("numpy",),
    )


class Sub(np.ndarray):
    """A subclass."""


def nonfinite():
    """31: fits, solves and norm-based truncation refuse NaN and infinity, and say where."""
    spots = {
        "solve b": lambda b: sm.solve(K(b), b([np.inf] + [1.0] * 11)),
        "solve A": lambda b: sm.solve(sm.Dense(b([[1, np.nan], [0, 1]])), b([1.0, 1])),
        "inverse": lambda b: sm.inverse(sm.Circulant(b([np.nan, 1]))),
        "lstsq": lambda b: sm.lstsq(sm.Dense(b([[np.nan], [1.0]])), b([1.0, 1])),
        "slogdet": lambda b: sm.slogdet(sm.Toeplitz(b([np.inf, 1]))),
        "eigvals": lambda b: sm.eigvals(sm.Dense(b([[np.nan]]))),
        "svdvals": lambda b: sm.svdvals(sm.Diagonal(b([np.nan]))),
        "factorize": lambda b: sm.factorize(sm.Toeplitz(b([np.nan, 1]))),
        "compress": lambda b: sm.compress(sm.Separated([b([[[np.nan]]])]), rank=1),
        "merged": lambda b: sm.Separated([b([[[np.nan]]])]).merged(),
        "low rank": lambda b: sm.nearest_low_rank(b([[np.nan]]), 1),
        "displacement_rank": lambda b: sm.displacement_rank(b([[np.inf]])),
        "compress_displacement": lambda b: sm.compress_displacement(sm.LowDisplacementRank(b([[np.nan], [1.0]]), b([[1.0], [1.0]])), rank=1),
        "expm": lambda b: sm.expm(sm.Separated([b([[[np.inf]]])] * 2), 1e-3),
        "schulz_inverse": lambda b: sm.schulz_inverse(sm.Separated([b([[[np.nan]]])] * 2), 1e-3),
        "separation_rank": lambda b: sm.separation_rank(b(np.full((4, 4), np.nan)), ((2, 2), (2, 2))),
        "approximate": lambda b: sm.approximate(b([[np.nan]]), 1),
        "strang": lambda b: sm.strang(sm.Toeplitz(b([np.nan, 1]))),
        "grids": lambda b: sm.gaussian_sum([b([np.nan])], b([1.0]), b([1.0])),
        **{f"nearest {what}": lambda b, f=f: f(b(np.full((6, 6), np.inf))) for what, f in FITS.items()},
    }
    for what, call in spots.items():
        yield 31, what, call, Refusal(sm.NonFiniteError, ".", r"\d+ non-finite entries, first at \[", "Remove or replace"), "solve" if "solve" in what or what == "inverse" else "fit", "nonfinite", ()


def unsettled(b):
    """42: the result says so, and it is no NaN."""
    fit = sm.schulz_inverse(sm.KroneckerSum(b(np.diag([1, 1e-9])), b(np.diag([0, 1e-9]))), tol=1e-6)
    return not fit.converged and 0 < fit.relative_error < 1 and bool(np.isfinite(host(fit.matrix.to_dense())).all())


def singular():
    """44"""
    I3 = np.eye(3)
    spots = {
        "zero": lambda b: sm.Dense(b(np.zeros((2, 2)))),
        "rank 2 of 3": lambda b: sm.Dense(b(BAD3)),
        "a factor": lambda b: sm.Kronecker(b(I3), b(np.ones((2, 2)))),
        "rounding": lambda b: sm.Kronecker(b(BAD3), b(I3)),
        "circulant": lambda b: sm.Circulant(b([1.0, -1, 0, 0])),
        "skew": lambda b: sm.SkewCirculant(b([1.0, np.sqrt(2.0), 1.0, 0])),
        "diagonal": lambda b: sm.Diagonal(b([1.0, 0])),
        "Toeplitz": lambda b: sm.Toeplitz(b([1.0, 1, 1])),
        "Hankel": lambda b: sm.Hankel(b([1.0, 1, 1]), b([1.0, 1, 1])),
        "low rank": lambda b: sm.LowRank(b(S3[:, :1]), b(S3[:, :1])),
        "a sum": lambda b: sm.KroneckerSum(b(I3), b(-I3)),
        "a product": lambda b: sm.Product._of(factors=(sm.Dense(b(I3)), sm.Diagonal(b([1.0, 0, 1])))),
        "0 A": lambda b: 0 * sm.Kronecker(b(I3), b(I3)),
        "multilevel": lambda b: sm.MultilevelCirculant(b(np.ones((2, 3)))),
        "displacement": lambda b: sm.LowDisplacementRank(b(np.ones((4, 1))), b(np.zeros((4, 1)))),
        "Separated": lambda b: sm.Separated([b(np.ones((1, 2, 2))), b(I3[None])]),
        "rectangular factors": lambda b: sm.Kronecker(b(F32), b(F32.T)),
    }
    for what, A in spots.items():
        yield 44, f"solve, {what}", lambda b, A=A: sm.solve(A(b), b(np.ones(A(b).shape[0]))), Refusal(sm.SingularMatrixError, ".", "singular|zero|rcond|rank", "lstsq|Identity"), "solve", "singular", ()
        if what not in ("a product", "a sum"):
            yield 44, f"inverse, {what}", lambda b, A=A: sm.inverse(A(b)), Refusal(sm.SingularMatrixError, ".", "singular|zero|rcond|rank", "lstsq|Identity"), "solve", "singular", ()


def raising(b):
    """50: no FloatingPointError, whatever the caller's settings."""
    with np.errstate(all="raise"):
        for A in (
            K(b),
            sm.Circulant(b([1e-310, 1.0, 0, 0])),
            sm.Diagonal(b([1e-320, 1.0])),
            sm.LowRank(b(np.full((3, 1), 1e-200)), b(np.full((3, 1), 1e-200))),
            sm.Toeplitz(b([1e200, 1e-200])),
            sm.LowDisplacementRank(b(np.full((4, 1), 1e-200)), b(np.full((4, 1), 1e-200))),
            sm.MultilevelToeplitz(b(np.full((3, 3), 1e-310))),
        ):
            for f in (
                lambda A: A @ b(np.full(A.shape[1], 1e-200)),
                lambda A: A.to_dense(),
                lambda A: A[0, 0],
                lambda A: A.T.conj(),
                sm.norm,
                lambda A: sm.trace(2 * A),
                lambda A: (A + A) @ b(np.ones(A.shape[1])),
                lambda A: A / 1e300,
            ):
                f(A)
        sm.slogdet(sm.Diagonal(b([0.0, 1.0])))
        sm.svdvals(K(b))
        sm.solve(sm.Diagonal(b([1e-300])), b(np.array([1e300])))
        sm.nearest_kronecker(b(np.full((6, 6), 1e-200)), ((2, 2), (3, 3)), 1)
        sm.compress(sm.Separated([b(np.full((2, 2, 2), 1e-200))] * 3), rank=1)
        sm.solve(sm.Toeplitz(b([1e-300, 1e-310])), b(np.ones(2)))
    return True


def cases():
    for row, what, call, promise, operation, kind, on, *warns in rows():
        yield Case(f"6.{row}", what, call, promise, operation, kind, on or Case.on, warns[0] if warns else None)
