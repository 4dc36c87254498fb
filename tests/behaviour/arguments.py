"""Every parameter of every public function, with everything that it may be confused with: a value, or an error of the library.

A call that works is kept and one argument at a time is replaced. What comes back must be an error in five parts, or a value
where the argument may be taken for a good one; a TypeError from inside NumPy or SciPy, a hang, a leaked warning, a
flag that takes "no" for True, or an error that names another function or an argument that nobody has are what this looks for.
"""

import collections
import decimal
import fractions
import re
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

import sepmat as sm
from sepmat import interop

from .engine import Hang, Wrong, form, patience

R = np.random.default_rng(0)
S3, S4 = R.standard_normal((3, 3)), R.standard_normal((4, 4))
M, PAIRS = R.standard_normal((6, 6)), ((2, 2), (3, 3))
T, SPD = sm.Toeplitz([4.0, 1, 0.5, 0.2], [4.0, 2, 1, 0.5]), sm.Toeplitz([4.0, 1, 0.5, 0.2])
K = sm.Kronecker(S3, S4)
SUM = sm.convert(sm.KroneckerSum(S3 @ S3.T + 3 * np.eye(3), S4 @ S4.T + 4 * np.eye(4)), sm.Separated)
ONE = sm.Separated([np.ones((1, 3, 1)), np.ones((1, 4, 1))])
W = sm.convert(T, sm.LowDisplacementRank)
b4, b12 = np.ones(4), np.ones(12)

