"""Cases made up to break the library: sizes beyond the machine, scales beyond the range, odd arrays, odd indices, misuse."""

import functools
import operator

import numpy as np
import reference as ref
from conftest import host

import sepmat as sm

from .catalogue import S3, S4, K, circulant, toeplitz
from .engine import TRUE, Case, Refusal, Skip, Value
from .expected import CLASSES, built, member, tensor

# fmt: off
# one case a line

L = np.longdouble
R = np.random.default_rng(11)
X3, X4, X12 = R.standard_normal(3), R.standard_normal(4), R.standard_normal(12)
D12 = np.kron(S3.astype(L), S4.astype(L))
N = 10**20
BOTH = ("numpy", "torch")
NUMPY, TORCH = ("numpy",), ("torch",)


def K20(b, F=None):
    return sm.Kronecker(*[b(np.diag(np.arange(1.0, 11)) if F is None else F)] * 20)


def S20(b):
    return sm.Separated([b(np.stack([np.eye(10), np.diag(np.arange(1.0, 11))]))] * 20)


def sizes():
    yield "entry of a lazy product of 10^20", lambda b: (K20(b) @ sm.Kronecker(*[b(np.eye(100))] * 10))[0, 0], Refusal(MemoryError, "size", "800.0 EB", "parts")
    yield "entry of a lazy sum of 10^20", lambda b: (K20(b) + sm.Kronecker(*[b(np.eye(100))] * 10))[N - 1, N - 1], Value(1e20 + 1)
    yield "last row of 10^20", lambda b: K20(b).T[-1, 0], Value(0.0)
    yield "a block of 10^20", lambda b: K20(b).block([N - 1, 0], [-1, 1]), Value([[1e20, 0], [0, 0]])
    yield "a range of 10^20", lambda b: K20(b).block(range(0, N, 10**19), [0]), Value([[1.0]] + [[0.0]] * 9)
    yield "a step of 10^19", lambda b: K20(b)[:: 10**19, 0], Value([1.0] + [0.0] * 9)
    yield "a row of 10^20", lambda b: K20(b)[0, :], Refusal(MemoryError, "size", "bytes|EB", "max_bytes")
    yield "an index of 10^30", lambda b: K20(b)[10**30, 0], Refusal(IndexError, "i", "1" + "0" * 30, "sizes")
    yield "10^20 + 3", lambda b: K20(b) + sm.Identity(3, like=b(1.0)), Refusal(sm.ShapeError, "B", "3×3; expected 1" + "0" * 20, "sizes")
    yield "10^20 @ 3", lambda b: K20(b) @ sm.Identity(3, like=b(1.0)), Refusal(sm.ShapeError, "B", "3×3; expected 1" + "0" * 20, "sizes")
    yield "the trace of a sum of 10^20", lambda b: sm.trace(sm.KroneckerSum(*[b(np.eye(10))] * 20)), Value(2e21)
    yield "the trace of 2 terms of 10^20", lambda b: sm.trace(S20(b)), Value(1e20 + 55.0**20)
    yield "the norm of 2 terms of 10^20", lambda b: sm.norm(S20(b)), Value(np.sqrt(L(10) ** 20 + 2 * L(55) ** 20 + L(385) ** 20))
    yield "an entry of 2 terms of 10^20", lambda b: S20(b)[N - 1, N - 1], Value(1 + 1e20)
    yield "2 terms of 10^20 times x", lambda b: S20(b) @ b(np.ones(10)), Refusal(MemoryError, "x", "N=1" + "0" * 20, ".")
    yield "2 terms of 10^20 dense", lambda b: S20(b).to_dense(), Refusal(MemoryError, "size", "bytes", ".")
    yield "a sum of 20 times x", lambda b: sm.KroneckerSum(*[b(np.eye(10))] * 20) @ b(np.ones(10)), Refusal(MemoryError, "x", "N=1" + "0" * 20, ".")
    yield "solve 10^20", lambda b: sm.solve(K20(b), b(np.ones(10))), Refusal((MemoryError, ValueError), "b", r"\(10,\)", ".")
    yield "the inverse of 10^20", lambda b: sm.inverse(K20(b))[N - 1, N - 1], Value(1e-20)
    yield "the trace of Identity 10^30", lambda b: sm.trace(sm.Identity(10**30, like=b(1.0))), Value(1e30)
    yield "the norm of Identity 10^30", lambda b: sm.norm(sm.Identity(10**30, like=b(1.0))), Value(1e15)
    yield "log|det| of Identity 10^30", lambda b: sm.slogdet(sm.Identity(10**30, like=b(1.0))).logabsdet, Value(0.0)
    yield "an entry of Identity 10^30 ⊗ A", lambda b: sm.kron(sm.Identity(10**30, like=b(1.0)), b(S3))[3 * 10**30 - 1, -1], Value(S3[2, 2])
    yield "a corner of 2^70", lambda b: sm.Circulant(b(X3), shape=(2**70, 3)), Refusal(sm.ShapeError, "shape", "1180591620717411303424", ".")
    yield "a shift of 10^18", lambda b: sm.shift(10**18, like=b(1.0)), Refusal(MemoryError, "size", "8.0 EB", ".")
    yield "a Laplacian of 10^9", lambda b: sm.laplacian(10**9, 2, like=b(1.0)), Refusal(MemoryError, "size", "EB|bytes", ".")
    yield "a Laplacian of 10^9 variables", lambda b: sm.laplacian(3, 10**9, like=b(1.0)), Refusal(MemoryError, "size", "EB|bytes", ".")
    yield "sines of 10^9 variables", lambda b: sm.sin_sum(3, 10**9, like=b(1.0)), Refusal(MemoryError, "size", "EB|bytes", ".")
    yield "2^62 factors", lambda b: sm.factor_shapes(b(np.eye(4)), rank=1, factors=2**62), Refusal(sm.ShapeError, "M", "4×4", "."), "fit"
    yield "a sum of 1000", lambda b: functools.reduce(operator.add, [sm.Circulant(b(X4)), sm.Hankel(b(X4))] * 500) @ b(X4), Value(500 * (circulant(X4) + hankel(X4)) @ X4, scale=1e4)
    yield "a product of 200", lambda b: (functools.reduce(operator.matmul, [sm.Circulant(b([0.0, 1, 0, 0])), sm.Diagonal(b(np.ones(4)))] * 100) @ b(X4)), Value(X4, scale=4)
    yield "the message of a sum of 300", lambda b: functools.reduce(operator.add, [sm.Circulant(b(X4)) @ sm.Hankel(b(X4))] * 300) @ b(X3), Refusal(sm.ShapeError, "x", r"\(3,\)", ".")
    yield "a dense limit of 0", lambda b: K(b).to_dense(max_bytes=0), Refusal(MemoryError, "size", "1.2 kB", "."), "entries"
    for v in (-1, 1e9, True, "1", None):
        yield f"a dense limit of {v!r}", lambda b, v=v: K(b).to_dense(max_bytes=v), Refusal((ValueError, TypeError), "max_bytes", "integer", "."), "entries"


