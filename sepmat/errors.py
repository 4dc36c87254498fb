"""The errors and warnings of the library: one class for each kind of trouble, all of them `SepmatError`.

Every error is raised with five parts, and every message has one form:

    >>> raise ShapeError("kron", "factors", "empty", "at least one", "Use Identity(n, like=array)")
    Traceback (most recent call last):
    sepmat.errors.ShapeError: kron: factors: empty; expected at least one. Use Identity(n, like=array).
"""

import functools
import inspect
import sys
import warnings
from collections.abc import Callable
from types import FrameType
from typing import TYPE_CHECKING, ParamSpec, TypeVar

if TYPE_CHECKING:  # SciPy has no type stubs; it is a ValueError since NumPy 1.25
    LinAlgError = ValueError
else:
    from scipy.linalg import LinAlgError

__all__ = [
    "ArgumentError",
    "BackendError",
    "ConditionWarning",
    "ConvergenceWarning",
    "DTypeError",
    "FormatError",
    "NonFiniteError",
    "OutOfBoundsError",
    "PrecisionWarning",
    "SepmatError",
    "ShapeError",
    "SingularMatrixError",
    "SizeLimitError",
    "UnsupportedError",
]


LONGEST = 240  # characters that a value may take in a message
INSIDE = {__package__, "functools", "contextlib"}  # what a warning does not point into


class SepmatError(Exception):
    """Base of every error that sepmat raises on purpose.

    where: the function or class that speaks; argument: the name of the argument; got: what it was, with the actual
    value; expected: what it should have been; advice: what to do.
    """

    def __init__(self, where: str, argument: str, got: str, expected: str, advice: str) -> None:
        lines = (" ".join(text.split()) for text in (got, expected))  # the repr of an array has several
        got, expected = (text if len(text) <= LONGEST else text[: LONGEST - 1] + "…" for text in lines)
        super().__init__(where, argument, got, expected, advice)

    def __str__(self) -> str:
        where, argument, got, expected, advice = self.args
        return f"{where}: {argument}: {got}; expected {expected}. {advice}."


class ArgumentError(SepmatError, ValueError):
    """An argument has the right type and an impossible value (a rank of 0, a tolerance of -1, an unknown name)."""


class ShapeError(SepmatError, ValueError):
    """Sizes or numbers of axes do not fit."""


class DTypeError(SepmatError, TypeError):
    """An argument is of a type, or an array of a dtype, library or device, that cannot be used here."""


class OutOfBoundsError(SepmatError, IndexError):
    """An index lies outside the matrix."""


class NonFiniteError(SepmatError, ValueError):
    """Data that must be finite holds NaN or infinity."""


class SingularMatrixError(SepmatError, LinAlgError):
    """The matrix is singular to the precision of its dtype."""


class SizeLimitError(SepmatError, MemoryError):
    """The result would not fit the stated memory limit. Raised before anything is allocated."""


class FormatError(SepmatError, ValueError):
    """A file does not hold what it should."""


class BackendError(SepmatError, RuntimeError):
    """A library or device that was asked for is missing or does not work."""


class UnsupportedError(SepmatError, NotImplementedError):
    """No rule keeps the structure in this operation. The message names two ways out."""


P = ParamSpec("P")
R = TypeVar("R")


def speaks(function: Callable[P, R]) -> Callable[P, R]:
    """Decorator: an error from whatever a function calls names the function, which is what the user called.

    A dense routine of an array library that gives up has met numbers out of range, made of finite ones on the way.
    """
    argument = next(iter(inspect.signature(function).parameters))

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return function(*args, **kwargs)
        except SepmatError as error:
            error.args = (function.__name__, *error.args[1:])
            raise
        except (LinAlgError, RuntimeError) as error:
            if not type(error).__name__.endswith("LinAlgError"):  # torch's is a RuntimeError
                raise
            got = f"numbers with which a dense routine failed ({error})"
            ways = f"Multiply {argument} by a power of two that brings its entries near 1"
            raise NonFiniteError(
                function.__name__, argument, got, "numbers whose products stay in range", ways
            ) from error

    return call


class PrecisionWarning(UserWarning):
    """The tolerance asked for lies below what the precision of the data can give."""


class ConvergenceWarning(UserWarning):
    """An iteration stopped before it converged; the result carries its true error."""


class ConditionWarning(UserWarning):
    """The matrix is so ill-conditioned that the result has few correct digits."""


def warn(category: type[Warning], text: str) -> None:
    """Warn at the line that called the library, however deep in it the trouble showed."""
    frame: FrameType | None = sys._getframe(1)
    level = 2
    while frame is not None and frame.f_globals.get("__name__", "").partition(".")[0] in INSIDE:
        frame, level = frame.f_back, level + 1
    warnings.warn(text, category, stacklevel=level)