# name: (function, arguments that are right)
CALLS: dict[str, tuple[Callable[..., Any], dict[str, Any]]] = {
    "Circulant": (sm.Circulant, {"c": [1.0, 2, 3], "shape": (3, 2)}),
    "SkewCirculant": (sm.SkewCirculant, {"c": [1.0, 2, 3], "shape": (3, 2)}),
    "Toeplitz": (sm.Toeplitz, {"c": [1.0, 2], "r": [1.0, 3]}),
    "Hankel": (sm.Hankel, {"c": [1.0, 2], "r": [2.0, 3]}),
    "Dense": (sm.Dense, {"A": S3}),
    "Diagonal": (sm.Diagonal, {"d": [1.0, 2]}),
    "Identity": (sm.Identity, {"n": 3, "like": S3}),
    "LowRank": (sm.LowRank, {"U": S3, "V": S3}),
    "LowDisplacementRank": (sm.LowDisplacementRank, {"G": S3, "H": S3, "shape": (3, 2)}),
    "MultilevelCirculant": (sm.MultilevelCirculant, {"c": S3}),
    "MultilevelToeplitz": (sm.MultilevelToeplitz, {"t": S3, "shapes": ((2, 2), (2, 2))}),
    "Separated": (sm.Separated, {"factors": [S3[None]], "scales": [1.0]}),
    "Inverse": (sm.Inverse, {"matrix": T}),
    "Kronecker": (lambda F, G: sm.Kronecker(F, G), {"F": S3, "G": S4}),
    "KroneckerSum": (lambda F, G: sm.KroneckerSum(F, G), {"F": S3, "G": S4}),
    "kron": (lambda F, G: sm.kron(F, G), {"F": S3, "G": SUM}),
    "als_solve": (sm.als_solve, {"A": SUM, "F": ONE, "tol": 0.1, "max_condition": 100.0, "preconditioner": None, "start": None, "seed": 0}),
    "approximate": (sm.approximate, {"M": M, "max_parameters": 24, "structures": ["toeplitz"], "seed": 0, "progress": False}),
    "approximate to tol": (sm.approximate, {"M": M, "tol": 0.5, "structures": ["toeplitz"]}),
    "compress": (sm.compress, {"A": SUM, "rank": 1, "max_condition": 10.0, "seed": 0}),
    "compress to tol": (sm.compress, {"A": SUM, "tol": 0.1, "penalty": 1e-3}),
    "compress_displacement": (sm.compress_displacement, {"W": W, "rank": 1}),
    "compress_displacement to tol": (sm.compress_displacement, {"W": W, "tol": 0.1}),
    "convert": (sm.convert, {"A": K, "structure": sm.Separated}),
    "displacement": (sm.displacement, {"M": M, "f": 1, "g": -1}),
    "displacement_rank": (sm.displacement_rank, {"M": M, "tol": 1e-3}),
    "distance": (sm.distance, {"A": SUM, "B": SUM}),
    "expm": (sm.expm, {"A": 0.1 * SUM, "tol": 1e-3, "max_condition": None, "seed": 0}),
    "exponential_sum": (sm.exponential_sum, {"R": 10.0, "terms": 3, "power": 1.0, "relative": False, "like": None}),
    "exponential_sum to tol": (sm.exponential_sum, {"R": 10.0, "tol": 1e-2}),
    "explain": (sm.explain, {"A": K, "x": b12, "axis": None, "limits": None}),
    "factor_shapes": (sm.factor_shapes, {"M": M, "rank": 1, "factors": 2, "max_condition": None, "seed": 0}),
    "gaussian_sum": (sm.gaussian_sum, {"grids": [[0.0, 1], [0.0, 1]], "weights": [1.0], "exponents": [1.0], "diagonal": False}),
    "generic_separation_rank": (sm.generic_separation_rank, {"rank": 2, "shapes": PAIRS}),
    "hadamard": (sm.hadamard, {"A": SUM, "B": SUM}),
    "inner": (sm.inner, {"A": SUM, "B": SUM}),
    "inverse_iteration": (sm.inverse_iteration, {"A": SUM, "shift": 0.0, "tol": 0.5, "preconditioner": None, "start": ONE}),
    "inverse_iteration to rank": (sm.inverse_iteration, {"A": SUM, "rank": 1}),
    "inverse_laplacian": (sm.inverse_laplacian, {"n": 3, "d": 2, "terms": 2, "relative": False, "like": None}),
    "kronecker_preconditioner": (sm.kronecker_preconditioner, {"A": SUM, "terms": 1, "damp": None, "seed": 0}),
    "laplacian": (sm.laplacian, {"n": 3, "d": 3, "terms": None, "max_condition": None, "like": None}),
    "load": (sm.load, {"path": "no such file"}),
    "lstsq": (sm.lstsq, {"A": T, "b": b4, "rcond": None}),
    "nearest_displacement": (sm.nearest_displacement, {"M": M, "rank": 2, "seed": 0}),
    "nearest_kronecker": (sm.nearest_kronecker, {"M": M, "shapes": PAIRS, "rank": 2, "exact": False, "seed": 0}),
    "nearest_low_rank": (sm.nearest_low_rank, {"M": M, "rank": 2}),
    "nearest_low_rank to tol": (sm.nearest_low_rank, {"M": M, "tol": 0.1}),
    "nearest_separated": (sm.nearest_separated, {"M": M, "shapes": PAIRS, "rank": 2, "max_condition": None, "seed": 0}),
    "nearest_toeplitz": (sm.nearest_toeplitz, {"M": M, "symmetric": False}),
    "norm": (sm.norm, {"A": K, "ord": "fro"}),
    "partial_trace": (sm.partial_trace, {"A": SUM, "factors": 0}),
    "power_iteration to rank": (sm.power_iteration, {"A": SUM, "rank": 1}),
    "power_iteration": (sm.power_iteration, {"A": SUM, "tol": 0.1, "max_condition": None, "start": None, "seed": 0}),
    "radial_kernel": (sm.radial_kernel, {"grids": [[1.0, 2], [0.0, 1]], "power": 1.0, "terms": 2, "relative": True, "diagonal": False}),
    "rearrange": (sm.rearrange, {"A": M, "shapes": PAIRS}),
    "rearrange_back": (sm.rearrange_back, {"R": np.ones((4, 9)), "shapes": PAIRS}),
    "schroedinger": (sm.schroedinger, {"x": [0.0, 1, 2], "particles": 2, "potential": None, "interaction": None, "tol": 1e-6, "max_condition": None}),
    "schulz_inverse": (sm.schulz_inverse, {"A": SUM, "tol": 0.1, "max_condition": None, "start": None, "seed": 0}),
    "separated_from_low_rank": (sm.separated_from_low_rank, {"U": np.ones((6, 1)), "V": np.ones((6, 1)), "shapes": PAIRS}),
    "separated_inverse": (sm.separated_inverse, {"A": SUM, "tol": 0.3, "max_condition": None, "start": None, "seed": 0}),
    "separation_rank": (sm.separation_rank, {"M": M, "shapes": PAIRS, "tol": 1e-3}),
    "separation_rank_bounds": (sm.separation_rank_bounds, {"M": M, "shapes": PAIRS}),
    "shift": (sm.shift, {"n": 3, "f": 1, "like": None}),
    "sign": (sm.sign, {"A": SUM, "tol": 0.1, "shift": 0.0, "max_condition": None, "seed": 0, "progress": False}),
    "sin_sum": (sm.sin_sum, {"n": 3, "d": 2, "like": None}),
    "solve": (sm.solve, {"A": K, "b": b12}),
    "strang": (sm.strang, {"T": SPD, "floor": None}),
    "t_chan": (sm.t_chan, {"T": SPD, "floor": None}),
    "superoptimal": (sm.superoptimal, {"T": SPD}),
    "cg": (interop.cg, {"A": SPD, "b": b4, "x0": None, "rtol": 1e-5, "atol": 0.0, "maxiter": None, "M": None, "callback": None, "history": False}),
    "minres": (interop.minres, {"A": SPD, "b": b4, "rtol": 1e-5, "maxiter": None, "M": None, "history": False}),
    "gmres": (interop.gmres, {"A": SPD, "b": b4, "x0": None, "rtol": 1e-5, "restart": None, "maxiter": None, "callback": None}),
    "lsmr": (interop.lsmr, {"A": SPD, "b": b4, "damp": 0.0, "atol": 1e-6, "btol": 1e-6, "conlim": 1e8, "maxiter": None, "x0": None}),
    **{f.__name__: (f, {"A": K}) for f in (sm.diagonal, sm.eigvals, sm.svdvals, sm.slogdet, sm.trace, sm.inverse, sm.factorize, interop.aslinearoperator)},
    **{f.__name__: (f, {"A": T @ T}) for f in (sm.terms_needed, sm.displacement_form)},
    **{f.__name__: (f, {"M": M}) for f in (sm.nearest_circulant, sm.nearest_skew_circulant, sm.nearest_hankel)},
    "A @ x": (lambda x: K @ x, {"x": b12}),
    "A + B": (lambda B: K + B, {"B": K}),
    "A * s": (lambda s: K * s, {"s": 2.0}),
    "A / s": (lambda s: K / s, {"s": 2.0}),
    "A[i, j]": (lambda i, j: K[i, j], {"i": 0, "j": 1}),
    "block": (lambda rows, cols, most: K.block(rows, cols, max_bytes=most), {"rows": [0], "cols": slice(None), "most": 1000}),
    "apply": (lambda x, axis: K.apply(x, axis), {"x": np.ones((2, 12)), "axis": -1}),
    "to_dense": (lambda most: K.to_dense(most), {"most": 10**6}),
    "astype": (lambda t: K.astype(t), {"t": "float32"}),
    "to_device": (lambda d: K.to_device(d), {"d": "cpu"}),
}  # fmt: skip