def hankel(c):
    return np.array([[c[i + j] if i + j < len(c) else 0 for j in range(len(c))] for i in range(len(c))], L)


def scales():
    """The result is in the range, whatever has to be multiplied on the way."""
    for what, u, v, x, want in (
        ("1e-200 · 1e200", 1e-200, 1e200, 1e200, 1e200),
        ("1e300 · 1e-200", 1e300, 1e-200, 1e-200, 1e-100),
        ("1e200 · 1e200", 1e200, 1e200, 1e-300, 1e100),
        ("1e-160 · 1e-160", 1e-160, 1e-160, 1e300, 1e-20),
    ):
        yield f"LowRank {what}", lambda b, u=u, v=v, x=x: sm.LowRank(b([[u], [2 * u]]), b([[v], [v]])) @ b([x, x]), Value([2 * want, 4 * want])
        yield f"LowRank rows {what}", lambda b, u=u, v=v, x=x: sm.LowRank(b([[u], [2 * u]]), b([[v], [v]])).apply(b([[x, x]])), Value([[2 * want, 4 * want]])
        yield f"Kronecker {what}", lambda b, u=u, v=v, x=x: sm.Kronecker(b([[u], [2 * u]]), b([[v, v]])) @ b([x, x]), Value([2 * want, 4 * want])
        yield f"Separated {what}", lambda b, u=u, v=v, x=x: (sm.Separated([b([[[u], [2 * u]]] * 2), b([[[v, v]]] * 2)], b([1.0, 1.0])) @ b([x, x])), Value([4 * want, 8 * want])
        yield f"LowDisplacementRank {what}", lambda b, u=u, v=v, x=x: sm.LowDisplacementRank(b([[u], [0]]), b([[v], [0]])) @ b([x, x]), Value([want, want], limit=400)
    yield "A / 5e-324", lambda b: (sm.Dense(b([[5e-324, 0]])) / 5e-324).to_dense(), Value([[1.0, 0]])
    yield "A / 1e308", lambda b: (sm.Diagonal(b([1e308, 1e-10])) / 1e308).to_dense(), Value([[1.0, 0], [0, 1e-318]])
    yield "A / 1e-310", lambda b: (sm.Circulant(b([1e-310, 0])) / 1e-310) @ b([1.0, 2]), Value([1.0, 2], limit=1e6)
    yield "A / 0", lambda b: (sm.Diagonal(b([1.0, -1, 0])) / 0).d, Value([np.inf, -np.inf, np.nan])
    yield "A · ∞", lambda b: (sm.Diagonal(b([1.0, -1, 0])) * np.inf).d, Value([np.inf, -np.inf, np.nan])
    yield "A · 1e200 · 1e200 / 1e300", lambda b: (sm.Kronecker(b(S3), b(S4)) * 1e200 * 1e200 / 1e300) @ b(X12), Value(D12 @ X12 * 1e100)
    yield "5e-324 A", lambda b: (5e-324 * sm.Diagonal(b([1.0, 2, 0.1]))).d, Value([5e-324, 1e-323, 0], scale=0)
    yield "overflow beside i", lambda b: sm.Dense(b([[1e308, 1e308]])) @ b([1j, 1j]), Value([complex(0, np.inf)], "complex128")
    yield "∞ i in x", lambda b: sm.Diagonal(b([2.0, 1])) @ b([complex(1, np.inf), 1]), Value([complex(2, np.inf), 1], "complex128")
    yield "cos and sin of one large and one small", lambda b: sm.Circulant(b([1e300, 1e-300])) @ b([1e-300, 0]), Value([1.0, 0])
    yield "float32 near overflow", lambda b: sm.Circulant(b([3e38, -3e38], "float32")) @ b([1.0, 1.0], "float32"), Value([0.0, 0], "float32", scale=3e38)
    yield "float32 subnormal", lambda b: sm.solve(sm.Circulant(b([2.0**-140, 0], "float32")), b([2.0**-140, 0], "float32")), Value([1.0, 0], "float32")
    yield "0 ⊗ ∞", lambda b: sm.Kronecker(b([[0.0]]), b([[np.inf]])).to_dense(), Value([[np.nan]])
    yield "1e308 ⊗ 1e-308 ⊗ 1e308 ⊗ 1e-308", lambda b: sm.Kronecker(*[b([[1e308]]), b([[1e-308]])] * 2) @ b([1.0]), Value([1.0])
    yield "20 factors of 1e300 and 20 of 1e-300", lambda b: sm.Kronecker(*[b([[1e300]])] * 20, *[b([[1e-300]])] * 20) @ b([3.0]), Value([3.0], limit=1e3)
    yield "1e-300 ⊗ … to dense", lambda b: sm.Kronecker(*[b([[1e300]])] * 3, *[b([[1e-300, 2e-300]])] * 3).to_dense()[0, 7], Value(8.0, limit=1e3)
    yield "the determinant of 1e-300 I", lambda b: sm.slogdet(sm.Kronecker(b(np.eye(10) * 1e-300), b(np.eye(10) * 1e300))).logabsdet, Value(0.0, scale=1e5)
    yield "the trace of 1e300 ⊗ 1e300 ⊗ 1e-300", lambda b: sm.trace(sm.Kronecker(b(np.eye(2) * 1e300), b(np.eye(2) * 1e300), b(np.eye(2) * 1e-300))), Value(8e300)
    yield "1e308 + 1e308 - 1e308", lambda b: (sm.Diagonal(b([1e308])) + sm.Diagonal(b([-1e308]))).d, Value([0.0], scale=0)
    yield "-0.0", lambda b: bool(np.signbit(host(sm.Diagonal(b([-0.0])).d)).all()), TRUE
    yield "solve 1e-300 x = 1e-300", lambda b: sm.solve(sm.Toeplitz(b([1e-300, 5e-301])), b([1e-300, 5e-301])), Value([1.0, 0])
    yield "solve with entries of 1e300", lambda b: sm.solve(sm.Dense(b([[1e300, 0], [1e300, 1e300]])), b([1e300, 1e300])), Value([1.0, 0])
    yield "lstsq with entries of 1e-300", lambda b: sm.lstsq(sm.Dense(b([[1e-300], [1e-300]])), b([2e-300, 4e-300])), Value([3.0])
    yield "svdvals of 1e300", lambda b: sm.svdvals(sm.Kronecker(b(np.diag([1e300, 1e299])), b(np.diag([1e-300, 1e-301])))), Value([1.0, 0.1, 0.1, 0.01])
    for what, f in (
        ("low rank", lambda M: sm.nearest_low_rank(M, 2)),
        ("Kronecker", lambda M: sm.nearest_kronecker(M, ((2, 2), (3, 3)), 4)),
        ("Toeplitz", sm.nearest_toeplitz),
        ("circulant", sm.nearest_circulant),
    ):
        for s in (1e200, 1e-200, 1e-310):
            scaled = FIT * s
            yield f"nearest {what} of {s}", lambda b, f=f, s=s, M=scaled: (abs(f(b(M)).relative_error - f(b(FIT)).relative_error) < (1e-9 if s > 1e-300 else 1e-3)), TRUE, "fit"


