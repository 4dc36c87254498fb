"""A machine that builds, adds, multiplies, transposes, scales, compresses, saves, loads and moves matrices.

Beside every matrix goes its shadow: the dense matrix in extended precision and what a product may be wrong by by now, both
combined by the rules of error analysis (`reference.Oracle`). Every new matrix is compared with its shadow.
"""

import pathlib
import shutil
import tempfile
from dataclasses import dataclass, replace

import conftest
import numpy as np
import pytest
import reference as ref
from cases import (
    band,
    circulant,
    dense,
    diag,
    displaced,
    identity,
    kronecker,
    kronecker_sum,
    low_rank,
    multilevel_circulant,
    normal,
    o_dense,
    separated,
)
from conftest import BACKENDS, check, equal, host, library, namespace
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, rule

import sepmat as sm

N = 6
FAMILY = [
    dense(N, N), diag(N), identity(N), low_rank(N, N, 2), kronecker((2, 2), (3, 3)), kronecker_sum(2, 3),
    separated(2, (2, 2), (3, 3), scales=True), circulant(sm.Circulant, N, N), circulant(sm.SkewCirculant, N, N),
    band(sm.Toeplitz, N, N), band(sm.Hankel, N, N), displaced(N, N, 2), multilevel_circulant(2, 3),
]  # fmt: skip
HEAVY, LARGE = 24, 1e30  # leaves of an expression; entries


@dataclass(frozen=True)
class Held:
    """A matrix, its shadow, and the number of leaves of the expression that made it."""

    A: sm.StructuredMatrix
    o: ref.Oracle
    leaves: int


def on(A, backend):
    """The same numbers on another backend, through NumPy."""
    xp = namespace(backend)
    return A.map(lambda a: xp.asarray(np.array(host(a)), copy=True))


