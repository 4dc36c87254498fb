"""Files: any structured matrix, or a Fit, saved to one file and loaded again with the same bits.

A file holds arrays and a tree that says what they are. In the tree a matrix is {"kind": class, "fields": {name: …}}, a tuple a
list, a number itself, an array {"dtype", "shape", "sha256"} under the key that leads to it, such as "terms.0.c". Classes are
found among those that exist and fields by their declarations, so that a new structure needs nothing here; what comes out of a
file passes the checks of its constructor. How the arrays and the tree lie in the file is told in _container.py.
"""

import dataclasses
import functools
import math
import os
import types
import typing
from typing import Any, BinaryIO

import numpy as np

from . import _array, _check, _container
from ._array import Array
from ._container import DTYPES, Entry, Stored, digest, raw_bytes, wrong
from .errors import ArgumentError, DTypeError, SepmatError
from .fit import Fit
from .matrix import StructuredMatrix

__all__ = ["load", "save"]

DEEPEST = 16  # levels of matrices and tuples inside one another


def save(A: StructuredMatrix | Fit, path: str | os.PathLike[str], *, allow_nonfinite: bool = False) -> None:
    """Write a structured matrix of any class, or a `Fit`, to one file that `load` reads back bit for bit.

    path: the name as it stands, nothing is appended (`.safetensors` is usual: the file is one, and its arrays can be read
    by every library that knows the format). A symbolic link is followed. The file is replaced in one step: whatever
    happens on the way (an error, Ctrl-C, a kill), the old file or the new one is there, whole. allow_nonfinite: also write
    NaN and infinity. What was remembered of A (spectra, dense forms) and gradients are not written.

    Arrays of torch, CuPy and others are copied to the host; float16 and bfloat16 tensors keep their bits. Cost: two passes
    over the data, one for SHA-256. Raises NonFiniteError, DTypeError where A is something else, SizeLimitError above 10,000
    arrays or 1 MB of header, OSError from the operating system.

    >>> import sepmat as sm, tempfile, pathlib
    >>> folder = pathlib.Path(tempfile.mkdtemp())
    >>> sm.save(sm.Circulant([1.0, 2.0, 3.0], shape=(3, 2)), folder / "c.safetensors")
    >>> sm.load(folder / "c.safetensors")
    Circulant(shape=(3, 2), float64)
    """
    target = _as_path(path, "save")
    if not isinstance(A, (StructuredMatrix, Fit)):
        advice = "Use sm.Dense(A) for a dense array, and the matrix inside anything else"
        raise DTypeError("save", "A", f"a {type(A).__name__}", "a structured matrix or a Fit", advice)
    writer = _Writer(_check.as_flag(allow_nonfinite, "save", "allow_nonfinite"))
    tree = writer.encode(A, ())
    _container.replace(target, _container.pack(tree, writer.arrays))


def load(
    path: str | os.PathLike[str], *, like: Array | None = None, allow_nonfinite: bool = False
) -> StructuredMatrix | Fit:
    """The matrix or `Fit` that `save` wrote, of the same class and dtype, with the same bits.

    like: an array whose library and device the matrix comes in, as in `numpy.asarray(…, like=)`: `like=torch.empty(0)`,
    `like=cupy.empty(0)`; its dtype has no say. None: NumPy. Files with float16 or bfloat16 need a torch tensor.

    Nothing in a file is code, and nothing is unpickled. Sizes are compared with the file before anything is allocated; SHA-256
    of the manifest and of each array must agree; the arrays then pass the checks of the constructors. Memory: the arrays, and
    once more those of one matrix at a time. A file by a class of your own needs its module imported first. allow_nonfinite:
    take NaN and infinity.

    Raises FormatError for anything wrong with the content, DTypeError where `like` cannot hold the dtype, OSError from the
    operating system.

    >>> import sepmat as sm, tempfile, pathlib
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "t.safetensors"
    >>> sm.save(sm.Toeplitz([1.0, 2.0], [1.0, 3.0]) + sm.Identity(2), path)
    >>> sm.load(path).to_dense()
    array([[2., 3.],
           [2., 2.]])
    """
    name = _as_path(path, "load")
    if like is not None and not _array.is_array(like):
        raise DTypeError("load", "like", f"a {type(like).__name__}", "an array", "Pass for example torch.empty(0)")
    _check.as_flag(allow_nonfinite, "load", "allow_nonfinite")
    _container.check_regular(name)
    with open(name, "rb") as file:
        return _read(file, os.fstat(file.fileno()).st_size, like, allow_nonfinite)


def _read(file: BinaryIO, size: int, like: Any = None, nonfinite: bool = False) -> StructuredMatrix | Fit:
    """What `load` does, with any binary file of the given size."""
    tree, entries = _container.unpack(file, size)
    A = _Reader(file, entries, like, nonfinite).decode(tree, ())
    for key in entries:  # those that were used are gone
        raise wrong(ascii(key)[:60], "an array that belongs to nothing", "only the arrays of the manifest")
    if not isinstance(A, (StructuredMatrix, Fit)):
        raise wrong("manifest", f"a {type(A).__name__}", "a matrix or a Fit")
    return A


