"""The container of a file: one safetensors file with a manifest, written in one step, measured before it is read.

    8 bytes, little-endian: the length of the header
    the header, JSON: {"__metadata__": {"sepmat": manifest, "sha256": its digest}, key: {dtype, shape, data_offsets}, …}
    the arrays, one after the other, little-endian, C order, complex numbers as pairs

The manifest is JSON again: {"format": "sepmat", "version": 1, "tree": …}; what a tree means is the business of io.py.
"""

import contextlib
import errno
import hashlib
import json
import math
import os
import re
import shutil
import stat
import threading
from collections.abc import Iterable, Sequence
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from . import _check
from .errors import FormatError, SizeLimitError

FORMAT, VERSION = "sepmat", 1
LARGEST_HEADER, MOST_KEYS, MOST_AXES = 2**20, 10_000, 32
DAMAGED = "Restore a copy of the file, or save the matrix again"


class Stored(NamedTuple):
    """How a dtype lies in a file: the code of safetensors, the NumPy dtype of its bytes; in pairs, or as mere bits."""

    code: str
    dtype: str
    pairs: bool = False
    bits: bool = False

    def shape(self, shape: Sequence[int]) -> list[int]:
        """The shape of what is stored for an array of a shape."""
        return [*map(int, shape), *([2] if self.pairs else [])]


DTYPES = {
    "float32": Stored("F32", "<f4"),
    "float64": Stored("F64", "<f8"),
    "complex64": Stored("F32", "<c8", pairs=True),
    "complex128": Stored("F64", "<c16", pairs=True),
    "float16": Stored("F16", "<u2", bits=True),  # torch only, and NumPy has no bfloat16
    "bfloat16": Stored("BF16", "<u2", bits=True),
}
SIZES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}
FOREIGN = {  # what a file begins with that is not ours
    b"\x80": "a pickle",
    b"PK\x03\x04": "a zip archive (.npz or .pt, which may hold pickles)",
    b"\x93NUMPY": "an .npy file",
    b"\x89HDF": "an HDF5 file",
}


class Entry(NamedTuple):
    """What the header says of an array, with its place in the file."""

    code: str
    shape: list[int]
    start: int
    end: int


