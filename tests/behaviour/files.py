"""What can be wrong with a file, rows 66 to 85 of the catalogue: `tests/test_hostile_files.py` goes into each of them at length.

Row 86, adapter weights that do not fit, is of `sepmat.peft` and stands in `tests/test_peft.py`.
"""

import io
import json
import os
import pathlib
import pickle
import struct
import tempfile
import zipfile

import numpy as np
from conftest import host

import sepmat as sm

from .catalogue import S3, S4, K
from .engine import TRUE, Case, Refusal, Value
from .expected import CLASSES, built

# fmt: off
# one case a line


def folder():
    return tempfile.TemporaryDirectory()


def loaded(content, name="a.safetensors"):
    """What load says to these bytes."""
    with folder() as place:
        path = pathlib.Path(place) / name
        path.write_bytes(content)
        return sm.load(path)


def saved(A=None):
    with folder() as place:
        path = pathlib.Path(place) / "a"
        sm.save(K(np.asarray) if A is None else A, path)
        return path.read_bytes()


def parts(content):
    n = struct.unpack("<Q", content[:8])[0]
    return json.loads(content[8 : 8 + n]), content[8 + n :]


def file_of(header, data=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def tampered(change):
    header, data = parts(saved())
    change(header)
    return file_of(header, data)


def arrays_of(header):
    return [key for key in header if key != "__metadata__"]


def zipped(members):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as z:
        for name, data in members:
            z.writestr(name, data)
    return buffer.getvalue()


def npy(x):
    buffer = io.BytesIO()
    np.save(buffer, x)
    return buffer.getvalue()


def huge(shape):
    def change(header):
        key = arrays_of(header)[0]
        header[key]["shape"] = shape

    return lambda: tampered(change)


def renamed(name):
    def change(header):
        header[name] = header.pop(arrays_of(header)[0])

    return lambda: tampered(change)


def metadata(value):
    def change(header):
        header["__metadata__"] = value

    return lambda: tampered(change)


def of_version(number):
    """The manifest of another version of the format, all sums right or wrong: it is refused before they are looked at."""

    def change(header):
        key = next(iter(header["__metadata__"]))
        text = header["__metadata__"][key]
        header["__metadata__"][key] = text.replace('"version":1', f'"version":{number}').replace(
            '"version": 1', f'"version": {number}'
        )

    return lambda: tampered(change)


HOSTILE = [
    (66, "a pickle", lambda: pickle.dumps([1, 2])),
    (66, "npy of objects", lambda: npy(np.array([1.0]))),
    (66, "npz", lambda: zipped([("a.npy", npy(S3))])),
    (67, "empty", lambda: b""),
    (67, "text", lambda: b"hello"),
    (67, "random bytes", lambda: np.random.default_rng(0).bytes(1000)),
    (67, "zeros", lambda: b"\0" * 100),
    (67, "another safetensors file", lambda: file_of({"a": {"dtype": "F64", "shape": [1], "data_offsets": [0, 8]}}, b"\0" * 8)),
    *((68, f"cut to {k}/8", lambda k=k: (lambda c: c[: len(c) * k // 8])(saved())) for k in range(8)),
    (68, "one byte short", lambda: saved()[:-1]),
    (68, "one byte more", lambda: saved() + b"\0"),
    *(
        (
            69,
            f"bit {k} of {n}/16",
            lambda k=k, n=n: (lambda c: (lambda i: c[:i] + bytes([c[i] ^ (1 << k)]) + c[i + 1 :])((len(c) - 1) * n // 16))(saved()),
        )
        for n in range(17)
        for k in (0, 7)
    ),
    (70, "(1e6, 1e6) in few bytes", huge([10**6, 10**6])),
    (71, "1.6 GB in few bytes", huge([2 * 10**8])),
    (72, "2^62 × 8", huge([2**62, 8])),
    (72, "a negative side", huge([-3, -3])),
    (72, "a side of 2^63", huge([2**63])),
    (73, "a deflate bomb", lambda: zipped([("a", b"\0" * 10**6)])),
    (74, "two members of one name", lambda: zipped([("a", b"1"), ("b", b"2")])),
    *(
        (75, f"a key {name!r}", renamed(name))
        for name in ("../x", "factors.-1", "factors.9", "", "/etc/passwd", "a" * 300)
    ),
    (75, "no key", lambda: file_of({k: v for k, v in parts(saved())[0].items() if k == "__metadata__"})),
    (76, "another shape", huge([9])),
    (77, "no metadata", metadata({})),
    (78, "a newer version", of_version(99)),
    (78, "version 0", of_version(0)),
    (78, "version text", of_version('"x"')),
    (80, "a header of 2 MB", lambda: file_of(b"{" + b" " * 2**21 + b"}")),
    (80, "a depth of 10^4", lambda: file_of(b"[" * 10**4 + b"]" * 10**4)),
    (80, "a header longer than the file", lambda: struct.pack("<Q", 2**40) + b"{}"),
    (80, "10^5 keys", lambda: file_of({str(i): {} for i in range(10**5)})),
    *(
        (81, what, lambda h=h: file_of(h))
        for what, h in (
            ("no JSON", b"{{{"),
            ("bad UTF-8", b'{"\xff": 1}'),
            ("a number", b"5"),
            ("NaN", b"NaN"),
            ("a list", b"[]"),
            ("null", b"null"),
            ("a lone surrogate", b'"\\ud800"'),
            ("twice the same key", b'{"a": 1, "a": 2}'),
            ("an integer of 5000 digits", b'{"a": ' + b"9" * 5000 + b"}"),
        )
    ),
]


def roundtrip(b, name):
    """Bit for bit, also into the library of the caller."""
    A = built(b, name)
    with folder() as place:
        path = pathlib.Path(place) / "a"
        sm.save(A, path)
        again = sm.load(path, like=b.xp.asarray([0.0]))
    return again.equals(A)


def replaced(b):
    """A failed save leaves the old file as it was, and nothing beside it."""
    with folder() as place:
        path = pathlib.Path(place) / "a"
        sm.save(sm.Diagonal([1.0]), path)
        try:
            sm.save(sm.Diagonal(b([np.nan])), path)
        except sm.NonFiniteError:
            return sm.load(path).equals(sm.Diagonal([1.0])) and os.listdir(place) == ["a"]
    return False


def linked(b):
    with folder() as place:
        target, link = pathlib.Path(place) / "a", pathlib.Path(place) / "b"
        target.write_bytes(b"")
        link.symlink_to(target)
        sm.save(sm.Diagonal([1.0]), link)
        return link.is_symlink() and sm.load(target).equals(sm.Diagonal([1.0]))


def missing(b):
    with folder() as place:
        return sm.load(pathlib.Path(place) / "none")


def directory(b):
    with folder() as place:
        return sm.load(place)


def nowhere(b):
    with folder() as place:
        sm.save(sm.Diagonal([1.0]), pathlib.Path(place) / "no" / "a")


def anonymous(b):
    with folder() as place:
        sm.save(sm.Diagonal(b([np.inf])), pathlib.Path(place) / "a")


def fit_back(b):
    fit = sm.nearest_kronecker(b(np.kron(S3, S4)), ((3, 3), (4, 4)), 1)
    with folder() as place:
        sm.save(fit, pathlib.Path(place) / "a")
        again = sm.load(pathlib.Path(place) / "a", like=b.xp.asarray([0.0]))
    return isinstance(again, sm.Fit) and again.relative_error == fit.relative_error and again.matrix.equals(fit.matrix)


def loaded_product(b):
    """A loaded matrix multiplies with the bits of the one that was saved."""
    A = K(b)
    with folder() as place:
        sm.save(A, pathlib.Path(place) / "a")
        B = sm.load(pathlib.Path(place) / "a", like=b.xp.asarray([0.0]))
    return bool(np.all(host(B @ b(np.ones(12))) == host(A @ b(np.ones(12)))))


def cases():
    for number, what, content in HOSTILE:
        yield Case(f"7.{number}", what, lambda b, c=content: loaded(c()), Refusal(sm.FormatError, ".", ".", "."), "files", "file")
    for name in CLASSES:
        yield Case("7.79", f"{name} comes back", lambda b, n=name: roundtrip(b, n), TRUE, "files", "file")
    yield Case("7.79", "a Fit comes back", fit_back, TRUE, "files", "file")
    yield Case("7.79", "the bits of a product", loaded_product, TRUE, "files", "file")
    yield Case("7.77", "∞ is not written", anonymous, Refusal(sm.NonFiniteError, ".", "non-finite", "."), "files", "file")
    yield Case("7.82", "a missing file", missing, Refusal(FileNotFoundError, None, "none"), "files", "file")
    yield Case("7.82", "a directory", directory, Refusal(OSError, None, "."), "files", "file")
    yield Case("7.82", "a missing folder", nowhere, Refusal(FileNotFoundError, None, "."), "files", "file")
    yield Case("7.82", "a failed save", replaced, TRUE, "files", "file")
    yield Case("7.85", "a symbolic link", linked, TRUE, "files", "file")
    for v in (None, 3, S3, "x", [1.0]):
        yield Case("7.82", f"save {type(v).__name__}", lambda b, v=v: sm.save(v, "/nowhere/at/all"), Refusal(TypeError, "A", ".", "."), "files", "file")
    yield Case("7.79", "the numbers", lambda b: loaded(saved()).to_dense(), Value(np.kron(S3, S4), scale=10, library="numpy"), "files", "file")