FIT = np.random.default_rng(5).standard_normal((6, 6))


def indices():
    good = {
        "-1": (np.s_[-1, -1], D12[-1, -1]),
        "a slice beyond the end": (np.s_[0:100, 0], D12[:, 0]),
        "an empty slice": (np.s_[5:2, 0], D12[5:2, 0]),
        "backwards": (np.s_[::-1, 0], D12[::-1, 0]),
        "backwards by 5": (np.s_[10:0:-5, 1], D12[10:0:-5, 1]),
        "numpy integers": (np.s_[np.int8(1), np.uint64(2)], D12[1, 2]),
        "everything": (np.s_[:, :], D12),
        "a slice of numpy integers": (np.s_[np.int64(1) : np.int64(3), 0], D12[1:3, 0]),
    }
    for what, (at, want) in good.items():
        yield what, lambda b, at=at: K(b)[at], Value(want), "entries"
    bad = {
        "True": np.s_[True, 0],
        "None": np.s_[None, 0],
        "...": np.s_[..., 0],
        "lists": np.s_[[0, 1], 0],
        "arrays": np.s_[np.array([0, 1]), 0],
        "three": np.s_[0, 0, 0],
        "none": (),
        "a string": "a",
        "a float": np.s_[0.0, 0],
        "a mask": np.s_[np.ones(12, bool), 0],
        "a step of 0": np.s_[::0, 0],
        "a slice of floats": np.s_[0.0:2, 0],
        "one": 0,
        "a complex": np.s_[1j, 0],
    }
    for what, at in bad.items():
        yield f"not {what}", lambda b, at=at: K(b)[at], Refusal(TypeError, "index|i|j", ".", "A.block|i:k"), "entries"
    for at in ((12, 0), (0, 12), (-13, 0), (0, -13), (10**30, 0), (2**63, 0), (-(2**64), 0)):
        yield f"outside {at}"[:40], lambda b, at=at: K(b)[at], Refusal(IndexError, "i|j", "integers from -12 to 11", "sizes"), "entries"
    blocks = {
        "twice": ([0, 0], [1, 1]),
        "unsorted": ([5, 2], [-1, 0]),
        "tuples": ((1, 2), (3,)),
        "arrays": (np.array([1, 2]), np.array([0])),
        "ranges": (range(3), range(11, 0, -4)),
        "numbers": (3, 4),
    }
    for what, (r, c) in blocks.items():
        yield f"block {what}", lambda b, r=r, c=c: K(b).block(r, c), Value(D12[np.ix_(np.atleast_1d(r), np.atleast_1d(c))]), "entries"
    for what, r in (
        ("a mask", np.ones(12, bool)),
        ("2-D", np.zeros((1, 1), int)),
        ("floats", [0.0]),
        ("strings", ["0"]),
        ("None", None),
        ("bools", [True]),
        ("nested", [[0]]),
        ("a string", "0"),
    ):
        yield f"block by {what}", lambda b, r=r: K(b).block(r, [0]), Refusal(TypeError, "rows", ".", "."), "entries"
    for r in ([12], [0, -13], range(13), 99):
        yield f"block outside {r}", lambda b, r=r: K(b).block(r, [0]), Refusal(IndexError, "rows", "integers from -12 to 11", "."), "entries"


