"""How each peer of the speed study is asked for the same product; what is not installed is said, never estimated.

NumPy arrays and torch tensors have their own peers: CoLA and pyfastkron take both, PyLops, pykronecker and SciPy take
NumPy arrays, linear_operator takes tensors.
"""

import contextlib
import functools
import importlib
import importlib.metadata
import io
import warnings
from collections.abc import Callable, Iterator, Sequence
from types import ModuleType
from typing import Any

import numpy as np
import scipy.linalg

from studies._race import Entry

PACKAGES = {  # the name that pip knows: what is imported
    "cola-ml": "cola",
    "linear_operator": "linear_operator",
    "pylops": "pylops",
    "pykronecker": "pykronecker",
    "pyfastkron": "pyfastkron",
}
NAMES = {  # what a table calls them
    "cola-ml": "CoLA",
    "linear_operator": "linear_operator",
    "pylops": "PyLops",
    "pykronecker": "pykronecker",
    "pyfastkron": "pyfastkron",
}


@functools.cache
def package(name: str) -> ModuleType | None:
    """The package, imported without its words; None where it is not installed."""
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return importlib.import_module(PACKAGES[name])
        except ImportError:
            return None


def versions() -> dict[str, str]:
    """The version of each peer, or "not installed"."""
    return {NAMES[name]: importlib.metadata.version(name) if package(name) else "not installed" for name in PACKAGES}


def each(library: str) -> Iterator[tuple[str, Any]]:
    """The peers of one array library that are installed: (name, package)."""
    for name in ("cola-ml", "pylops", "pykronecker") if library == "numpy" else ("cola-ml", "linear_operator"):
        if (module := package(name)) is not None:
            yield NAMES[name], module


# --- one Kronecker product as an operator of each package ----------------------------------------------------------------


def operator(name: str, module: Any, factors: Sequence[Any]) -> Any:
    """F_1 ⊗ … ⊗ F_d as an operator of the package."""
    if name == "CoLA":
        return module.ops.Kronecker(*(module.ops.Dense(F) for F in factors))
    if name == "linear_operator":
        ops = module.operators
        return ops.KroneckerProductLinearOperator(*(ops.DenseLinearOperator(F) for F in factors))
    if name == "PyLops":
        return functools.reduce(module.Kronecker, (module.MatrixMult(F, dtype=F.dtype) for F in factors))
    return module.KroneckerProduct(list(factors))


def product(name: str, K: Any, X: Any) -> Callable[[], Any]:
    """K @ X as the package wants it."""
    if name == "PyLops" and X.ndim > 1:
        return lambda: K.matmat(X)
    return lambda: K @ X


def kronecker(factors: Sequence[Any], X: Any, library: str, patient: bool = True) -> list[Entry]:
    """The peers' products; PyLops loops over columns and, nested, over columns of factors: it wants patience."""
    entries = [
        Entry(name, "peer", product(name, operator(name, module, factors), X))
        for name, module in each(library)
        if name != "PyLops" or patient
    ]
    return entries + fastkron(factors, X, library)


def fastkron(factors: Sequence[Any], X: Any, library: str) -> list[Entry]:
    """pyfastkron on X, and on rows of Xᵀ: what it was made for."""
    if package("pyfastkron") is None:
        return []
    which = importlib.import_module("pyfastkron." + ("fastkronnumpy" if library == "numpy" else "fastkrontorch"))
    columns = X if X.ndim > 1 else X.reshape(-1, 1)
    rows = contiguous(columns.T)
    transposed = [contiguous(F.T) for F in factors]
    F = list(factors)
    return [
        Entry("pyfastkron gekmm", "peer", lambda: which.gekmm(F, columns), lambda y: y.reshape(*X.shape)),
        Entry("pyfastkron gemkm, rows", "peer", lambda: which.gemkm(rows, transposed), lambda y: y.T.reshape(X.shape)),
    ]


def sums(stacks: Sequence[Any], X: Any, library: str, patient: bool = True) -> list[Entry]:
    """Σ_l V_l ⊗ W_l in the lazy sums of the packages, and a loop over pyfastkron."""
    entries = []
    for name, module in each(library):
        if name == "PyLops" and not patient:
            continue
        terms = [operator(name, module, pair) for pair in zip(*stacks, strict=True)]
        if name == "linear_operator":
            total = module.operators.SumLinearOperator(*terms)
        else:
            total = functools.reduce(lambda A, B: A + B, terms)
        entries.append(Entry(name, "peer", product(name, total, X)))
    if package("pyfastkron") is not None:
        which = importlib.import_module("pyfastkron." + ("fastkronnumpy" if library == "numpy" else "fastkrontorch"))
        pairs = [list(pair) for pair in zip(*stacks, strict=True)]
        columns = X if X.ndim > 1 else X.reshape(-1, 1)

        def loop() -> Any:
            y = which.gekmm(pairs[0], columns)
            for pair in pairs[1:]:
                y += which.gekmm(pair, columns)
            return y

        entries.append(Entry("pyfastkron gekmm, loop", "peer", loop, lambda y: y.reshape(*X.shape)))
    return entries


def kronecker_solve(factors: Sequence[Any], b: Any, library: str) -> list[Entry]:
    """(F_1 ⊗ … ⊗ F_d)⁻¹ b, the factors symmetric positive definite: linear_operator has nothing else."""
    entries = []
    for name, module in each(library):
        if name == "CoLA":
            K = module.ops.Kronecker(*(module.PSD(module.ops.Dense(F)) for F in factors))
            entries.append(Entry(name, "peer", lambda K=K, m=module: m.linalg.solve(K, b, m.linalg.Cholesky())))
        if name == "linear_operator":  # a new operator each time: it keeps its Cholesky factor
            entries.append(Entry(name, "peer", lambda n=name, m=module: operator(n, m, factors).solve(b)))
    return entries


# --- Toeplitz ----------------------------------------------------------------------------------------------------------------


def toeplitz(c: Any, r: Any, X: Any, library: str, symmetric: bool = False) -> list[Entry]:
    """A @ X for columns X (n, k) or x (n,): SciPy's matmul_toeplitz, the functions of linear_operator."""
    if library == "numpy":
        return [Entry("SciPy matmul_toeplitz", "peer", lambda: scipy.linalg.matmul_toeplitz((c, r), X))]
    module: Any = package("linear_operator")
    if module is None:
        return []
    columns = X if X.ndim > 1 else X[:, None]  # it fails on one-dimensional x
    back = functools.partial(_reshape, shape=tuple(X.shape))
    if symmetric:
        T = module.operators.ToeplitzLinearOperator(c)
        return [Entry("linear_operator", "peer", lambda: T @ columns, back)]
    matmul = importlib.import_module("linear_operator.utils.toeplitz").toeplitz_matmul
    return [Entry("linear_operator", "peer", lambda: matmul(c, r, columns), back)]


def solve_circulant(c: Any, b: Any) -> list[Entry]:
    """SciPy's solve_circulant, b (n,)."""
    return [Entry("SciPy solve_circulant", "peer", lambda: scipy.linalg.solve_circulant(c, b))]


def _reshape(y: Any, shape: tuple[int, ...]) -> Any:
    return y.reshape(shape)


def contiguous(x: Any) -> Any:
    """x with its last axis contiguous, of NumPy or torch."""
    return x.contiguous() if hasattr(x, "contiguous") else np.ascontiguousarray(x)
