"""sepmat: matrices with structure. Separated representations, Kronecker algebra, low displacement rank."""

from .basic import Dense, Diagonal, Identity, LowRank
from .errors import (
    ArgumentError,
    BackendError,
    ConditionWarning,
    ConvergenceWarning,
    DTypeError,
    FormatError,
    NonFiniteError,
    PrecisionWarning,
    SepmatError,
    ShapeError,
    SingularMatrixError,
    SizeLimitError,
    UnsupportedError,
)
from .kronecker import Kronecker, KroneckerSum, kron, rearrange, rearrange_back
from .linalg import convert, diagonal, eigvals, factorize, inverse, lstsq, norm, slogdet, solve, svdvals, trace
from .matrix import Product, Scaled, StructuredMatrix, Sum
from .separated import Separated

__version__ = "0.1.0"