def operators():
    """Python's and NumPy's operators on a matrix: right, or refused; never dense in silence."""
    A = sm.Kronecker(S3, S4)
    yield "explain, x a list", lambda b: str(sm.explain(K(b), X12.tolist())) == str(sm.explain(K(b), b(X12))), TRUE
    yield "explain, x of integers", lambda b: str(sm.explain(K(b), b(np.arange(12), "int64"))) == str(sm.explain(K(b), b(X12))), TRUE
    refused = {
        "np.add": lambda: np.add(A, A),
        "np.sin": lambda: np.sin(A),
        "np.multiply": lambda: np.multiply(2, A),
        "np.matmul": lambda: np.matmul(A, X12),
        "np.dot": lambda: np.dot(A, X12),
        "np.kron": lambda: np.kron(A, S3),
        "np.sum": lambda: np.sum(A),
        "np.linalg.norm": lambda: np.linalg.norm(A),
        "np.linalg.solve": lambda: np.linalg.solve(A, X12),
        "np.allclose": lambda: np.allclose(A, A),
        "np.concatenate": lambda: np.concatenate([A, A]),
        "np.trace": lambda: np.trace(A),
        "np.einsum": lambda: np.einsum("ij->", A),
        "np.linalg.inv": lambda: np.linalg.inv(A),
        "A + 1": lambda: A + 1,
        "1 + A": lambda: 1 + A,
        "A - 1": lambda: A - 1,
        "1 - A": lambda: 1 - A,
        "A + array": lambda: A + np.ones((12, 12)),
        "array + A": lambda: np.ones((12, 12)) + A,
        "array - A": lambda: np.ones((12, 12)) - A,
        "A * array": lambda: A * X12,
        "array * A": lambda: X12 * A,
        "A * A": lambda: A * A,
        "2 / A": lambda: 2 / A,
        "array / A": lambda: X12 / A,
        "A / A": lambda: A / A,
        "A ** 2": lambda: A**2,
        "2 ** A": lambda: 2**A,
        "A // 2": lambda: A // 2,
        "A % 2": lambda: A % 2,
        "abs": lambda: abs(A),
        "~A": lambda: ~A,
        "A & A": lambda: A & A,
        "A < A": lambda: A < A,
        "len": lambda: len(A),
        "list": lambda: list(A),
        "in": lambda: 1.0 in A,
        "float": lambda: float(A),
        "int": lambda: int(A),
        "A()": lambda: A(X12),
        "round": lambda: round(A),
        "A @ None": lambda: A @ None,
        "A @ str": lambda: A @ "x",
        "str * A": lambda: "2" * A,
        "None * A": lambda: None * A,
        "[2] * A": lambda: [2.0] * A,
        "math.sqrt": lambda: __import__("math").sqrt(A),
        "sum with 1": lambda: sum([A, A], 1),
        "A += 1": lambda: operator.iadd(A, 1),
        "A @= array": lambda: operator.imatmul(A, "x"),
        "del A.factors": lambda: delattr(A, "factors"),
        "A.factors = 1": lambda: setattr(A, "factors", 1),
        "sm.Sum()": lambda: sm.Sum(),
        "sm.Product()": lambda: sm.Product(),
        "sm.Scaled()": lambda: sm.Scaled(),
        "StructuredMatrix()": lambda: sm.StructuredMatrix(),
        "copy=False": lambda: np.array(A, copy=False),
        "A.T = 1": lambda: setattr(A, "T", 1),
        "A[0, 0] = 1": lambda: operator.setitem(A, (0, 0), 1),
    }
    for what, call in refused.items():
        yield what, lambda b, call=call: call(), Refusal((TypeError, AttributeError, ValueError), None, "."), "other"
    right = {
        "np.float64 * A": (lambda: (np.float64(2) * A) @ X12, 2 * D12 @ X12),
        "0-d * A": (lambda: (np.array(2.0) * A) @ X12, 2 * D12 @ X12),
        "array @ A": (lambda: X12 @ A, X12 @ D12),
        "stack @ A": (lambda: np.ones((2, 3, 12)) @ A, np.ones((2, 3, 12)) @ D12.astype(float)),
        "sum": (lambda: sum([A, A]) @ X12, 2 * D12 @ X12),
        "-A": (lambda: (-A) @ X12, -D12 @ X12),
        "+A": (lambda: (+A) @ X12, D12 @ X12),
        "A - A": (lambda: (A - A) @ X12, 0 * X12),
        "np.asarray": (lambda: np.asarray(A), D12),
        "np.array": (lambda: np.array(A), D12),
        "A * True": (lambda: (A * True) @ X12, D12 @ X12),
        "A * Fraction": (lambda: (A * __import__("fractions").Fraction(1, 2)) @ X12, D12 @ X12 / 2),
        "A @ list": (lambda: A @ list(X12), D12 @ X12),
        "list @ A": (lambda: list(X12) @ A, X12 @ D12),
    }
    for what, (call, want) in right.items():
        yield f"{what} is right", lambda b, call=call: call(), Value(want, library="numpy", scale=10), "other"
    yield "np.asarray float32", lambda b: np.asarray(A, dtype=np.float32), Value(D12, "float32", library="numpy"), "other"
    yield "in place", in_place, TRUE, "other"
    yield "x @= A", lambda b: x_imatmul(b), TRUE, "other"
    for what, s in (("10^400", 10**400), ("-10^400", -(10**400))):
        yield f"A * {what}", lambda b, s=s: K(b) * s, Refusal(ValueError, "s", "beyond the range", "floats"), "other"
    for what, s in (
        ("None", None),
        ("'2'", "2"),
        ("a list", [1.0, 2]),
        ("a set", {1}),
        ("a matrix", S3),
        ("dates", np.array(["2020"], "M8[Y]")[0]),
        ("longdouble", np.longdouble(2)),
        ("float16", np.float16(2)),
        ("2^53 + 1", np.array(2**53 + 1)),
    ):
        ok = what in ("longdouble", "float16")
        yield f"A * {what}", lambda b, s=s: K(b) * s, Refusal((TypeError, ValueError), "s", ".", ".") if not ok else Value(2 * D12), "other"
    for t, s, want in (
        ("float32", 2.0, "float32"),
        ("float32", 2j, "complex64"),
        ("float64", np.float32(2), "float64"),
        ("float32", np.float64(2), "float32"),
        ("complex64", 2, "complex64"),
        ("float32", True, "float32"),
    ):
        yield f"dtype of {t} times {type(s).__name__}", lambda b, t=t, s=s: (s * sm.Dense(b(S3, t))).to_dense(), Value(S3.astype(t).astype(np.clongdouble if want.startswith("c") else L) * s, want), "other"


def in_place(b):
    """A += B, A *= 2, A @= B bind new matrices; the old ones stay."""
    A = B = sm.Diagonal(b(X3))
    before = host(A.to_dense()).copy()
    A += B
    A *= 2
    A @= B
    A -= B
    A /= 2
    return (
        bool(np.all(host(B.to_dense()) == before))
        and A is not B
        and bool(np.allclose(host(A.to_dense()), (4 * before @ before - before) / 2))
    )


def x_imatmul(b):
    """x @= A is x @ A or an error."""
    x = b(X12)
    want = X12 @ D12.astype(float)
    try:
        y = operator.imatmul(b.xp.asarray(x, copy=True), K(b))
    except TypeError:
        return True
    return bool(np.allclose(host(y), want))


def results():
    """Writing to what a call returned changes nothing of the matrix."""
    asked = {
        "A @ x": lambda A, b: A @ b(np.ones(A.shape[1])),
        "x @ A": lambda A, b: A.__rmatmul__(b(np.ones(A.shape[0]))),
        "to_dense": lambda A, b: A.to_dense(),
        "a row": lambda A, b: A[0, :],
        "a block": lambda A, b: A.block(slice(None), slice(None)),
        "diagonal": lambda A, b: sm.diagonal(A),
        "apply": lambda A, b: A.apply(b(np.ones((1, A.shape[1])))),
    }
    for name in CLASSES:
        yield f"{name} is not written to", lambda b, n=name: all(unwritten(built(b, n), f, b) for f in asked.values()), TRUE, "other"
    yield "Identity @ x is a copy", lambda b: sm.Identity(3, like=b(1.0)) @ b(X3), Value(X3, scale=0), "product"
    yield "solve(Identity, x) is a copy", lambda b: sm.solve(sm.Identity(3, like=b(1.0)), b(X3)), Value(X3, scale=0), "solve"
    yield "x is not kept", lambda b: (lambda x, A: (A @ x, A._memo if hasattr(A, "_memo") else {})[0])(b(X3), sm.Circulant(b(X3))), Value(circulant(X3) @ X3), "product"
    for name in CLASSES:
        yield f"{name} does not follow its input", lambda b, n=name: independent(b, n), TRUE, "build", "state", ("numpy", "array_api_strict")


def unwritten(A, f, b):
    y = f(A, b)
    first = host(y).copy()
    y[...] = 7
    if isinstance(y, np.ndarray) and any(np.may_share_memory(y, a) for a in A.arrays()):
        return False
    return bool(np.all(host(f(A, b)) == first))


def independent(b, name):
    from cases import BY_NAME

    arrays = [b.xp.asarray(np.array(a)) for a in member(name)[0]]
    A = BY_NAME[name].make(*arrays)
    before = host(A.to_dense()).copy()
    for a in arrays:
        a[...] = 9.0
    return bool(np.all(host(A.to_dense()) == before))


