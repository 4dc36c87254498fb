"""Canonical polyadic fits of small cores: d factor matrices (n_k, r) whose columns multiply to r rank-one terms.

Arrays in, arrays out: what the terms stand for (matrices, vectors) is known above only.
"""

from .cores import DenseCore
from .fit import Result, fit_core
from .train import TrainCore

__all__ = ["DenseCore", "Result", "TrainCore", "fit_core"]
