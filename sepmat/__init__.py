"""sepmat: matrices with structure. Separated representations, Kronecker algebra, low displacement rank."""

import typing

from . import cauchy_like, commuting, interop, lazy, toeplitz_lstsq, woodbury
from .algebra import distance, hadamard, inner, partial_trace
from .als_solve import als_solve
from .approximate import approximate
from .basic import Dense, Diagonal, Identity
from .compress import compress
from .compress_displacement import compress_displacement
from .displacement import LowDisplacementRank, displacement, displacement_rank, shift
from .eigenpairs import Eigenpair, inverse_iteration, power_iteration
from .errors import (
    ArgumentError,
    BackendError,
    ConditionWarning,
    ConvergenceWarning,
    DTypeError,
    FormatError,
    NonFiniteError,
    OutOfBoundsError,
    PrecisionWarning,
    SepmatError,
    ShapeError,
    SingularMatrixError,
    SizeLimitError,
    UnsupportedError,
)
from .explain import Explanation, Limits, explain
from .exponential_sums import ExponentialSum, exponential_sum
from .expressivity import displacement_form, terms_needed
from .fit import Fit
from .functions import expm, schulz_inverse, sign
from .inverses import Inverse
from .io import load, save
from .kronecker import Kronecker, kron, rearrange, rearrange_back
from .kronecker_sum import KroneckerSum
from .linalg import (
    Factorization,
    convert,
    diagonal,
    eigvals,
    factorize,
    inverse,
    lstsq,
    norm,
    slogdet,
    solve,
    svdvals,
    trace,
)
from .low_rank import LowRank
from .lsr import generic_separation_rank, separated_from_low_rank, separation_rank, separation_rank_bounds
from .matrix import Product, Scaled, StructuredMatrix, Sum, _instead
from .multilevel import MultilevelCirculant, MultilevelToeplitz
from .nearest import nearest_circulant, nearest_hankel, nearest_low_rank, nearest_skew_circulant, nearest_toeplitz
from .nearest_displacement import nearest_displacement
from .nearest_kronecker import nearest_kronecker
from .nearest_separated import factor_shapes, nearest_separated
from .operators import gaussian_sum, inverse_laplacian, laplacian, radial_kernel, schroedinger, sin_sum
from .preconditioners import kronecker_preconditioner, separated_inverse, strang, superoptimal, t_chan
from .selftest import selftest
from .separated import Separated
from .toeplitz import Circulant, Hankel, SkewCirculant, Toeplitz

__version__ = "0.1.0"
__all__ = [name for name, value in globals().items() if not name.startswith("_") and type(value).__name__ != "module"]
__all__ += ["interop"]


if not typing.TYPE_CHECKING:  # to whom every name would exist

    def __getattr__(name):
        """An AttributeError with what is meant: sepmat.nn before it is imported, or a function by NumPy's name for it."""
        meant = {"nn": "import sepmat.nn", "peft": "import sepmat.peft"}.get(name) or _instead.get(name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}{f'; write {meant}' if meant else ''}")


def __dir__() -> list[str]:
    """What a user calls, without the modules that it stands in; sepmat.nn and sepmat.peft are imported by their names."""
    return [*__all__, "__all__", "__doc__", "__file__", "__name__", "__path__", "__version__"]