def pack(tree: Any, arrays: dict[str, tuple[Stored, Any]]) -> list[Any]:
    """The file, piece by piece. arrays: on the host, in C order. Wide numbers come first, so that all of them lie aligned."""
    manifest = json.dumps({"format": FORMAT, "version": VERSION, "tree": tree}, allow_nan=False, separators=(",", ":"))
    header: dict[str, Any] = {"__metadata__": {FORMAT: manifest, "sha256": digest(manifest.encode())}}
    arrays, end = dict(sorted(arrays.items(), key=lambda item: -SIZES[item[1][0].code])), 0
    for key, (stored, host) in arrays.items():
        start, end = end, end + host.nbytes
        header[key] = {"dtype": stored.code, "shape": stored.shape(host.shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    if len(text) > LARGEST_HEADER or len(arrays) > MOST_KEYS:
        got = f"{len(arrays)} arrays with a header of {_check.readable(len(text))}"
        expected = f"at most {MOST_KEYS} arrays and {_check.readable(LARGEST_HEADER)}"
        raise SizeLimitError("save", "A", got, expected, "Save its parts in files of their own")
    return [len(text).to_bytes(8, "little"), text, *(raw_bytes(host) for _, host in arrays.values())]


def unpack(file: BinaryIO, size: int) -> tuple[Any, dict[str, Entry]]:
    """The tree of a file of that size, and where its arrays are. Nothing of them is read yet."""
    header, start = _header(file, size)
    tree = _tree(header.pop("__metadata__", None))
    return tree, _entries(header, start, size)


def read(file: BinaryIO, key: str, entry: Entry, sha256: Any) -> Any:
    """The bytes of an array, if they have that digest."""
    raw: Any = np.empty(entry.end - entry.start, np.uint8)
    file.seek(entry.start)
    if file.readinto(memoryview(raw)) != len(raw):  # type: ignore[attr-defined]
        raise wrong(key, "truncated while it was read", _check.readable(len(raw)))
    if digest(memoryview(raw)) != sha256:
        raise wrong(key, "checksum mismatch", "the bytes that were saved")
    return raw


def digest(data: Any) -> str:
    """SHA-256 of bytes, in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def raw_bytes(host: Any) -> memoryview:
    """The memory of a NumPy array in C order."""
    flat: Any = np.ravel(host).view(np.uint8)
    return memoryview(flat)


def wrong(argument: str, got: str, expected: str, advice: str = DAMAGED) -> FormatError:
    """The one error for everything that is wrong with the content of a file."""
    return FormatError("load", argument, got, expected, advice)


# the header -------------------------------------------------------------------------------------------------------------


def _header(file: BinaryIO, size: int) -> tuple[dict[str, Any], int]:
    """The header, and where the arrays begin."""
    first = file.read(8)
    if len(first) < 8:
        raise wrong("file", f"{size} bytes", "a sepmat file", DAMAGED)
    length = int.from_bytes(first, "little")
    if length > LARGEST_HEADER:
        kind = next((kind for magic, kind in FOREIGN.items() if first.startswith(magic)), "other bytes")
        advice = "Nothing is ever unpickled: read it where you trust it, build the matrix, then use sm.save"
        raise wrong(
            "file", f"{kind}, no header", f"a sepmat file, with at most {LARGEST_HEADER} bytes of header", advice
        )
    text = file.read(length)
    if len(text) < length:
        raise wrong("file", f"truncated: {size} bytes", f"{8 + length} bytes of header", DAMAGED)
    header = _json(text, "header")
    if not isinstance(header, dict) or len(header) > MOST_KEYS + 1:
        got = f"{len(header)} entries" if isinstance(header, (dict, list)) else f"a {type(header).__name__}"
        raise wrong("header", got, f"an object with at most {MOST_KEYS} arrays")
    return header, 8 + length


def _tree(metadata: Any) -> Any:
    """The tree of the manifest, if this version can read it and its digest is right."""
    if not isinstance(metadata, dict) or not isinstance(metadata.get(FORMAT), str):
        advice = "Read its arrays with safetensors.numpy.load_file and build the matrix from them"
        raise wrong("header", "no manifest", "a file written by sm.save", advice)
    manifest = _json(metadata[FORMAT], "manifest")
    version = manifest.get("version") if isinstance(manifest, dict) and manifest.get("format") == FORMAT else None
    if type(version) is int and version > VERSION:
        advice = "Upgrade: pip install --upgrade sepmat"
        raise wrong("version", str(version), f"at most {VERSION}, which this sepmat reads", advice)
    if version != VERSION or type(version) is not int or manifest.keys() != {"format", "version", "tree"}:
        raise wrong("manifest", f"format version {version!r}", f"a manifest of version {VERSION}")
    if digest(metadata[FORMAT].encode(errors="surrogatepass")) != metadata.get("sha256"):
        raise wrong("manifest", "checksum mismatch", "the manifest that was saved")
    return manifest["tree"]


def _entries(header: dict[str, Any], start: int, size: int) -> dict[str, Entry]:
    """The arrays, which must fill the rest of the file without gaps: what they claim is compared with its size."""
    found = {}
    for key, node in header.items():
        if not isinstance(node, dict) or node.keys() != {"dtype", "shape", "data_offsets"}:
            raise wrong(_short(key), "an unknown entry", "dtype, shape and data_offsets")
        code, shape, offsets = node["dtype"], node["shape"], node["data_offsets"]
        if not isinstance(code, str) or code not in SIZES:
            raise wrong(_short(key), f"dtype {code!r}", f"one of {', '.join(SIZES)}")
        if not _are_sizes(shape) or not _are_sizes(offsets) or len(shape) > MOST_AXES or len(offsets) != 2:
            got = f"shape {shape}, offsets {offsets}"
            raise wrong(_short(key), got, f"up to {MOST_AXES} sizes, and two offsets, none below 0")
        needed = math.prod(shape) * SIZES[code]
        if needed != offsets[1] - offsets[0]:
            got = f"declares {_check.readable(needed)} ({'×'.join(map(str, shape))} {code})"
            raise wrong(_short(key), got, f"the {offsets[1] - offsets[0]} bytes of its offsets")
        found[key] = Entry(code, shape, start + offsets[0], start + offsets[1])
    end = start
    for key, entry in sorted(found.items(), key=lambda item: (item[1].start, item[1].end)):
        if entry.start != end:
            raise wrong(_short(key), f"begins at {entry.start}", f"{end}: one array after the other")
        end = entry.end
    if end != size:
        got = f"{'truncated' if end > size else 'too long'}: {_check.readable(size - start)} of arrays"
        raise wrong("file", got, _check.readable(end - start), DAMAGED)
    return found


def _are_sizes(values: Any) -> bool:
    return isinstance(values, list) and all(type(n) is int and 0 <= n <= _check.LARGEST_INDEX for n in values)


def _json(text: str | bytes, name: str) -> Any:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            raise ValueError("a key stands twice")
        return found

    def no_constant(word: str) -> Any:
        raise ValueError(word)

    try:
        text = text.decode() if isinstance(text, bytes) else text
        return json.loads(text, object_pairs_hook=unique, parse_constant=no_constant)
    except (ValueError, RecursionError) as error:  # also of UTF-8, and of integers too long to convert
        raise wrong(name, f"no JSON ({error})", "a header written by sm.save", DAMAGED) from None


def _short(key: str) -> str:
    return ascii(key)[:60]


# the operating system ---------------------------------------------------------------------------------------------------


def check_regular(name: str) -> None:
    """A pipe would be waited for, a device read without end, and both replaced by a file."""
    mode = os.stat(name).st_mode
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), name)
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, "not a regular file", name)


def replace(name: str, pieces: Iterable[Any]) -> None:
    """Write all of a file or nothing of it: beside it, to the disk, then under its name in one step."""
    path = os.path.realpath(name)
    if os.path.lexists(path):
        check_regular(path)
        if not os.access(path, os.W_OK):  # a new name would not ask
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), name)
    folder, file_name = os.path.split(path)
    _remove_strays(folder, file_name)
    temporary = os.path.join(folder, f".{file_name}.{os.getpid()}.{threading.get_native_id()}.tmp")
    file = open(temporary, "xb")  # noqa: SIM115  of a file that is there already nothing is removed below
    try:
        with file:
            for piece in pieces:
                file.write(piece)
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(FileNotFoundError):
            shutil.copymode(path, temporary)
        os.replace(temporary, path)
    except BaseException:  # also of Ctrl-C
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
    if os.name == "posix":  # the new name must survive a power cut too
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _remove_strays(folder: str, file_name: str) -> None:
    """The temporary files of savers of this file that were killed, and those of this thread."""
    stray = re.compile(re.escape(f".{file_name}.") + r"(\d+)\.(\d+)\.tmp")
    for found in filter(None, map(stray.fullmatch, os.listdir(folder))):
        if not _is_alive(int(found[1]), int(found[2])):
            with contextlib.suppress(OSError):
                os.unlink(os.path.join(folder, found[0]))


def _is_alive(process: int, thread: int) -> bool:
    """Whether another thread may still be writing."""
    if process == os.getpid():
        return thread != threading.get_native_id() and thread in {t.native_id for t in threading.enumerate()}
    if os.name != "posix":  # where os.kill(process, 0) would kill it
        return True
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass  # it is someone else's
    return True
