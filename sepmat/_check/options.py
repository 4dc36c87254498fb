"""Numbers, names, flags and seeds: the arguments that are no arrays."""

import difflib
import math
import numbers
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..errors import ArgumentError, DTypeError


def as_integer(value: Any, where: str, name: str, minimum: int = 1, maximum: int | None = None) -> int:
    """A Python int between two limits; bools, floats and strings are refused."""
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, numbers.Integral):
        raise DTypeError(where, name, repr(value), f"an integer >= {minimum}", "Pass a Python or NumPy integer")
    value = int(value)
    if value < minimum:
        raise ArgumentError(where, name, str(value), f"an integer >= {minimum}", "Pass a larger one")
    if maximum is not None and value > maximum:
        raise ArgumentError(
            where,
            name,
            f"{value} > {maximum} possible",
            f"an integer from {minimum} to {maximum}",
            "Pass a smaller one",
        )
    return value


def as_tolerance(tol: Any, where: str, name: str = "tol") -> float:
    """A relative tolerance strictly between 0 and 1."""
    expected = "a number between 0 and 1"
    value = as_real(tol, where, name, expected)
    if not 0 < value < 1:
        raise ArgumentError(where, name, repr(value), expected, "It is relative to the norm of the matrix")
    return value


def as_real(value: Any, where: str, name: str, expected: str = "a finite number") -> float:
    """A finite real number; bools and strings are refused, and so are integers beyond the range."""
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, numbers.Real):
        raise DTypeError(where, name, repr(value), expected, "Pass a float")
    try:
        found = float(value)
    except OverflowError:
        found = math.inf
    if not math.isfinite(found):
        raise ArgumentError(where, name, repr(value), expected, "Pass a finite float")
    return found


def as_number(value: Any, where: str, name: str) -> float | complex:
    """A finite number: a float, or a complex where it has an imaginary part by its type."""
    if isinstance(value, numbers.Complex) and not isinstance(value, numbers.Real):
        as_real(value.real, where, name)
        as_real(value.imag, where, name)
        return complex(value)
    return as_real(value, where, name)


def as_positive(value: Any, where: str, name: str, zero: bool = False) -> float:
    """A positive number (zero: or 0), possibly infinite."""
    expected = "a number >= 0" if zero else "a positive number"
    if isinstance(value, numbers.Real) and not isinstance(value, numbers.Integral) and value == math.inf:
        return math.inf
    found = as_real(value, where, name, expected)
    if found < 0 or (found == 0 and not zero):
        raise ArgumentError(where, name, repr(value), expected, "Pass a larger one")
    return found


def as_flag(value: Any, where: str, name: str) -> bool:
    """True or False, and nothing that Python would take for one of them."""
    if not isinstance(value, (bool, np.bool_)):
        raise DTypeError(where, name, repr(value), "True or False", "Pass a bool")
    return bool(value)


def as_function(value: Any, where: str, name: str) -> Callable[..., Any] | None:
    """A function or None."""
    if value is not None and not callable(value):
        raise DTypeError(where, name, f"a {type(value).__name__}", "a function or None", "Pass a function")
    return value


def one_of(where: str, **options: Any) -> None:
    """Exactly one of the options must be given."""
    given = [name for name, value in options.items() if value is not None]
    if len(given) != 1:
        raise ArgumentError(
            where,
            " | ".join(options),
            f"{len(given)} given",
            "exactly one of them",
            "Pass either " + " or ".join(f"{n}=" for n in options),
        )


def as_choice(value: Any, choices: Sequence[str], where: str, name: str) -> str:
    """One of the names; the closest one is suggested, where one is close."""
    if not isinstance(value, str) or value not in choices:
        close = difflib.get_close_matches(str(value), choices, n=1)
        ranked = [*close, *(c for c in choices if c not in close)]
        advice = f"Did you mean {close[0]!r}" if close else "Check the spelling"
        raise ArgumentError(where, name, repr(value), f"one of {', '.join(ranked)}", advice)
    return str(value)


def as_generator(seed: Any, where: str) -> np.random.Generator:
    """A NumPy generator from an int, a Generator or None (fresh entropy). The global state is never used."""
    if isinstance(seed, np.random.Generator) or seed is None:
        return np.random.default_rng(seed)
    if isinstance(seed, bool) or not isinstance(seed, numbers.Integral):
        raise DTypeError(
            where,
            "seed",
            f"a {type(seed).__name__}",
            "an int, a numpy Generator or None",
            "Use numpy.random.default_rng(...)",
        )
    return np.random.default_rng(as_integer(seed, where, "seed", minimum=0))
