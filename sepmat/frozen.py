"""Frozen data: a dataclass of arrays that is read, mapped over, pickled, and remembers what was computed from it.

Nothing here knows of matrices. `xp`, dtype and device are read off the arrays; nothing is ever written to them.
"""

import math
from collections.abc import Callable
from typing import Any, Self

from . import _array
from ._array import Array, Namespace
from .errors import BackendError, DTypeError


class once:
    """A property that is computed at the first look and an attribute from then on: functools.cached_property without its
    lock, which torch.compile cannot trace."""

    def __init__(self, compute: Callable[[Any], Any]) -> None:
        self.compute, self.name, self.__doc__ = compute, compute.__name__, compute.__doc__

    def __get__(self, instance: Any, owner: type) -> Any:
        if instance is None:
            return self
        value = self.compute(instance)
        object.__setattr__(instance, self.name, value)
        return value


class Frozen:
    """What the fields of a frozen dataclass give: its arrays, copies of it with other arrays, and a memory of its own.

    A field is an array, another frozen object, a tuple of such, or a plain value (an int, a shape).
    """

    _memo: dict[Any, tuple[Any, Any]]

    # --- fields ---------------------------------------------------------------------------------------------------------

    @classmethod
    def _of(cls, **fields: Any) -> Self:
        """A matrix from fields that are already right: no checks, no copies."""
        new = object.__new__(cls)
        for name in cls.__dataclass_fields__:  # type: ignore[attr-defined]
            object.__setattr__(new, name, _freeze(fields[name]))
        return new

    def _fields(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__dataclass_fields__}  # type: ignore[attr-defined]

    def _arguments(self) -> tuple[Any, ...]:
        """What the constructor makes this matrix of, if that is not its fields: what comes from a file is checked by it."""
        return tuple(self._fields().values())

    def arrays(self) -> tuple[Array, ...]:
        """The stored arrays, in the order of the fields."""
        return self._arrays

    @once
    def _arrays(self) -> tuple[Array, ...]:
        return _leaves(tuple(self._fields().values()))

    @once
    def _tensors(self) -> tuple[Array, ...]:
        """Those of the arrays that others may write to or take gradients of."""
        return tuple(a for a in self._arrays if _array.is_torch(a))

    def map(self, fn: Callable[[Array], Array]) -> Self:
        """The same structure with fn applied to every stored array (a cast, a move, a conjugation)."""
        return self._of(**{name: _map(value, fn) for name, value in self._fields().items()})

    @once
    def xp(self) -> Namespace:
        """The array API namespace of the stored arrays."""
        return _array.array_namespace(*self.arrays())

    @once
    def dtype(self) -> Any:
        first, *rest = self.arrays()
        return first.dtype if all(a.dtype == first.dtype for a in rest) else self.xp.result_type(first, *rest)

    @property
    def device(self) -> Any:
        return _array.device(self.arrays()[0])

    @property
    def num_parameters(self) -> int:
        """The number of stored scalars."""
        return sum(math.prod(a.shape) for a in self.arrays())

    def equals(self, other: object) -> bool:
        """Whether other is of the same class with the same fields: arrays of one library, dtype, shape and the same numbers."""
        return type(other) is type(self) and _same(tuple(self._fields().values()), tuple(other._fields().values()))

    def astype(self, dtype: Any) -> Self:
        """The same matrix in another floating point dtype of its library."""
        given, dtype = dtype, _array.as_dtype(self.xp, dtype)
        if dtype is None:
            advice = "Use float32, float64, complex64 or complex128"
            raise DTypeError("astype", "dtype", repr(given), "a floating point dtype of the library", advice)
        if self._is_complex and not self.xp.isdtype(dtype, "complex floating"):
            advice = "It would drop the imaginary part; use A.map(xp.real) if that is wanted"
            raise DTypeError("astype", "dtype", f"{dtype} for a complex matrix", "a complex dtype", advice)
        with _array.quiet():  # 1e300 is infinite in float32
            return self if dtype == self.dtype else self.map(lambda a: _array.astype(a, dtype))

    def _in_precision(self, dtype: Any) -> Self:
        """The same matrix in the precision of a dtype; a real one stays real."""
        return self.astype(dtype if self._is_complex else _array.real_dtype(self.xp, dtype))

    def to_device(self, device: Any) -> Self:
        """The same matrix on another device of its library."""
        try:
            return self.map(lambda a: _array.to_device(a, device))
        except (ValueError, AssertionError, RuntimeError) as error:
            library = _array.library(self.arrays()[0])
            reason = str(error).partition("\n")[0]
            raise BackendError(
                "to_device",
                "device",
                f"{device!r} ({reason})",
                f"a device of {library}",
                "Use one that this machine has",
            ) from None

    @property
    def _is_complex(self) -> bool:
        return bool(self.xp.isdtype(self.dtype, "complex floating"))

    # --- what is computed from them -----------------------------------------------------------------------------------

    def _remember(self, key: Any, compute: Callable[[], Any]) -> Any:
        """A value computed from the arrays once: idempotent, dropped by map and pickling, never data."""
        versions = _array.versions(self._tensors) if self._tensors else ()
        if versions is None:
            return compute()
        memo = self.__dict__.get("_memo")
        if memo is None:
            memo = self.__dict__.setdefault("_memo", {})
        found = memo.get(key)
        if found is None or found[0] != versions:
            found = memo[key] = (versions, compute())
        return found[1]

    @property
    def _remembers(self) -> bool:
        """Whether _remember keeps anything that is of use again: not where gradients are asked for, nor `_once`."""
        if "_transient" in self.__dict__:
            return False
        return len(self._tensors) == 0 or _array.versions(self._tensors) is not None

    def _once(self) -> Self:
        """This matrix, made for a single product: its plan makes nothing, such as a dense form, that pays later."""
        self.__dict__["_transient"] = True
        for value in self._fields().values():
            for part in value if isinstance(value, tuple) else (value,):
                if isinstance(part, Frozen):
                    part._once()
        return self

    # --- pickles --------------------------------------------------------------------------------------------------------

    def __getstate__(self) -> dict[str, Any]:
        return self._fields()

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update({name: _freeze(value) for name, value in state.items()})


def _leaves(value: Any) -> tuple[Array, ...]:
    if isinstance(value, tuple):
        return tuple(leaf for v in value for leaf in _leaves(v))
    if isinstance(value, Frozen):
        return value.arrays()
    return (value,) if _array.is_array(value) else ()


def _map(value: Any, fn: Callable[[Array], Array]) -> Any:
    if isinstance(value, Frozen):
        return value.map(fn)
    if isinstance(value, tuple):
        return tuple(_map(v, fn) for v in value)
    return fn(value) if _array.is_array(value) else value


def _same(x: Any, y: Any) -> bool:
    if isinstance(x, Frozen):
        return x.equals(y)
    if isinstance(x, tuple):
        return isinstance(y, tuple) and len(x) == len(y) and all(map(_same, x, y))
    if not _array.is_array(x) or not _array.is_array(y):
        return type(x) is type(y) and bool(x == y)
    alike = _array.library(x) == _array.library(y) and x.dtype == y.dtype and x.shape == y.shape
    return alike and bool(_array.array_namespace(x).all(x == y))


def _freeze(value: Any) -> Any:
    return tuple(_freeze(v) for v in value) if isinstance(value, tuple) else _array.freeze(value)