def arguments():
    """What fits nowhere: shapes of x, wrong kinds of matrices, half-given pairs."""
    for what, shape in (
        ("3-D", (2, 12, 3)),
        ("4-D", (2, 1, 12, 3)),
        ("an empty stack", (0, 12, 2)),
        ("columns of none", (12, 0)),
    ):
        x = np.random.default_rng(1).standard_normal(shape)
        yield f"x {what}", lambda b, x=x: K(b) @ b(x), Value(D12.astype(float) @ x), "product"
    for axis in (0, 1, 2, -1, -3, np.int64(1)):
        x = np.moveaxis(np.random.default_rng(1).standard_normal((2, 5, 12)), -1, axis)
        yield f"apply along {axis} {type(axis).__name__}", lambda b, x=x, a=axis: K(b).apply(b(x), a), Value(np.moveaxis(np.tensordot(D12.astype(float), x, (1, axis)), 0, axis)), "product"
    for axis in (3, -4, 1.0, "0", None, True, 10**30):
        yield f"apply along {axis!r}", lambda b, a=axis: K(b).apply(b(np.ones((2, 5, 12))), a), Refusal((ValueError, TypeError), "axis", "integer from -3 to 2", "."), "product"
    yield "x (1, 12, 1, 1)", lambda b: K(b) @ b(np.ones((1, 12, 1, 1))), Refusal(sm.ShapeError, "x", r"\(1, 12, 1, 1\)", "."), "product"
    yield "b (12, 2, 1)", lambda b: sm.solve(K(b), b(np.ones((12, 2, 1)))), Refusal(sm.ShapeError, "b", r"\(12, 2, 1\)", "."), "solve"
    yield "b (1, 12)", lambda b: sm.solve(K(b), b(np.ones((1, 12)))), Refusal(sm.ShapeError, "b", r"\(1, 12\)", "."), "solve"
    yield "b (24,)", lambda b: sm.solve(K(b), b(np.ones(24))), Refusal(sm.ShapeError, "b", r"\(24,\)", "."), "solve"
    yield "b (12, 0)", lambda b: sm.solve(K(b), b(np.ones((12, 0)))), Value(np.zeros((12, 0))), "solve"
    yield "b a scalar", lambda b: sm.solve(K(b), 1.0), Refusal(sm.ShapeError, "b", r"\(\)", "."), "solve"
    yield "b of integers", lambda b: sm.solve(sm.Diagonal(b([2.0, 4])), b([1, 1], "int64")), Value([0.5, 0.25]), "solve"
    yield "b complex, A float32", lambda b: sm.solve(sm.Diagonal(b([2.0, 4], "float32")), b([1j, 1], "complex64")), Value([0.5j, 0.25], "complex64"), "solve"
    yield "b float64, A complex64", lambda b: sm.solve(sm.Dense(b(np.eye(2), "complex64")), b([1.0, 2])), Value([1, 2], "complex128"), "solve"
    yield "A 1×1", lambda b: sm.solve(sm.Toeplitz(b([4.0])), b([2.0])), Value([0.5]), "solve"
    yield "A 1×1 zero", lambda b: sm.solve(sm.Toeplitz(b([0.0])), b([2.0])), Refusal(sm.SingularMatrixError, ".", "singular|rcond", "."), "solve"
    for r in (-1, 1, 2, np.nan, "0", True, 1j, []):
        yield f"rcond {r!r}", lambda b, r=r: sm.lstsq(sm.Dense(b(S3)), b(X3), r), Refusal((ValueError, TypeError), "rcond", "number", "."), "solve"
    for s in (
        ((2, 2),),
        ((2, 2), (4, 3)),
        ((2, 2), (3, -3)),
        ((2.0, 2), (3, 3)),
        (),
        [[2, 2]],
        "auto",
        None,
        5,
        ((2, 2, 2), (3, 3, 3)),
        ((2, 2), None),
        ((6, 6), (0, 1)),
        {(2, 2): 1},
    ):
        yield f"shapes {s!r}"[:46], lambda b, s=s: sm.nearest_kronecker(b(FIT), s), Refusal((ValueError, TypeError), "shapes", ".", "."), "fit"
    for c, r in (
        ([], [1.0]),
        ([1.0], []),
        ([1.0, 2], [1.0, np.nan, "x"]),
        ([1.0], 1.0),
        (1.0, None),
        ([[1.0]], None),
        ([1.0, 2], [np.nan, 1.0]),
    ):
        yield f"Toeplitz {c} {r}"[:46], lambda b, c=c, r=r: sm.Toeplitz(c, r), Refusal((ValueError, TypeError), "c|r", ".", "."), "build"
    yield "Toeplitz 1×4", lambda b: sm.Toeplitz(b([1.0]), b([1.0, 2, 3, 4])).to_dense(), Value([[1.0, 2, 3, 4]], scale=0), "build"
    yield "Toeplitz, both corners NaN", lambda b: sm.Toeplitz(b([np.nan, 1]), b([np.nan, 2])).to_dense(), Value([[np.nan, 2], [1, np.nan]]), "build"
    for v in (S3, "x", None, 3, [S3], np.float64(1)):
        yield f"compress {type(v).__name__}", lambda b, v=v: sm.compress(v, rank=1), Refusal(TypeError, "A", "a \\w+", "."), "fit"
    yield "compress a Toeplitz", lambda b: sm.compress(sm.Toeplitz(b(X3)), rank=1), Refusal(TypeError, "A", "Toeplitz", "nearest_separated"), "fit"
    yield "inner of other splits", lambda b: sm.inner(sm.convert(sm.Kronecker(b(S3), b(S4)), sm.Separated), sm.convert(sm.Kronecker(b(S4), b(S3)), sm.Separated)), Refusal((ValueError, TypeError), "B", "3×3|4×4", "."), "other"
    yield "hadamard of other shapes", lambda b: sm.hadamard(sm.Dense(b(S3)), sm.Dense(b(S4))), Refusal((ValueError, TypeError, NotImplementedError), "A|B", ".", "."), "other"
    for f in (5, -3, "0", 1.5, None, [0, 0], [7], True):
        yield f"partial trace {f!r}", lambda b, f=f: sm.partial_trace(sm.convert(K(b), sm.Separated), f), Refusal((ValueError, TypeError, IndexError), "factors", ".", "."), "other"
    for t in ("int8", "banana", None, "float16", "bool", int, "U3", object, "datetime64[s]", 5, "longdouble"):
        yield f"astype {t!r}", lambda b, t=t: refuse_half(b, t), Refusal(TypeError, "dtype", ".", "float32, float64"), "other"
    yield "astype overflows", lambda b: sm.Diagonal(b([1e300, -1e300, 1.0])).astype("float32").d, Value([np.inf, -np.inf, 1], "float32"), "other"
    for d in ("cuda:99", "banana", 5, "cuda", ""):
        yield f"to_device {d!r}", lambda b, d=d: K(b).to_device(d), Refusal((RuntimeError, TypeError, ValueError), "device", ".", "."), "other", "device"
    for kind in (sm.Toeplitz, sm.Sum, int, "Toeplitz", None, sm.StructuredMatrix):
        yield f"convert to {kind!r}", lambda b, k=kind: sm.convert(K(b), k), Refusal((NotImplementedError, TypeError), "structure|A", ".", "approximate|."), "other"
    for o in ("Fro", "inf", None, 0, -1, 3, True, 2.5, np.nan, [], "2"):
        yield f"norm {o!r}", lambda b, o=o: sm.norm(K(b), o), Refusal((ValueError, TypeError), "ord", "expected 'fro'", "."), "other"
    for m in (0, -1, 1.5, True, "10", np.nan):
        yield f"max_parameters {m!r}", lambda b, m=m: sm.approximate(b(FIT), m), Refusal((ValueError, TypeError), "max_parameters", "integer", "."), "fit"
    for m in (0, -1, 0.5, np.nan, "2", True, 1j):
        yield f"max_condition {m!r}", lambda b, m=m: sm.compress(sm.convert(K(b), sm.Separated), rank=1, max_condition=m), Refusal((ValueError, TypeError), "max_condition", "number", "."), "fit"
    for flag in (None, 1, 0, "no", "", [], np.ones(2), 1.0):
        yield f"symmetric={flag!r}", lambda b, f=flag: sm.nearest_toeplitz(b(FIT), f), Refusal(TypeError, "symmetric", "True or False", "bool"), "fit"