NESTED: Any = 1.0
for _ in range(100):
    NESTED = [NESTED]

STRANGE: dict[str, Any] = {
    "None": None, "an object": object(), "'foo'": "foo", "''": "", "b'x'": b"x", "NaN": float("nan"), "∞": float("inf"), "-1": -1, "0": 0, "2.5": 2.5, "True": True, "10^30": 10**30, "1j": 1j, "[]": [], "{}": {}, "a set": {1},
    "a generator": "made anew", "a type": int, "NumPy": np, "a class of ours": sm.Toeplitz, "a structure": K, "[NaN]": np.array([np.nan]), "[[NaN]]": np.full((2, 2), np.nan), "no entries": np.zeros((0, 0)), "0-d": np.array(1.0), "3-D": np.ones((2, 2, 2)), "objects": np.array([None]), "strings": np.array(["a"]),
    "float16": np.ones(3, np.float16), "longdouble": np.ones(3, np.longdouble), "dates": np.array(["2020-01-01"], "M8[D]"), "ragged": [[1, 2], [3]], "masked": np.ma.array([1.0, 2]), "a slice": slice(0, 5, 0), "100 brackets": NESTED, "Fraction": fractions.Fraction(1, 2),
    "Decimal": decimal.Decimal(1), "an error": ValueError("x"), "a RandomState": np.random.RandomState(0), "a dtype": np.dtype("int8"),
}  # fmt: skip