class Machine(RuleBasedStateMachine):
    matrices = Bundle("matrices")

    def __init__(self):
        super().__init__()
        self.folder = pathlib.Path(tempfile.mkdtemp())

    def teardown(self):
        shutil.rmtree(self.folder)

    @initialize(dtype=st.sampled_from(["float64", "complex128"]), seed=st.integers(0, 2**32 - 1))
    def start(self, dtype, seed):
        self.dtype, self.rng = dtype, np.random.default_rng(seed)

    def new(self, A, oracle, leaves):
        """Compare a matrix with its shadow from both sides; small and light again where it has grown."""
        x = normal(self.rng, (N,), self.dtype)
        X = A.xp.asarray(x, copy=True)
        check(np.abs(host(A @ X) - oracle.D @ x), oracle.E @ np.abs(x), 1.01, self.dtype, "stateful A @ x")
        check(np.abs(host(A.T @ X) - oracle.D.T @ x), oracle.E.T @ np.abs(x), 1.01, self.dtype, "stateful Aᵀ x")
        if leaves > HEAVY or not 1 / LARGE < np.max(np.abs(oracle.D), initial=1.0) < LARGE:
            D = host(A.to_dense())
            D = D / 2.0 ** np.round(np.log2(max(np.max(np.abs(D)), 1e-300)))
            return Held(sm.Dense(A.xp.asarray(D, copy=True)), o_dense(D), 1)
        return Held(A, oracle, leaves)

    @rule(target=matrices, k=st.integers(0, len(FAMILY) - 1), backend=st.sampled_from(list(BACKENDS)))
    def build(self, k, backend):
        data = FAMILY[k].data(self.rng, self.dtype)
        return self.new(*FAMILY[k].build(namespace(backend), data), 1)

    @rule(target=matrices, a=matrices, b=matrices, subtract=st.booleans())
    def add(self, a, b, subtract):
        B = on(b.A, backend_of(a.A))
        M, o = (a.A - B, a.o - b.o) if subtract else (a.A + B, a.o + b.o)
        return self.new(M, o, a.leaves + b.leaves)

    @rule(target=matrices, a=matrices, b=matrices)
    def multiply(self, a, b):
        M, o = a.A @ on(b.A, backend_of(a.A)), a.o @ b.o
        if type(M) is sm.LowDisplacementRank or isinstance(M, sm.Toeplitz):  # a wider class, applied by longer FFTs
            o = replace(o, E=4 * o.E)
        return self.new(M, o, a.leaves + b.leaves)

    @rule(target=matrices, a=matrices, how=st.sampled_from("THc"))
    def transpose(self, a, how):
        A, o = {"T": (a.A.T, a.o.T), "H": (a.A.H, a.o.T.conj()), "c": (a.A.conj(), a.o.conj())}[how]
        return self.new(A, o, a.leaves)

    @rule(target=matrices, a=matrices, s=st.sampled_from([2.0, -0.5, 3.0, 2.0**-40, 2.0**40]))
    def scale(self, a, s):
        return self.new(s * a.A, a.o.scaled(s), a.leaves)

    @rule(target=matrices, a=matrices, backend=st.sampled_from(list(BACKENDS)))
    def move(self, a, backend):
        return self.new(on(a.A, backend), a.o, a.leaves)

    @rule(target=matrices, a=matrices)
    def save_and_load(self, a):
        """Bit for bit, of the same class, in the library that is asked for."""
        file = self.folder / "a.safetensors"
        sm.save(a.A, file)
        like = None if backend_of(a.A) == "numpy" else a.A.xp.zeros((0,), dtype=a.A.xp.float64)
        B = sm.load(file, like=like)
        equal(
            [type(B), B.equals(a.A), sorted(p.name for p in self.folder.iterdir())],
            [type(a.A), True, [file.name]],
            "save, load",
        )
        return self.new(B, a.o, a.leaves)

    @rule(target=matrices, a=matrices, tol=st.sampled_from([1e-1, 1e-3, 1e-6]))
    def compress(self, a, tol):
        """The error is what was reported, and at most what was asked for; the shadow is that of the new numbers."""
        if type(a.A) is not sm.Separated or not a.A.terms:
            return a
        fit = sm.compress(on(a.A, "numpy"), tol=tol)
        S = sm.convert(fit.matrix, sm.Separated)
        new = ref.separated(*map(ref.wide, S.factors), scales=None if S.scales is None else ref.wide(S.scales))
        size = ref.frobenius(a.o.G) + ref.frobenius(new)
        true = ref.frobenius(new - ref.separated(*(ref.wide(host(F)) for F in a.A.factors),
                                                 scales=None if a.A.scales is None else ref.wide(host(a.A.scales))))  # fmt: skip
        norm = ref.frobenius(a.o.D)
        check(max(true - tol * norm, 0), size, 1e4, self.dtype, "stateful compress")
        check(abs(true - fit.relative_error * norm), size, 1e4, self.dtype, "stateful compress")
        majorant = ref.separated(*(np.abs(ref.wide(F)) for F in S.factors),
                                 scales=None if S.scales is None else np.abs(ref.wide(S.scales)))  # fmt: skip
        K = 3 * (sum(n for _, n in S.shapes) + S.terms + 1)
        return self.new(S, ref.Oracle(new, majorant, K * majorant), max(1, S.terms))

    @rule(target=matrices, a=matrices)
    def to_dense(self, a):
        D = host(a.A.to_dense())
        check(np.abs(D - a.o.D), a.o.E, 1.01, self.dtype, "stateful to_dense")
        return self.new(sm.Dense(a.A.xp.asarray(np.array(D), copy=True)), o_dense(D), 1)


def backend_of(A):
    return library(A.arrays()[0])


Machine.TestCase.settings = settings(stateful_step_count=15)
TestMachine = Machine.TestCase


def test_a_planted_error_is_found(monkeypatch):
    """The machine notices a product that is wrong in its last digits."""
    from sepmat.toeplitz import Circulant

    monkeypatch.setattr(conftest, "worst", {})  # it is no finding
    apply = Circulant._apply
    monkeypatch.setattr(Circulant, "_apply", lambda A, x, axis: apply(A, x, axis) * (1 + 1e-10))
    machine = Machine()
    machine.start("float64", 0)
    circulants = [k for k, case in enumerate(FAMILY) if case.kind is sm.Circulant]
    with pytest.raises(AssertionError, match="stateful"):
        machine.build(circulants[0], "numpy")
    machine.teardown()