def refuse_half(b, t):
    if b.name == "torch" and t == "float16":
        raise Skip("torch has half precision")
    return sm.Dense(b(S3)).astype(t)


def tensors():
    """torch's own kinds of tensors."""

    def t(b, x=S3, dtype="float64"):
        return tensor(b, x, dtype)

    def torch_():
        import torch

        return torch

    yield "requires_grad flows", lambda b: gradient(b), TRUE, "product"
    yield "a Parameter", lambda b: sm.Dense(torch_().nn.Parameter(t(b))).array.requires_grad, TRUE, "build"
    yield "a subclass", lambda b: sm.Kronecker(t(b).as_subclass(subclass()), t(b, S4)) @ t(b, X12), Value(D12 @ X12), "product"
    yield "sparse COO", lambda b: sm.Dense(t(b).to_sparse()), Refusal(TypeError, "A", "sparse", "to_dense"), "build"
    yield "sparse CSR", lambda b: sm.Dense(quietly(lambda: t(b).to_sparse_csr())), Refusal(TypeError, "A", "sparse", "to_dense"), "build"
    yield "sparse x", lambda b: K(b) @ t(b, X12).to_sparse(), Refusal(TypeError, "x", "sparse", "to_dense"), "product"
    yield (
        "meta: product",
        lambda b: (sm.Dense(torch_().empty(3, 3, device="meta")) @ torch_().empty(3, device="meta")).shape == (3,),
        TRUE,
        "product",
    )
    yield "meta: solve", lambda b: sm.solve(sm.Dense(torch_().empty(3, 3, device="meta")), torch_().empty(3, device="meta")), Refusal((TypeError, ValueError, RuntimeError), "A|b", "meta", "."), "solve"
    yield "meta: mixed", lambda b: sm.Dense(t(b)) @ torch_().empty(3, device="meta"), Refusal(TypeError, "x", "mixed.*meta", "."), "product"
    yield "meta: fit", lambda b: sm.nearest_circulant(torch_().empty(3, 3, device="meta")), Refusal((TypeError, ValueError, RuntimeError), "M", "meta", "."), "fit"
    yield "float8", lambda b: sm.Dense(t(b).to(torch_().float8_e4m3fn)), Refusal(TypeError, "A", "float8", "float32|float64"), "build"
    yield "complex32", lambda b: sm.Dense(quietly(lambda: t(b, S3, "complex64").to(torch_().complex32))), Refusal(TypeError, "A", "complex32", "float32"), "build"
    yield "uint16", lambda b: sm.Dense(torch_().ones(2, 2, dtype=torch_().uint16)) @ torch_().ones(2, dtype=torch_().float64), Value([2.0, 2]), "product"
    yield "quantized", lambda b: sm.Dense(quietly(lambda: torch_().quantize_per_tensor(torch_().ones(2, 2), 0.1, 0, torch_().qint8))), Refusal(TypeError, "A", "qint8|quantized", "."), "build"
    yield "nested", lambda b: sm.Dense(quietly(lambda: torch_().nested.nested_tensor([torch_().ones(2), torch_().ones(3)]))), Refusal((TypeError, ValueError), "A", "nested", "."), "build"
    yield "uninitialised", lambda b: sm.Diagonal(torch_().nn.parameter.UninitializedParameter()), Refusal(TypeError, "d", "uninitialised", "module once"), "build"
    yield "uninitialised x", lambda b: K(b) @ torch_().nn.parameter.UninitializedParameter(), Refusal(TypeError, "x", "uninitialised", "module once"), "product"
    yield "masked", lambda b: sm.Diagonal(masked(b)), Refusal(TypeError, "d", "a masked tensor", "to_tensor"), "build"
    yield "masked x", lambda b: sm.Dense(t(b)) @ masked(b), Refusal(TypeError, "x", "a masked tensor", "to_tensor"), "product"
    yield "zeros without memory", lambda b: (lambda z: sm.Kronecker(z, t(b, S4)) @ t(b, X12))(torch_()._efficientzerotensor((3, 3), dtype=torch_().float64)), Value(np.zeros(12)), "product"
    yield "fit of what requires a gradient", asked_to_warn, TRUE, "fit"
    yield "inference mode", inference, TRUE, "product"
    yield "no_grad", lambda b: no_grad(b), TRUE, "product"
    for name, f in TRANSFORMED.items():
        for way in (through_grad, through_dual):
            yield f"{way.__name__} {name}", lambda b, f=f, way=way: way(b, f), TRUE, "other"
    for name, f in FITTED.items():
        yield f"a fit under jacrev, {name}", lambda b, f=f: torch_().func.jacrev(lambda M: f(M).sum())(t(b, S3 @ S3.T + 3 * np.eye(3))), Refusal(TypeError, ".", "torch.func", "Detach"), "fit"
        yield f"a fit in forward mode, {name}", lambda b, f=f: through_dual(b, lambda c: f(c[:3, None] * c[:3] + c.new_ones(3).diag())), Refusal(TypeError, ".", "forward mode", "Detach"), "fit"
        yield f"a fit of what requires a gradient, {name}", lambda b, f=f: not f(t(b, S3 @ S3.T + 3 * np.eye(3)).requires_grad_()).requires_grad, TRUE, "fit"
    yield "vmap over b", lambda b: (lambda A: torch_().func.vmap(lambda x: sm.solve(A, x))(t(b, np.eye(4))))(sm.Circulant(t(b, X4))), Refusal(TypeError, "b", "vmap", "columns"), "solve"
    yield "vmap over a solved matrix", lambda b: torch_().func.vmap(lambda c: sm.solve(sm.Toeplitz(c), torch_().ones(4, dtype=c.dtype)))(t(b, np.stack([X4, X4]))), Refusal(TypeError, "A", "vmap", "loop"), "solve"
    yield "vmap over a norm", lambda b: torch_().func.vmap(lambda F: sm.norm(sm.Separated([F[None], F[None]])))(t(b, np.stack([S3, S3]))), Refusal(TypeError, "x", "vmap", "loop"), "other"
    yield "negative bit", lambda b: sm.solve(sm.Toeplitz(t(b, [4.0, 1, 0])), (t(b, np.ones(3)) * (1 + 1j)).conj().imag), Value(np.linalg.solve(np.array([[4.0, 1, 0], [1, 4, 1], [0, 1, 4]]), -np.ones(3))), "solve"
    yield "explain, x on another device", lambda b: sm.explain(sm.Dense(t(b)), torch_().empty(3, device="meta")), Refusal(TypeError, "x", "mixed devices", "."), "other"
    yield "explain, x of NumPy", lambda b: sm.explain(sm.Dense(t(b)), np.ones(3)), Refusal(TypeError, "x", "mixed libraries", "."), "other"
    yield "vmap", lambda b: (lambda A: torch_().func.vmap(lambda x: A @ x))(sm.Circulant(t(b, X4)))(t(b, np.eye(4))), Value(circulant(X4).T), "product"
    yield "vmap over factors", lambda b: torch_().func.vmap(lambda F, x: sm.Kronecker(F, F) @ x)(t(b, np.stack([S3, 2 * S3])), t(b, np.ones((2, 9)))), Value(np.stack([np.kron(S3, S3).sum(1), 4 * np.kron(S3, S3).sum(1)])), "product"
    yield "vmap over low rank", lambda b: torch_().func.vmap(lambda F, x: sm.LowRank(F, F) @ x)(t(b, np.stack([S3, 2 * S3])), t(b, np.ones((2, 3)))), Value(np.stack([(S3 @ S3.T).sum(1), 4 * (S3 @ S3.T).sum(1)])), "product"
    yield "vmap over terms", lambda b: torch_().func.vmap(lambda F, x: sm.Separated([F, F]) @ x)(t(b, np.stack([[S3], [2 * S3]])), t(b, np.ones((2, 9)))), Value(np.stack([np.kron(S3, S3).sum(1), 4 * np.kron(S3, S3).sum(1)])), "product"
    yield "vmap over generators", lambda b: torch_().func.vmap(lambda F, x: sm.LowDisplacementRank(F, F) @ x)(t(b, np.stack([S3, S3])), t(b, np.ones((2, 3)))), Value(np.stack([ref.low_displacement_rank(ref.wide(S3), ref.wide(S3), (3, 3)).sum(1)] * 2)), "product"
    yield "vmap over scales", lambda b: (lambda A, x: torch_().func.vmap(lambda s: (s * A) @ x)(t(b, [1.0, 2.0])))(K(b), b(X12)), Value(np.stack([D12 @ X12, 2 * D12 @ X12])), "product"
    yield "vmap over data", lambda b: torch_().func.vmap(lambda c, x: sm.Circulant(c) @ x)(t(b, np.stack([X4, 2 * X4])), t(b, np.stack([X4, X4]))), Value(np.stack([circulant(X4) @ X4, 2 * circulant(X4) @ X4])), "product"
    yield (
        "jvp",
        lambda b: (
            quietly(lambda: torch_().func.jvp(torch_().sin, (torch_().ones(1),), (torch_().ones(1),)))
            and (lambda x: torch_().func.jvp(lambda c: sm.Circulant(c) @ x, (t(b, X4),), (t(b, np.eye(4)[0]),))[1])(
                t(b, X4)
            )
        ),
        Value(X4),
        "product",
    )
    yield "written to after a product", lambda b: follows(b), TRUE, "product"
    yield "float32 by default", lambda b: sm.Identity(2, like=torch_().ones(1)).dtype == torch_().float32, TRUE, "build"
    yield "a list of tensors", lambda b: sm.Dense([t(b, X3), t(b, X3)]), Refusal(TypeError, "A", "a list of torch arrays", "Stack"), "build"
    yield "a tensor on NumPy data", lambda b: np.ones((3, 3)) @ sm.Dense(t(b)), Refusal(TypeError, "x", "mixed libraries", "."), "product"
    yield "tensor @ A", lambda b: t(b, X3) @ sm.Dense(t(b)), Value(X3 @ S3.astype(L)), "product"
    yield "tensor * A", lambda b: (torch_().tensor(2.0, dtype=torch_().float64) * sm.Dense(t(b))) @ t(b, X3), Value(2 * S3.astype(L) @ X3), "other"
    yield "tensor + A", lambda b: t(b) + sm.Dense(t(b)), Refusal(TypeError, None, "."), "other"
    yield "torch.sum(A)", lambda b: torch_().sum(sm.Dense(t(b))), Refusal(TypeError, None, "."), "other"
    yield "torch.linalg.solve(A)", lambda b: torch_().linalg.solve(sm.Dense(t(b)), t(b, X3)), Refusal(TypeError, None, "."), "other"