def _as_path(path: Any, where: str) -> str:
    name = os.fspath(path) if isinstance(path, (str, os.PathLike)) else None
    if not isinstance(name, str):
        raise DTypeError(where, "path", f"a {type(path).__name__}", "a file name", "Pass a str or a pathlib.Path")
    if "\0" in name:
        raise ArgumentError(where, "path", repr(name), "a file name", "Remove the zero byte")
    return name


def _name(way: tuple[str, ...]) -> str:
    return ".".join(way) or "A"


# the tree ---------------------------------------------------------------------------------------------------------------


def _known() -> dict[str, type]:
    """What a file may hold: Fit, and every structure that exists in this process, by name."""
    found: dict[str, type] = {_kind(Fit): Fit}
    classes: list[type] = [StructuredMatrix]
    while classes:
        cls = classes.pop()
        classes.extend(cls.__subclasses__())
        if "__dataclass_fields__" in vars(cls):
            found[_kind(cls)] = cls
    return found


def _kind(cls: type) -> str:
    """Where one of our classes stands may change, and files stay; one of others is known by its module."""
    ours = cls.__module__.partition(".")[0] == __name__.partition(".")[0]
    return cls.__name__ if ours else f"{cls.__module__}.{cls.__qualname__}"


@functools.cache
def _hints(cls: type) -> dict[str, Any]:
    """The fields of a class and what may stand in them."""
    hints = typing.get_type_hints(cls)
    return {f.name: hints[f.name] for f in dataclasses.fields(cls)}


