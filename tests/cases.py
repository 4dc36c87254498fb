"""The one place where a class of the library is named: each case says how to build a matrix and what it must be.

A case gives the shapes of its arrays, how the library makes the matrix from them, the oracle made from the same numbers
by the loops of reference.py, and the classes that come back. All laws of test_contract.py then hold for it, on every
backend and dtype; a new structure is one more entry.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import reduce
from typing import Any

import numpy as np
import reference as ref
from reference import Oracle

import sepmat as sm


@dataclass(frozen=True)
class Case:
    """make(*arrays of any library) is the matrix, oracle(*the same numbers in NumPy) what it must be.

    T, scaled, plus, times: the classes of A.T, s A, A + A' and A @ A'ᴴ, A' being of the same kind with other numbers.
    half: the number of roundings to 16 bits in a product, where torch's half precisions are supported.
    """

    name: str
    shapes: tuple[tuple[int, ...], ...]
    make: Callable[..., sm.StructuredMatrix]
    oracle: Callable[..., Oracle]
    kind: type
    T: type
    scaled: type
    plus: type
    times: type
    parameters: int | None = None
    half: int | None = None

    def __str__(self):
        return self.name

    @property
    def num_parameters(self):
        return sum(int(np.prod(s)) for s in self.shapes) if self.parameters is None else self.parameters

    def data(self, rng, dtype):
        """The arrays: standard normal, real or complex."""
        return tuple(normal(rng, shape, dtype) for shape in self.shapes)

    def build(self, xp, arrays):
        """(the matrix on this backend, its oracle) from NumPy arrays"""
        return self.make(*(xp.asarray(a, copy=True) for a in arrays)), self.oracle(*arrays)


def normal(rng, shape, dtype="float64"):
    x = rng.standard_normal(shape)
    if dtype.startswith("complex"):
        x = x + 1j * rng.standard_normal(shape)
    return np.asarray(x).astype(dtype)


def case(name, shapes, make, oracle, kind, **differs):
    """A case whose transposes, multiples, sums and products stay in its class unless said otherwise."""
    types: dict[str, Any] = dict.fromkeys(("T", "scaled", "plus", "times"), kind) | differs
    return Case(name, tuple(shapes), make, oracle, kind, **types)


# basic ------------------------------------------------------------------------------------------------------------------

o_dense = ref.componentwise(ref.dense, lambda A: A.shape[1])
o_diagonal = ref.componentwise(ref.diagonal, lambda d: 1)
o_low_rank = ref.componentwise(ref.low_rank, lambda U, V: sum(V.shape))


def low_rank(m, n, r):
    return case(f"LowRank {m}x{n} rank {r}", [(m, r), (n, r)], sm.LowRank, o_low_rank, sm.LowRank, half=2)


def identity(n):
    def make(like):
        return sm.Identity(n, like=like)

    def oracle(like):
        one = np.eye(n, dtype=ref.wide(like).dtype)
        return Oracle(one, np.abs(one), 0 * np.abs(one))

    kinds = {"scaled": sm.Scaled, "plus": sm.Scaled}
    return case(f"Identity {n}", [(1,)], make, oracle, sm.Identity, parameters=0, **kinds)


BASIC = [
    *(case(f"Dense {m}x{n}", [(m, n)], sm.Dense, o_dense, sm.Dense, half=1)
      for m, n in ((4, 4), (3, 5), (5, 2), (1, 1), (0, 0), (0, 3), (3, 0))),
    *(case(f"Diagonal {n}", [(n,)], sm.Diagonal, o_diagonal, sm.Diagonal, half=1) for n in (0, 1, 5)),
    *(identity(n) for n in (0, 1, 4)),
    *(low_rank(*s) for s in ((4, 4, 2), (5, 3, 1), (3, 4, 4), (3, 3, 5), (4, 3, 0), (0, 2, 1), (1, 1, 1))),
]  # fmt: skip


# Kronecker --------------------------------------------------------------------------------------------------------------


def columns(*factors):
    return sum(F.shape[-1] for F in factors)


o_kronecker = ref.componentwise(ref.kronecker, columns)
o_kronecker_sum = ref.componentwise(ref.kronecker_sum, lambda *F: max(map(len, F)) + len(F))


def name_of(shapes):
    return ".".join(f"{m}x{n}" for m, n in shapes)


def kronecker(*shapes):
    return case(f"Kronecker {name_of(shapes)}", shapes, sm.Kronecker, o_kronecker, sm.Kronecker, plus=sm.Separated,
                half=len(shapes))  # fmt: skip


def kronecker_sum(*sizes):
    shapes = [(n, n) for n in sizes]
    return case(f"KroneckerSum {name_of(shapes)}", shapes, sm.KroneckerSum, o_kronecker_sum, sm.KroneckerSum,
                times=sm.Separated)  # fmt: skip


KRONECKER = [
    *(kronecker(*shapes) for shapes in (
        [(3, 3)], [(2, 3), (4, 2)], [(3, 3), (2, 2)], [(2, 3), (3, 2)], [(5, 1), (1, 3)], [(2, 2), (3, 3), (2, 2)],
        [(1, 2), (3, 2), (2, 3)], [(2, 1), (2, 3), (1, 2), (3, 2)], [(1, 1), (1, 1)], [(0, 2), (3, 3)],
        [(2, 0), (3, 2)],
    )),
    *(kronecker_sum(*sizes) for sizes in ([4], [3, 2], [2, 3, 2], [2, 1, 2, 3], [1, 1], [0, 3])),
]  # fmt: skip


# separated --------------------------------------------------------------------------------------------------------------


def length(*factors):
    """K + L of bound B5"""
    return columns(*factors) + len(factors[0])


o_separated = ref.componentwise(ref.separated, length)
o_scaled = ref.componentwise(ref.scaled_separated, lambda s, *F: length(*F) + 1)


def separated(terms, *shapes, scales=False):
    stacks = [(terms, *s) for s in shapes]
    if scales:
        return case(f"Separated {terms} x {name_of(shapes)} scaled", [(terms,), *stacks],
                    lambda s, *F: sm.Separated(F, scales=s), o_scaled, sm.Separated, half=len(shapes) + 2)  # fmt: skip
    return case(f"Separated {terms} x {name_of(shapes)}", stacks, lambda *F: sm.Separated(F), o_separated,
                sm.Separated, half=len(shapes) + 1)  # fmt: skip


SEPARATED = [
    separated(2, (2, 3), (4, 2)),
    separated(3, (2, 3), (4, 2), scales=True),
    separated(2, (3, 3), (2, 2)),
    separated(5, (2, 2), (3, 3), scales=True),
    separated(3, (4, 3), scales=True),
    separated(1, (2, 3), (3, 2), (2, 2)),
    separated(3, (2, 2), (3, 1), (1, 2), scales=True),
    separated(2, (2, 1), (2, 3), (1, 2), (3, 2)),
    separated(33, (1, 2), (2, 1), scales=True),
    separated(1, (1, 1), (1, 1), scales=True),
    separated(0, (2, 3), (3, 2)),
    separated(0, (2, 2), (2, 2), scales=True),
    separated(2, (0, 2), (3, 3)),
]


# Toeplitz ---------------------------------------------------------------------------------------------------------------


def o_corner(build, shape):
    return ref.normwise(lambda c: build(c, shape), lambda c: ref.fft_constant(len(c)), ref.circulant_norm)


def circulant(cls, m, n):
    build = {sm.Circulant: ref.circulant, sm.SkewCirculant: ref.skew_circulant}[cls]
    kinds = {} if m == n else {"times": sm.Product}
    return case(f"{cls.__name__} {m}x{n}", [(max(m, n),)], lambda c: cls(c, None if m == n else (m, n)),
                o_corner(build, (m, n)), cls, **kinds)  # fmt: skip


def band(cls, m, n):
    """Toeplitz or Hankel of m + n - 1 numbers."""
    build, corner = (ref.toeplitz, 0) if cls is sm.Toeplitz else (ref.hankel, -1)

    def whole(concat, c, tail):
        return (c, concat((c[corner % m : corner % m + 1], tail))) if m else (c, tail)

    def make(c, tail):
        return cls(*whole(sm.Dense(c[:, None]).xp.concat, c, tail))

    def constant(c, r):
        return ref.fft_constant(ref.embedding(c, r))

    oracle = ref.normwise(build, constant, ref.embedding_norm)
    return case(f"{cls.__name__} {m}x{n}", [(m,), (max(n - 1, 0),)], make,
                lambda c, tail: oracle(*whole(np.concatenate, c, tail)), cls, times=sm.Product)  # fmt: skip


def square_band(cls, n):
    """r=None: a Hermitian Toeplitz matrix (up to the diagonal), a triangular Hankel one."""
    build = ref.toeplitz if cls is sm.Toeplitz else ref.hankel
    oracle = ref.normwise(build, lambda c: ref.fft_constant(ref.embedding(c)), ref.embedding_norm)
    return case(f"{cls.__name__} {n} r=None", [(n,)], cls, oracle, cls, times=sm.Product)


TOEPLITZ = [
    *(circulant(cls, m, n) for cls in (sm.Circulant, sm.SkewCirculant)
      for m, n in ((0, 0), (1, 1), (2, 2), (5, 5), (8, 8), (13, 13), (3, 7), (7, 4), (1, 6), (6, 1))),
    *(band(cls, m, n) for cls in (sm.Toeplitz, sm.Hankel)
      for m, n in ((0, 0), (1, 1), (5, 5), (8, 8), (3, 7), (7, 4), (1, 6), (6, 1))),
    *(square_band(cls, n) for cls in (sm.Toeplitz, sm.Hankel) for n in (0, 1, 5)),
]  # fmt: skip


# multilevel -------------------------------------------------------------------------------------------------------------


def multilevel_circulant(*sizes):
    oracle = ref.normwise(ref.multilevel_circulant, lambda c: ref.fft_constant(c.size), ref.circulant_norm)
    kind = sm.MultilevelCirculant
    return case(f"MultilevelCirculant {'x'.join(map(str, sizes))}", [sizes], kind, oracle, kind)


def multilevel_toeplitz(*shapes, square=False):
    N = ref.multilevel_embedding(shapes)
    oracle = ref.normwise(
        lambda t: ref.multilevel_toeplitz(t, shapes),
        lambda t: ref.fft_constant(N),
        lambda t: np.sqrt(N) * np.sqrt(np.sum(np.abs(t) ** 2)),
    )
    kind, sizes = sm.MultilevelToeplitz, tuple(m + n - 1 if m and n else 0 for m, n in shapes)
    return case(f"MultilevelToeplitz {name_of(shapes)}", [sizes], lambda t: kind(t, None if square else shapes), oracle,
                kind, times=sm.Product)  # fmt: skip


MULTILEVEL = [
    *(multilevel_circulant(*sizes) for sizes in
      ((0,), (1,), (5,), (3, 4), (1, 6), (5, 2), (2, 3, 2), (1, 1, 1), (3, 0), (2, 1, 2, 3))),
    *(multilevel_toeplitz(*shapes) for shapes in (
        [(3, 5)], [(3, 2), (2, 4)], [(1, 3), (4, 1)], [(2, 3), (3, 1), (2, 2)], [(0, 0), (2, 2)], [(0, 3), (2, 2)],
        [(2, 3), (0, 0)],
    )),
    *(multilevel_toeplitz(*((n, n) for n in sizes), square=True) for sizes in ([4], [3, 3], [2, 5], [2, 3, 2], [1, 1])),
]  # fmt: skip


# displacement -----------------------------------------------------------------------------------------------------------


def displaced(m, n, r):
    N = max(m, n)
    shape = None if m == n else (m, n)
    oracle = ref.normwise(
        lambda G, H: ref.low_displacement_rank(G, H, shape), ref.displacement_constant, ref.displacement_norm
    )
    kind = sm.LowDisplacementRank
    return case(f"LowDisplacementRank {m}x{n} r={r}", [(N, r), (N, r)], lambda G, H: kind(G, H, shape), oracle, kind,
                times=sm.Product)  # fmt: skip


DISPLACEMENT = [
    displaced(*s)
    for s in ((0, 0, 1), (1, 1, 1), (5, 5, 2), (8, 8, 3), (7, 7, 0), (3, 7, 2), (8, 5, 1), (1, 4, 2), (4, 1, 2))
]


# nested ---------------------------------------------------------------------------------------------------------------


def combined(name, a, b, make, oracle, kind, **differs):
    """A case on the arrays of two others."""
    k = len(a.shapes)
    types = dict.fromkeys(("T", "scaled"), kind) | {"plus": sm.Sum, "times": sm.Product} | differs
    return Case(
        name, a.shapes + b.shapes, lambda *x: make(a.make(*x[:k]), b.make(*x[k:])),
        lambda *x: oracle(a.oracle(*x[:k]), b.oracle(*x[k:])), kind,
        parameters=a.num_parameters + b.num_parameters, **types,
    )  # fmt: skip


def total(a, b, kind=sm.Sum, **differs):
    return combined(f"({a}) + ({b})", a, b, lambda A, B: A + B, lambda A, B: A + B, kind, **differs)


def product(a, b, kind=sm.Product, **differs):
    return combined(f"({a}) @ ({b})", a, b, lambda A, B: A @ B, lambda A, B: A @ B, kind, **differs)


def scaled(a, s=-1.5):
    """Scaled as it stands, for classes that can take the scalar in as well."""

    def make(*x):
        A = a.make(*x)
        return sm.Scaled._of(scale=A.xp.asarray(s, dtype=A.dtype), matrix=A)

    kinds = {"kind": sm.Scaled, "T": sm.Scaled, "scaled": sm.Scaled, "plus": sm.Sum, "times": sm.Scaled}
    if a.times in (sm.LowRank, sm.Dense):
        kinds["times"] = a.times
    return replace(a, name=f"s ({a})", make=make, oracle=lambda *x: a.oracle(*x).scaled(s),
                   parameters=a.num_parameters + 1, half=None, **kinds)  # fmt: skip


def dense(m, n):
    return case(f"Dense {m}x{n}", [(m, n)], sm.Dense, o_dense, sm.Dense)


def diag(n):
    return case(f"Diagonal {n}", [(n,)], sm.Diagonal, o_diagonal, sm.Diagonal)


def structured_kronecker():
    """Kronecker with factors that are structured themselves."""
    a, b, c = circulant(sm.Circulant, 3, 3), low_rank(2, 3, 1), dense(2, 2)

    def make(x, U, V, A):
        return sm.Kronecker(sm.Circulant(x), sm.LowRank(U, V), A)

    def oracle(x, U, V, A):
        parts = [a.oracle(x), b.oracle(U, V), c.oracle(A)]
        D, G = (reduce(np.kron, [getattr(p, name) for p in parts]) for name in "DG")
        E = sum(reduce(np.kron, [q.E if q is p else q.G for q in parts]) for p in parts)
        return Oracle(D, G, E)

    return case("Kronecker of structures", a.shapes + b.shapes + c.shapes, make, oracle, sm.Kronecker, plus=sm.Sum)


NESTED = [
    total(low_rank(4, 4, 2), diag(4)),
    total(low_rank(3, 5, 2), dense(3, 5)),
    total(total(low_rank(4, 4, 1), diag(4)), band(sm.Toeplitz, 4, 4)),
    scaled(low_rank(3, 4, 2)),
    scaled(dense(3, 3)),
    total(kronecker((2, 2), (3, 2)), low_rank(6, 4, 1)),
    total(circulant(sm.Circulant, 5, 5), diag(5)),
    product(dense(3, 5), band(sm.Toeplitz, 5, 4)),
    product(kronecker((2, 2), (2, 3)), kronecker((3, 2), (2, 3))),
    product(kronecker((2, 2), (2, 2)), circulant(sm.SkewCirculant, 4, 4)),
    product(band(sm.Hankel, 4, 4), diag(4)),
    total(product(band(sm.Toeplitz, 4, 4), diag(4)), scaled(circulant(sm.Circulant, 4, 4))),
    product(total(circulant(sm.Circulant, 4, 4), diag(4)), product(band(sm.Toeplitz, 4, 4), dense(4, 3)),
            plus=sm.Sum),
    structured_kronecker(),
]  # fmt: skip


def any_case(rng, high=6):
    """A case of a random class with random sizes."""

    def n(low=1, high=high):
        return int(rng.integers(low, high + 1))

    def pairs(d):
        return [(n(high=4), n(high=4)) for _ in range(d)]

    cls, band_cls = [sm.Circulant, sm.SkewCirculant][n(0, 1)], [sm.Toeplitz, sm.Hankel][n(0, 1)]
    m = n(high=2 * high)
    builders = [
        lambda: dense(n(), n()),
        lambda: diag(n()),
        lambda: low_rank(n(), n(), n(0, 4)),
        lambda: kronecker(*pairs(n(high=3))),
        lambda: kronecker_sum(*(n(high=4) for _ in range(n(high=3)))),
        lambda: separated(n(0, 4), *pairs(n(high=2)), scales=bool(n(0, 1))),
        lambda: circulant(cls, m, m),
        lambda: circulant(cls, n(), n()),
        lambda: band(band_cls, m, m),
        lambda: band(band_cls, n(), n()),
        lambda: square_band(band_cls, m),
        lambda: multilevel_circulant(n(high=4), n(high=4)),
        lambda: multilevel_toeplitz(*pairs(2)),
        lambda: displaced(m, m, n(0, 3)),
        lambda: displaced(n(), n(), n(high=2)),
        lambda: total(low_rank(m, m, n()), diag(m)),
        lambda: product(band(band_cls, m, m), diag(m)),
        structured_kronecker,
    ]
    return builders[int(rng.integers(len(builders)))]()


CASES: list[Case] = [*BASIC, *KRONECKER, *SEPARATED, *TOEPLITZ, *MULTILEVEL, *DISPLACEMENT, *NESTED]

# Sums and products of two classes whose class is known: (left, "+" or "@", right, class that comes back).
PAIRS: list[tuple[Case, str, Case, type]] = [
    (diag(4), "@", diag(4), sm.Diagonal),
    (diag(4), "+", identity(4), sm.Diagonal),
    (identity(4), "+", diag(4), sm.Diagonal),
    (identity(4), "@", circulant(sm.Circulant, 4, 4), sm.Circulant),
    (circulant(sm.Circulant, 3, 4), "@", identity(4), sm.Circulant),
    (diag(3), "@", low_rank(3, 5, 2), sm.LowRank),
    (low_rank(3, 5, 2), "@", diag(5), sm.LowRank),
    (diag(3), "@", dense(3, 5), sm.Dense),
    (dense(3, 5), "@", diag(5), sm.Dense),
    (low_rank(3, 5, 2), "+", low_rank(3, 5, 1), sm.LowRank),
    (low_rank(4, 6, 1), "@", kronecker((2, 3), (3, 1)), sm.LowRank),
    (kronecker((2, 3), (3, 1)), "@", low_rank(3, 2, 1), sm.LowRank),
    (band(sm.Toeplitz, 3, 4), "@", low_rank(4, 2, 1), sm.LowRank),
    (kronecker((2, 3), (3, 1)), "@", kronecker((3, 2), (1, 4)), sm.Kronecker),
    (kronecker((2, 3), (3, 2)), "@", kronecker((3, 2), (2, 4)), sm.Kronecker),
    (kronecker((2, 3), (3, 2)), "@", kronecker((2, 2), (3, 3)), sm.Product),
    (kronecker((2, 2), (3, 3)), "+", kronecker((2, 2), (3, 3)), sm.Separated),
    (kronecker((2, 2), (3, 3)), "+", kronecker((3, 3), (2, 2)), sm.Sum),
    (kronecker((2, 2), (3, 3)), "+", kronecker_sum(2, 3), sm.Separated),
    (kronecker_sum(2, 3), "+", kronecker((2, 2), (3, 3)), sm.Separated),
    (kronecker_sum(2, 3), "@", kronecker((2, 2), (3, 3)), sm.Separated),
    (kronecker((2, 2), (3, 3)), "@", kronecker_sum(2, 3), sm.Separated),
    (kronecker_sum(2, 3), "@", kronecker_sum(2, 3), sm.Separated),
    (kronecker((2, 2), (3, 3)), "+", identity(6), sm.Separated),
    (identity(6), "+", kronecker((2, 2), (3, 3)), sm.Separated),
    (separated(2, (2, 3), (4, 2)), "+", kronecker((2, 3), (4, 2)), sm.Separated),
    (kronecker((2, 3), (4, 2)), "+", separated(2, (2, 3), (4, 2), scales=True), sm.Separated),
    (separated(2, (2, 3), (4, 2)), "@", kronecker((3, 1), (2, 3)), sm.Separated),
    (kronecker((1, 2), (3, 4)), "@", separated(2, (2, 3), (4, 2), scales=True), sm.Separated),
    (separated(2, (2, 3), (4, 2)), "@", separated(3, (3, 2), (2, 2), scales=True), sm.Separated),
    (separated(2, (2, 2), (3, 3)), "+", identity(6), sm.Separated),
    (separated(2, (2, 2), (3, 3)), "+", kronecker_sum(2, 3), sm.Separated),
    (circulant(sm.Circulant, 5, 5), "@", circulant(sm.Circulant, 5, 5), sm.Circulant),
    (circulant(sm.SkewCirculant, 5, 5), "@", circulant(sm.SkewCirculant, 5, 5), sm.SkewCirculant),
    (circulant(sm.Circulant, 5, 5), "@", circulant(sm.SkewCirculant, 5, 5), sm.Product),
    (circulant(sm.Circulant, 5, 5), "@", circulant(sm.Circulant, 5, 3), sm.Circulant),
    (circulant(sm.Circulant, 3, 5), "@", circulant(sm.Circulant, 5, 5), sm.Circulant),
    (circulant(sm.Circulant, 5, 5), "+", circulant(sm.SkewCirculant, 5, 5), sm.Toeplitz),
    (circulant(sm.Circulant, 3, 5), "+", circulant(sm.SkewCirculant, 3, 5), sm.Toeplitz),
    (circulant(sm.Circulant, 3, 5), "+", band(sm.Toeplitz, 3, 5), sm.Toeplitz),
    (band(sm.Toeplitz, 5, 3), "+", circulant(sm.SkewCirculant, 5, 3), sm.Toeplitz),
    (band(sm.Toeplitz, 5, 5), "+", square_band(sm.Toeplitz, 5), sm.Toeplitz),
    (band(sm.Hankel, 5, 5), "+", square_band(sm.Hankel, 5), sm.Hankel),
    (band(sm.Hankel, 5, 5), "+", band(sm.Toeplitz, 5, 5), sm.Sum),
    (total(low_rank(4, 4, 1), diag(4)), "+", diag(4), sm.Sum),
    (displaced(5, 5, 2), "+", circulant(sm.Circulant, 5, 5), sm.LowDisplacementRank),
    (circulant(sm.SkewCirculant, 5, 5), "+", displaced(5, 5, 2), sm.LowDisplacementRank),
    (band(sm.Toeplitz, 5, 5), "+", displaced(5, 5, 1), sm.LowDisplacementRank),
    (displaced(3, 5, 2), "+", displaced(3, 5, 1), sm.LowDisplacementRank),
    (displaced(5, 5, 2), "+", identity(5), sm.LowDisplacementRank),
    (circulant(sm.Circulant, 5, 5), "@", displaced(5, 5, 2), sm.LowDisplacementRank),
    (displaced(5, 5, 2), "@", circulant(sm.SkewCirculant, 5, 5), sm.LowDisplacementRank),
    (circulant(sm.Circulant, 5, 5), "@", displaced(5, 3, 2), sm.LowDisplacementRank),
    (displaced(3, 5, 2), "@", circulant(sm.SkewCirculant, 5, 5), sm.LowDisplacementRank),
    (multilevel_circulant(3, 4), "@", multilevel_circulant(3, 4), sm.MultilevelCirculant),
    (multilevel_circulant(3, 4), "@", multilevel_circulant(4, 3), sm.Product),
    (multilevel_circulant(3, 4), "+", multilevel_circulant(2, 6), sm.Sum),
    (multilevel_circulant(3, 4), "+", identity(12), sm.MultilevelCirculant),
    (identity(12), "+", multilevel_circulant(3, 4), sm.MultilevelCirculant),
    (multilevel_circulant(5), "@", circulant(sm.Circulant, 5, 5), sm.MultilevelCirculant),
    (circulant(sm.Circulant, 5, 5), "@", multilevel_circulant(5), sm.MultilevelCirculant),
    (multilevel_toeplitz((3, 3), (4, 4)), "+", multilevel_circulant(3, 4), sm.MultilevelToeplitz),
    (multilevel_circulant(3, 4), "+", multilevel_toeplitz((3, 3), (4, 4)), sm.MultilevelToeplitz),
    (multilevel_toeplitz((3, 3), (4, 4)), "+", identity(12), sm.MultilevelToeplitz),
    (multilevel_toeplitz((3, 2), (2, 4)), "+", multilevel_toeplitz((3, 4), (2, 2)), sm.Sum),
    (multilevel_toeplitz((3, 2), (2, 4)), "@", multilevel_circulant(2, 4), sm.Product),
]

# Exact conversions: (from, to).
CONVERSIONS: list[tuple[Case, type]] = [
    (identity(4), sm.Diagonal),
    (circulant(sm.Circulant, 5, 5), sm.Toeplitz),
    (circulant(sm.Circulant, 3, 5), sm.Toeplitz),
    (circulant(sm.SkewCirculant, 5, 3), sm.Toeplitz),
    (kronecker((2, 3), (3, 2)), sm.Separated),
    (kronecker_sum(2, 3, 2), sm.Separated),
    (identity(5), sm.LowDisplacementRank),
    (circulant(sm.Circulant, 3, 5), sm.LowDisplacementRank),
    (circulant(sm.SkewCirculant, 5, 5), sm.LowDisplacementRank),
    (band(sm.Toeplitz, 5, 5), sm.LowDisplacementRank),
    (band(sm.Toeplitz, 8, 8), sm.LowDisplacementRank),
    (low_rank(5, 5, 2), sm.LowDisplacementRank),
    (circulant(sm.Circulant, 5, 5), sm.MultilevelCirculant),
    (multilevel_circulant(5), sm.Toeplitz),
    (multilevel_circulant(2, 3, 2), sm.MultilevelToeplitz),
    (band(sm.Toeplitz, 3, 7), sm.MultilevelToeplitz),
    (multilevel_toeplitz((3, 5)), sm.Toeplitz),
]


def unique(cases):
    names = [c.name for c in cases]
    twice = {n for n in names if names.count(n) > 1}
    if twice:
        raise ValueError(f"cases with the same name: {twice}")
    return cases


unique(CASES)
BY_NAME = {c.name: c for c in CASES}