# Functions of the user whose errors are the user's, and what they return is looked at.
THEIRS = {
    ("cg", "M"),
    ("cg", "callback"),
    ("minres", "M"),
    ("gmres", "callback"),
    ("schroedinger", "potential"),
    ("schroedinger", "interaction"),
}
# Operators whose errors say how the other side writes them, or what they stand for.
SPEAKER = {"A * s": {"s * A"}, "A[i, j]": {"block"}}
NAMES = {name for _, good in CALLS.values() for name in good} | {
    "factors",
    "size",
    "index",
    "max_bytes",
    "dtype",
    "device",
}
ASKED = (sm.PrecisionWarning, sm.ConvergenceWarning, sm.ConditionWarning)


def sweep(names: tuple[str, ...] = (), seconds: int = 10) -> Iterator[tuple[str, str, str, str]]:
    """(function, parameter, what it was given, what came out): "value", "refused", or what is wrong."""
    for name in names or CALLS:
        _, good = CALLS[name]
        for parameter in good:
            for what, strange in STRANGE.items():
                if (name, parameter) in THEIRS and what in ("a type", "NumPy", "a class of ours"):
                    continue
                value = (i for i in [1.0]) if what == "a generator" else strange
                yield name, parameter, what, _asked(name, {**good, parameter: value}, seconds)


def _asked(name: str, arguments: dict[str, Any], seconds: int) -> str:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            with patience(seconds):
                CALLS[name][0](**arguments)
            found = "value"
        except Hang:
            return "a hang"
        except sm.SepmatError as error:
            try:
                form(error)
                speaks(name.partition(" to ")[0], error)
                found = "refused"
            except Wrong as wrong:
                found = str(wrong)
        except OSError:
            found = "refused"
        except Exception as error:  # noqa: BLE001 - which error it is, is the question
            found = f"{type(error).__name__}: {error}"
    leaked = [w for w in caught if not issubclass(w.category, ASKED)]
    return f"warns: {leaked[0].message}" if leaked and found in ("value", "refused") else found


def speaks(function: str, error: sm.SepmatError) -> None:
    """The error names the function that was called, and arguments that exist."""
    where, arguments, *_ = error.args
    if where not in {function} | SPEAKER.get(function, set()):
        raise Wrong(f"{function} speaks as {where}")
    unknown = {re.match(r"\w*", name)[0] for name in arguments.split(" | ")} - NAMES
    if unknown:
        raise Wrong(f"{function} has no argument {', '.join(unknown)}")


def swept(names: tuple[str, ...] = (), seconds: int = 10) -> tuple[collections.Counter[str], list[str]]:
    """How many calls gave a value, how many were refused; and those that did neither."""
    counts, bad = collections.Counter[str](), []
    for name, parameter, what, found in sweep(names, seconds):
        counts[found if found in ("value", "refused") else "bad"] += 1
        if found not in ("value", "refused"):
            bad.append(f"{name}({parameter}={what}): {found}")
    return counts, bad