def _is(value: Any, hint: Any) -> bool:
    """Whether a value is what a field is declared as. `Any` is an array, or a factor that is an array or a matrix."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return _array.is_array(value) or isinstance(value, StructuredMatrix)
    if origin in (typing.Union, types.UnionType):
        return any(_is(value, arg) for arg in args)
    if origin is tuple:
        inner = [args[0]] * len(value) if args[-1] is Ellipsis and isinstance(value, tuple) else args
        return isinstance(value, tuple) and len(value) == len(inner) and all(map(_is, value, inner))
    if isinstance(value, StructuredMatrix):
        return isinstance(hint, type) and isinstance(value, hint)
    return type(value) is hint or (type(value) is int and hint is float)


class _Writer:
    """The arrays of a matrix on their way to a file."""

    def __init__(self, nonfinite: bool) -> None:
        self.nonfinite, self.known = nonfinite, _known()
        self.arrays: dict[str, tuple[Stored, Any]] = {}  # by key, on the host

    def encode(self, value: Any, way: tuple[str, ...]) -> Any:
        """value as a node of the tree."""
        if len(way) > DEEPEST:
            got, expected = f"nested {len(way)} deep", f"at most {DEEPEST} levels"
            raise ArgumentError("save", _name(way), got, expected, "Save the inner matrices by themselves")
        if isinstance(value, (StructuredMatrix, Fit)):
            return self.object(value, way)
        if isinstance(value, tuple):
            return [self.encode(v, (*way, str(i))) for i, v in enumerate(value)]
        if _array.is_array(value):
            return self.array(value, _name(way))
        if isinstance(value, float) and not math.isfinite(value):
            return {"float": repr(value)}
        if value is None or isinstance(value, (bool, int, float, str)):
            return value
        got, expected = f"a {type(value).__name__}", "an array, a matrix, a number, a string or a tuple of these"
        raise DTypeError("save", _name(way), got, expected, "Only what is data can be saved")

    def object(self, A: StructuredMatrix | Fit, way: tuple[str, ...]) -> dict[str, Any]:
        cls: type = type(A)
        fields = {}
        if self.known.get(_kind(cls)) is not cls:
            advice = "Decorate the class with sepmat.matrix.structure and define it once, in a module"
            raise DTypeError("save", _name(way), f"a {_kind(cls)}", "a structure that load finds by its name", advice)
        for name, hint in _hints(cls).items():
            value = getattr(A, name)
            if isinstance(value, np.generic) and hint is not Any:  # a NumPy number where a Python one is declared
                value = value.item()
            if not _is(value, hint):
                got, advice = (
                    f"a {type(value).__name__}",
                    "Declare the field as what it is, and build it by the constructor",
                )
                raise DTypeError("save", _name((*way, name)), got, f"{hint} as {cls.__name__} declares", advice)
            fields[name] = self.encode(value, (*way, name))
        return {"kind": _kind(cls), "fields": fields}

    def array(self, x: Array, key: str) -> dict[str, Any]:
        dtype = _array.dtype_name(x.dtype)
        if dtype not in DTYPES:
            raise DTypeError("save", key, f"dtype {dtype}", f"one of {', '.join(DTYPES)}", "Use A.astype('float64')")
        if not self.nonfinite:
            _check.check_finite(_array.stop_gradient(x), "save", key)
        stored = DTYPES[dtype]
        host = np.require(_array.to_bits(x), stored.dtype, "C")
        self.arrays[key] = stored, host
        return {"dtype": dtype, "shape": [int(n) for n in host.shape], "sha256": digest(raw_bytes(host))}


class _Reader:
    """The arrays of a file whose header has been checked, and what is made of them."""

    def __init__(self, file: BinaryIO, entries: dict[str, Entry], like: Any, nonfinite: bool) -> None:
        self.file, self.entries, self.like, self.nonfinite, self.known = file, entries, like, nonfinite, _known()

    def decode(self, node: Any, way: tuple[str, ...]) -> Any:
        """What a node of the tree stands for."""
        if len(way) > DEEPEST:
            raise wrong(_name(way), f"nested {len(way)} deep", f"at most {DEEPEST} levels")
        if isinstance(node, list):
            return tuple(self.decode(v, (*way, str(i))) for i, v in enumerate(node))
        if not isinstance(node, dict):
            return node
        if node.keys() == {"dtype", "shape", "sha256"}:
            return self.array(node, _name(way))
        if node.keys() == {"kind", "fields"} and isinstance(node["fields"], dict):
            return self.object(node["kind"], node["fields"], way)
        if node.keys() == {"float"} and node["float"] in ("inf", "-inf", "nan"):
            return float(node["float"])
        raise wrong(_name(way), f"a node of {sorted(node)}", "a matrix, an array or a number")

    def object(self, kind: Any, fields: dict[str, Any], way: tuple[str, ...]) -> StructuredMatrix | Fit:
        cls = self.known.get(kind) if isinstance(kind, str) else None
        if cls is None:
            advice = "Import the module that defines it, or upgrade: pip install --upgrade sepmat"
            raise wrong(_name(way), f"unknown class {kind!r}", f"one of {', '.join(sorted(self.known))}", advice)
        hints = _hints(cls)
        if fields.keys() != hints.keys():
            raise wrong(_name(way), f"{kind} with fields {sorted(fields)}", f"fields {sorted(hints)}")
        values = {name: self.decode(fields[name], (*way, name)) for name in hints}
        for name, hint in hints.items():
            if not _is(values[name], hint):
                raise wrong(_name((*way, name)), f"a {type(values[name]).__name__}", f"{hint} in a {kind}")
        return _checked(cls, values, _name(way)) if issubclass(cls, StructuredMatrix) else Fit(**values)

    def array(self, node: dict[str, Any], key: str) -> Array:
        dtype, shape, entry = node["dtype"], node["shape"], self.entries.pop(key, None)
        stored = DTYPES.get(dtype) if isinstance(dtype, str) and isinstance(shape, list) else None
        if entry is None:
            raise wrong(key, "missing", "an array of that key in the file")
        if stored is None or entry[:2] != (stored.code, [*shape, 2] if stored.pairs else shape):
            raise wrong(key, f"{dtype} of shape {shape}", f"{entry.code} of shape {entry.shape} as in the header")
        if stored.bits and not (self.like is not None and _array.is_torch(self.like)):
            advice = "Pass like=torch.empty(0), and use A.astype('float32') for what other libraries shall get"
            raise DTypeError("load", "like", f"no tensor, and {key} is {dtype}", "a torch tensor", advice)
        raw = _container.read(self.file, key, entry, node["sha256"])
        try:
            host = raw.view(stored.dtype).reshape(entry.shape[:-1] if stored.pairs else entry.shape)
        except ValueError as error:  # empty, and still too large
            raise wrong(key, f"shape {entry.shape} ({error})", "a shape that an array can have") from None
        x = _array.from_bits(host.astype(host.dtype.newbyteorder("="), copy=False), dtype, self.like)
        if not self.nonfinite:
            try:
                _check.check_finite(x, "load", key)
            except SepmatError as error:
                raise wrong(key, error.args[2], error.args[3], "Pass allow_nonfinite=True to take them") from None
        return x


def _checked(cls: type[StructuredMatrix], values: dict[str, Any], name: str) -> StructuredMatrix:
    """The matrix of these fields, if its constructor makes one of the same shapes."""
    try:
        made = cls._of(**values)
        again = cls(*made._arguments())
        same = again.shape == made.shape and [a.shape for a in again.arrays()] == [a.shape for a in made.arrays()]
        reason = "its constructor makes other arrays of them"
    except SepmatError as error:
        same, reason = False, f"{error.args[1]} is {error.args[2]}, expected {error.args[3]}"
    except MemoryError:
        raise
    except Exception as error:  # noqa: BLE001  fields that do not fit fail anywhere in a class
        same, reason = False, f"{type(error).__name__}: {error}"
    if not same:
        raise wrong(name, f"fields that do not fit: {reason}", f"a {cls.__name__}")
    return made