def masked(b):
    return quietly(lambda: _torch().masked.masked_tensor(tensor(b, X3, "float64"), _torch().tensor([True, False, True])))


def asked_to_warn(b):
    """torch warns of some things once in a process; here each time."""
    before = _torch().is_warn_always_enabled()
    _torch().set_warn_always(True)
    try:
        return sm.nearest_kronecker(tensor(b, np.kron(S3, S4), "float64", True), ((3, 3), (4, 4)), 1).relative_error < 1e-15
    finally:
        _torch().set_warn_always(before)


def subclass():
    import torch

    class Mine(torch.Tensor):
        pass

    return Mine


def quietly(make):
    """What warns only because torch calls it a prototype."""
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return make()
        except (RuntimeError, NotImplementedError) as error:
            raise Skip(f"this torch cannot make it: {str(error)[:40]}") from None


def gradient(b):
    c = tensor(b, X4, "float64", True)
    (sm.Circulant(c) @ tensor(b, X4, "float64")).sum().backward()
    return bool(np.allclose(host(c.grad), X4.sum()))


FITTED = {
    "compress": lambda M: sm.compress(sm.Separated([M[None], M[None] @ M]), rank=1).matrix.to_dense(),
    "compress_displacement": lambda M: sm.compress_displacement(sm.LowDisplacementRank(M, M), rank=1).matrix.to_dense(),
    "nearest_displacement": lambda M: sm.nearest_displacement(M, 1).matrix.to_dense(),
    "nearest_separated": lambda M: sm.nearest_separated(M.new_zeros(8, 8) + M[0, 0], ((2, 2),) * 3, 1).matrix.to_dense(),
    "approximate": lambda M: sm.approximate(M, 5)[0].matrix.to_dense(),
    "schulz_inverse": lambda M: sm.schulz_inverse(sm.KroneckerSum(M, M), 0.1).matrix.to_dense(),
    "power_iteration": lambda M: sm.power_iteration(sm.KroneckerSum(M, M), rank=1).vector.to_dense(),
}
TRANSFORMED = {
    "solve, Toeplitz": lambda c: sm.solve(sm.Toeplitz(c), 1 + c),
    "solve, Dense": lambda c: sm.solve(sm.Dense(c[:, None] * c + 1.0 * c.new_ones(4).diag()), c),
    "solve, Kronecker": lambda c: sm.solve(sm.Kronecker((1 + c).diag(), (2 + c).diag()), c.new_ones(16)),
    "lstsq, Toeplitz": lambda c: sm.lstsq(sm.Toeplitz(c.new_tensor([4.0, 1, 0, 1])), c),
    "slogdet, Toeplitz": lambda c: sm.slogdet(sm.Toeplitz(c)).logabsdet,
    "inverse, Toeplitz": lambda c: sm.inverse(sm.Toeplitz(c)).to_dense(),
    "solve, Circulant": lambda c: sm.solve(sm.Circulant(c), c.new_ones(4) + c**2),
    "nearest low rank": lambda c: sm.nearest_low_rank(c[:, None] * c + c.diag(), rank=1).matrix.to_dense(),
}
def _torch():
    import torch

    return torch


