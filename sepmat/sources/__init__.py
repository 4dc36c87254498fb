"""Where R(M) comes from: arrays and U Vᵀ, sparse matrices, operators, and matrices larger than memory.

Every source answers the same questions (`Rearranged`), so that every fit takes every source.
"""

from typing import Any

from .. import _array
from .._array import Array
from ..errors import DTypeError
from ..fit import as_target
from ..kronecker import rearrange
from ..low_rank import LowRank
from ..matrix import StructuredMatrix
from ..rearranged import FromDense, FromLowRank
from .blocks import block_source
from .operator import Operator
from .source import Source
from .sparse import sparse_source

__all__ = ["Source", "as_source"]


def as_source(M: Any, where: str, rng: Any, exact: bool = False) -> Source:
    """Whatever M is: an array, LowRank, SciPy sparse, a LinearOperator, a structured matrix, numpy.memmap, Dask, HDF5.

    exact: an operator is formed (at most 1 GB), so that its fit and its error are exact.
    """
    if isinstance(M, type):
        advice = "Pass an array, or an instance of it"
        raise DTypeError(where, "M", f"the class {M.__name__}", "a matrix", advice)
    if isinstance(M, LowRank):
        return _low_rank_source(M, where)
    if hasattr(M, "tocoo"):
        return sparse_source(M, where)
    if isinstance(M, StructuredMatrix) or hasattr(M, "matmat"):
        operator = Operator(M, where, rng)
        return _dense_source(operator.formed(), where) if exact else operator.source()
    return block_source(M, where) if _array.is_lazy(M) else _dense_source(M, where)


def _dense_source(M: Array, where: str) -> Source:
    M, k = as_target(M, where)
    shape = (int(M.shape[0]), int(M.shape[1]))
    return Source(shape, M, (k // 2, k - k // 2), lambda pairs: FromDense(rearrange(M, pairs), pairs), M)


def _low_rank_source(M: LowRank, where: str) -> Source:
    U, k = as_target(M.U, where)
    V, l = as_target(M.V, where)
    if not M.rank:  # nothing is the sum of one term that is 0
        U, V = (_array.array_namespace(X).zeros((X.shape[0], 1), dtype=X.dtype, device=M.device) for X in (U, V))
    return Source(M.shape, U, (k, l), lambda pairs: FromLowRank(U, V, pairs))