START, ALONG = [5.0, 1.0, 0.5, 0.25], [0.3, -0.2, 0.5, 0.1]


def _agrees(b, f, derivative):
    """A directional derivative beside a central difference."""
    c, v, h = tensor(b, START, "float64"), tensor(b, ALONG, "float64"), 1e-5
    want = (f(c + h * v) - f(c - h * v)) / (2 * h)
    return bool(abs(derivative(c, v) - want).max() <= 1e-8 * (1 + abs(want).max()))


def through_grad(b, f):
    return _agrees(b, lambda c: f(c).sum(), lambda c, v: _torch().func.grad(lambda c: f(c).sum())(c) @ v)


def through_dual(b, f):
    """Forward mode without torch.func: where the tangent is lost, nothing says so but this."""
    forward = _torch().autograd.forward_ad

    def derivative(c, v):
        with forward.dual_level():
            return forward.unpack_dual(f(forward.make_dual(c, v))).tangent

    quietly(lambda: derivative(tensor(b, START, "float64"), tensor(b, ALONG, "float64")))  # torch warns on its first use
    return _agrees(b, f, derivative)


def inference(b):
    """A matrix made in inference mode multiplies outside of it, and the other way round."""
    import torch

    with torch.inference_mode():
        A = sm.Circulant(torch.ones(4, dtype=torch.float64))
        A @ torch.ones(4, dtype=torch.float64)
    y = A @ tensor(b, X4, "float64")
    B = sm.Circulant(tensor(b, X4, "float64"))
    with torch.inference_mode():
        B @ torch.ones(4, dtype=torch.float64)
    z = B @ torch.ones(4, dtype=torch.float64)
    return bool(np.allclose(host(y), X4.sum())) and bool(np.allclose(host(z), X4.sum()))


def no_grad(b):
    """What is remembered without gradients does not stop them later."""
    import torch

    c = tensor(b, X4, "float64", True)
    A = sm.Circulant(c)
    with torch.no_grad():
        A @ tensor(b, X4, "float64")
    return (A @ tensor(b, X4, "float64")).requires_grad


def follows(b):
    """A tensor is shared: writing to it changes the matrix, a remembered spectrum included."""
    import torch

    c = torch.tensor(X4)
    A = sm.Circulant(c)
    A @ tensor(b, X4, "float64")
    A.T @ tensor(b, X4, "float64")
    c.mul_(2)
    return bool(np.allclose(host(A @ tensor(b, X4, "float64")), 2 * (circulant(X4) @ X4).astype(float))) and bool(
        np.allclose(host(A.T @ tensor(b, X4, "float64")), 2 * (circulant(X4).T @ X4).astype(float))
    )


def oracles():
    """Sizes at which transforms, panels and plans change their route."""
    for n in (1, 2, 3, 17, 64, 97, 127, 128, 129, 256, 257, 1009):
        c, x = np.random.default_rng(n).standard_normal((2, n))
        scale = np.linalg.norm(c) * np.linalg.norm(x)
        yield f"Circulant {n}", lambda b, c=c, x=x: sm.Circulant(b(c)) @ b(x), Value(functools.partial(wrapped, c, x), scale=scale)
        yield f"Toeplitz {n}", lambda b, c=c, x=x: sm.Toeplitz(b(c)) @ b(x), Value(functools.partial(banded, c, x), scale=2 * scale)
        if n > 500:
            continue
        yield f"Toeplitz solve {n}", lambda b, c=c, x=x: small_residual(b, c, x), TRUE
    for shapes in (((1, 1),) * 7, ((2, 1), (1, 2)) * 3, ((16, 16), (16, 16)), ((65, 3), (2, 70)), ((1, 300), (300, 1))):
        F = [np.random.default_rng(i).standard_normal(s) for i, s in enumerate(shapes)]
        D = functools.reduce(np.kron, F)
        x = np.random.default_rng(1).standard_normal(D.shape[1])
        yield f"Kronecker {shapes[:2]} {len(shapes)}", lambda b, F=F, x=x: sm.Kronecker(*map(b, F)) @ b(x), Value(D @ x, scale=np.max(np.abs(D)) * np.sum(np.abs(x)))


def wrapped(c, x):
    return (
        ref.circulant(ref.wide(c), (len(c), len(c))) @ ref.wide(x)
        if len(c) < 300
        else np.convolve(np.concatenate([c, c]), x)[len(c) : 2 * len(c)]
    )


def banded(c, x):
    n = len(c)
    return (
        np.convolve(np.concatenate([c[:0:-1], c]), x)[n - 1 : 2 * n - 1]
        if n > 300
        else toeplitz(ref.wide(c)) @ ref.wide(x)
    )


def small_residual(b, c, x):
    n = len(c)
    T = sm.Toeplitz(c)
    T = T.to_dense()
    y = host(sm.solve(sm.Toeplitz(b(c)), b(T @ x)))
    return bool(np.linalg.norm(T @ (y - x)) <= 30 * max(n, 4) * 2.0**-53 * np.linalg.norm(T, 2) * np.linalg.norm(y))


def cases():
    sections = (
        ("size", sizes, "other"),
        ("scale", scales, "product"),
        ("index", indices, "entries"),
        ("operator", operators, "other"),
        ("state", results, "other"),
        ("argument", arguments, "other"),
        ("tensor", tensors, "other"),
        ("route", oracles, "product"),
    )
    for kind, section, operation in sections:
        for what, call, promise, *more in section():
            on = TORCH if section is tensors else Case.on
            yield Case("own", f"{kind}: {what}", call, promise, more[0] if more else operation, more[1] if len(more) > 1 else kind, more[2] if len(more) > 2 else on)
