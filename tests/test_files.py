"""save and load: the same bits for every class, one error for every bad file, whole files whatever happens.

`python tests/test_files.py` writes the samples of the current format version that are still missing in tests/files.
"""

import json
import os
import pathlib
import re
import stat
import struct
import subprocess
import sys
import threading
import tracemalloc
from io import BytesIO

import file_torture
import numpy as np
import pytest
from cases import CASES
from conftest import dtype_of, library
from file_torture import content, written

import sepmat as sm
from sepmat import _container, io
from sepmat.__main__ import main

FOLDER = pathlib.Path(__file__).parent / "files"
DTYPES = ("float32", "float64", "complex64", "complex128")
MESSAGE = re.compile(r"[\w.]+: [^:]+.*; expected .+\. .+\.", re.DOTALL)  # where: argument: got; expected …. advice.


@pytest.fixture
def path(tmp_path):
    return tmp_path / "matrix.safetensors"


def same(A, B):
    """Of the same classes all the way down, with the same numbers, dtypes and libraries."""
    assert type(A) is type(B)
    mine, theirs = (X.matrix.arrays() if isinstance(X, sm.Fit) else X.arrays() for X in (A, B))
    assert [(library(a), dtype_of(a)) for a in mine] == [(library(b), dtype_of(b)) for b in theirs]
    return content(A) == content(B)


def read(data, **options):
    return io._read(BytesIO(data), len(data), **options)


def refused(data, *words):
    """The message of the FormatError, which has its five parts and these words."""
    with pytest.raises(sm.FormatError) as error:
        read(data)
    text = str(error.value)
    assert MESSAGE.fullmatch(text), text
    for word in words:
        assert word in text, text
    return text


# the same bits ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_class_comes_back(xp, dtype, rng):
    for case in CASES:
        A = case.make(*(xp.asarray(a, copy=True) for a in case.data(rng, dtype)))
        for B in (A, A.T, A.H):
            C = read(written(B), like=xp.empty(0))
            assert same(C, B), case
            assert C.shape == B.shape and C.equals(B) and not hasattr(C, "_memo")


def test_what_is_loaded_is_frozen_and_works(path, rng):
    T = sm.Toeplitz(rng.standard_normal(9), None)
    b = rng.standard_normal(9)
    sm.save(T, path)
    S = sm.load(str(path))
    assert np.array_equal(S @ b, T @ b) and np.array_equal(sm.solve(S, b), sm.solve(T, b))
    with pytest.raises(ValueError, match="read-only"):
        S.c[0] = 1.0


def test_a_fit_comes_back(path, rng):
    M = rng.standard_normal((12, 12))
    fits = sm.approximate(M, max_parameters=60)
    assert len({type(f.matrix) for f in fits}) >= 4
    for fit in fits:
        sm.save(fit, path)
        assert content(sm.load(path)) == content(fit)
    odd = sm.Fit(sm.Identity(2), np.float64(0.5), np.int64(0), float("inf"), np.bool_(True))
    sm.save(odd, path)
    found = sm.load(path)
    assert found.condition_number == float("inf") and found.relative_error == 0.5 and found.optimal is True


def test_scales_that_are_numpy_scalars(path):
    A = 3.0 * (2.0 * sm.Identity(3))
    assert isinstance(A.scale, np.generic) and A.num_parameters == 1 and A.map(lambda a: a * 0).scale == 0
    sm.save(A, path)
    assert same(sm.load(path), A)


def test_lazy_and_nested(path, rng):
    r = rng.standard_normal
    W = sm.LowDisplacementRank(r((5, 2)), r((5, 2)), (3, 5))
    K = sm.Kronecker(sm.Circulant(r(3), (3, 2)), sm.Kronecker(r((2, 2)), sm.Inverse(sm.Diagonal(1 + r(2) ** 2))), W.T)
    for A in (
        W.T,
        K,
        sm.Inverse(sm.Toeplitz(r(4)) @ sm.Toeplitz(r(4))),
        2.0 * sm.Identity(3, like=np.zeros(1, "float32")),
    ):
        sm.save(A, path)
        assert same(sm.load(path), A)
    A = sm.Sum(sm.Diagonal(np.ones(3, "float32")), sm.Dense(1j * np.eye(3)))  # of different dtypes
    sm.save(A, path)
    assert same(sm.load(path), A)


@pytest.mark.parametrize("x", [-0.0, 5e-324, 1.7976931348623157e308, np.nextafter(1, 2)])
def test_every_bit(path, x):
    sm.save(sm.Diagonal([x, 1j * x]), path)
    assert sm.load(path).d.tobytes() == np.asarray([x, 1j * x]).tobytes()


def test_layouts(path, rng):
    M = rng.standard_normal((6, 8))
    for view in (M.T, M[::2, ::-1], np.broadcast_to(M[:1], (4, 8))):
        sm.save(sm.Dense._of(array=view), path)
        assert np.array_equal(sm.load(path).array, view)


@pytest.mark.parametrize("name", ["float16", "bfloat16"])
def test_half_precision(path, name):
    torch = pytest.importorskip("torch")
    A = sm.Kronecker(torch.randn(3, 2, dtype=getattr(torch, name)), torch.randn(2, 2, dtype=getattr(torch, name)))
    sm.save(A, path)
    B = sm.load(path, like=torch.empty(0))
    assert B.dtype == A.dtype and all(torch.equal(a, b) for a, b in zip(A.arrays(), B.arrays(), strict=True))
    with pytest.raises(sm.DTypeError, match=f"no tensor, and factors.0 is {name}.*like=torch.empty"):
        sm.load(path)


def test_tensors_with_gradients_and_lazy_conjugates(path):
    torch = pytest.importorskip("torch")
    c = torch.randn(5, dtype=torch.complex128)
    for x in (c.clone().requires_grad_(), c.conj(), c.conj().imag, torch.nn.Parameter(c)):
        sm.save(sm.Circulant(x), path)
        found = sm.load(path, like=torch.empty(0)).c
        assert torch.equal(found, x.detach()) and not found.requires_grad and type(found) is torch.Tensor


def test_the_library_is_the_callers_choice(path, xp):
    sm.save(sm.LowRank(np.ones((3, 1)), np.ones((2, 1), "float32")), path)
    like = xp.empty((0,), dtype=xp.float32)
    A = sm.load(path, like=like)
    assert library(A.U) == library(like) and dtype_of(A.U) == "float64"
    with pytest.raises(sm.DTypeError, match="load: like: a str"):
        sm.load(path, like="torch")


def test_a_new_structure_needs_nothing_here(path):
    from test_new_structure import anti_circulant_class

    A = anti_circulant_class()([1.0, 2.0, 4.0])
    sm.save(2 * A, path)
    assert same(sm.load(path), 2 * A)
    text = path.read_bytes().replace(b"anti_circulant.AntiCirculant", b"anti_circulant.Anti_irculant")
    refused(resigned(text), "unknown class 'anti_circulant.Anti_irculant'", "Circulant, ", "Import the module")


def test_safetensors_reads_it(path):
    numpy = pytest.importorskip("safetensors.numpy")
    sm.save(sm.Kronecker(np.ones((2, 3), "float32"), sm.Diagonal(np.arange(3, dtype="float32"))), path)
    found = numpy.load_file(path)
    assert found.keys() == {"factors.0", "factors.1.d"} and found["factors.0"].dtype == "float32"
    sm.save(sm.Diagonal([1 + 2j]), path)
    assert np.array_equal(numpy.load_file(path)["d"], [[1.0, 2.0]])


# samples of released formats --------------------------------------------------------------------------------------------


def samples():
    """The matrices in tests/files, of whole numbers."""
    c, G = np.arange(1.0, 6.0), np.arange(10.0).reshape(5, 2)
    K = sm.Kronecker(np.arange(6.0).reshape(2, 3), sm.Circulant(c[:2]))
    return {
        "dense": sm.Dense(np.arange(6.0).reshape(2, 3)),
        "diagonal": sm.Diagonal(c + 2j * c),
        "identity": sm.Identity(10**30, like=np.zeros(0, "complex64")),
        "low_rank": sm.LowRank(G.astype("float32"), G[:3].astype("float32")),
        "circulant": sm.Circulant(c, (5, 3)),
        "skew_circulant": sm.SkewCirculant((1j * c).astype("complex64")),
        "toeplitz": sm.Toeplitz(c, [1.0, 9.0]),
        "toeplitz_hermitian": sm.Toeplitz(c + 1j * (c - 1)),
        "hankel": sm.Hankel(c[:2], [2.0, 7.0, 8.0]),
        "kronecker": K,
        "kronecker_sum": sm.KroneckerSum(np.eye(2), sm.Diagonal(c)),
        "separated": sm.Separated([np.arange(8.0).reshape(2, 2, 2), np.ones((2, 1, 3))], scales=[2.0, 0.5]),
        "separated_unscaled": sm.Separated([np.zeros((0, 2, 2))]),
        "multilevel_circulant": sm.MultilevelCirculant(np.arange(6.0).reshape(2, 3)),
        "multilevel_toeplitz": sm.MultilevelToeplitz(np.arange(16.0).reshape(4, 4), ((2, 3), (3, 2))),
        "low_displacement_rank": sm.LowDisplacementRank(G, G + 1, (3, 5)).T,
        "inverse": sm.Inverse(sm.Toeplitz(c)),
        "lazy": sm.Sum(sm.Scaled(3.0, sm.Identity(4)), sm.Product(sm.Dense(np.eye(4)[:, :2]), sm.Dense(np.eye(2, 4)))),
        "fit": sm.Fit(K, 0.125, 8, condition_number=1.5, optimal=True, converged=False, iterations=7),
    }


@pytest.mark.parametrize("name", samples())
@pytest.mark.parametrize("version", range(1, _container.VERSION + 1))
def test_samples_load_for_ever(version, name):
    A, file = samples()[name], FOLDER / f"{name}.{version}.safetensors"
    if not file.exists() and version < _container.VERSION:
        pytest.skip("of a class that came with a later version")
    assert file.exists(), "write it with: python tests/test_files.py"
    assert content(sm.load(file)) == content(A)
    if version == _container.VERSION:
        assert file.read_bytes() == written(A), (
            "the format has changed: raise VERSION, keep the old samples, write new ones"
        )


def test_newer_versions_are_refused():
    for data in (written(sm.Identity(3)), written(sm.Dense(np.eye(2)))):
        newer = data.replace(rb"\"version\":1", rb"\"version\":2")
        assert newer != data
        refused(newer, "version: 2", f"at most {_container.VERSION}", "pip install --upgrade sepmat")


# damaged and hostile files ----------------------------------------------------------------------------------------------


def parts(data):
    """(header, manifest, bytes of the arrays)"""
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    return header, json.loads(header["__metadata__"]["sepmat"]), data[8 + length :]


def joined(header, manifest, arrays, sign=True):
    """A file of these parts, with the digest that its manifest has."""
    header = json.loads(json.dumps(header))
    if manifest is not None:
        text = manifest if isinstance(manifest, str) else json.dumps(manifest)
        header["__metadata__"]["sepmat"] = text
        if sign:
            header["__metadata__"]["sha256"] = _container.digest(text.encode())
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + arrays


def resigned(data):
    return joined(*parts(data))


def test_every_truncation():
    data = written(sm.Separated([np.ones((2, 1, 2)), np.ones((2, 2, 1))], scales=[1.0, 2.0]))
    for length in range(len(data)):
        refused(data[:length])
    refused(data[:-1], "truncated")
    refused(data + b"\0", "too long")


def test_every_flipped_bit():
    A = sm.LowDisplacementRank(np.arange(6.0).reshape(3, 2), np.ones((3, 2)), (2, 3)) + sm.LowRank(
        [[1j], [2]], np.ones((3, 1))
    )
    data, unchanged = written(A), 0
    for i in range(len(data)):
        for bit in range(8):
            new = bytearray(data)
            new[i] ^= 1 << bit
            try:
                assert content(read(bytes(new))) == content(A)
                unchanged += 1
            except sm.FormatError:
                pass
    assert unchanged < 20  # a space of the padding may become a tab


def hostile():
    """(name, bytes, words of the message)"""
    data = written(sm.Kronecker(np.eye(2), np.ones((4, 3))))
    header, manifest, arrays = parts(data)
    for name, foreign, words in [
        ("pickle", b"\x80\x04\x95" + bytes(80), ("a pickle", "Nothing is ever unpickled")),
        ("zip", b"PK\x03\x04" + bytes(80), ("zip archive",)),
        ("npy", b"\x93NUMPY\x01\x00" + bytes(80), ("an .npy file",)),
        ("text", b"# a matrix of some kind\n1,2\n", ("other bytes",)),
        ("empty", b"", ("0 bytes",)),
        ("short", b"\x80\x04N.", ("4 bytes",)),
        ("zeros", bytes(64), ("header: no JSON",)),
        ("header of 100 MB", struct.pack("<Q", 10**8) + bytes(99), ("no header", "1048576 bytes of header")),
        ("header beyond the file", struct.pack("<Q", 10**5) + b"{}", ("truncated",)),
        ("no object", struct.pack("<Q", 2) + b"[]", ("header: 0 entries",)),
        ("no UTF-8", struct.pack("<Q", 4) + b'"\xff"}', ("no JSON", "utf-8")),
        ("depth 10,000", struct.pack("<Q", 20_000) + b"[" * 10_000 + b"]" * 10_000, ("no JSON",)),
        ("NaN", struct.pack("<Q", 11) + b'{"a": NaN} ', ("NaN",)),
        ("digits", struct.pack("<Q", 9007) + b'{"a": ' + b"1" * 9000 + b"}", ("no JSON",)),
        ("twice", struct.pack("<Q", 18) + b'{"a": {}, "a": {}}', ("stands twice",)),
        ("no manifest", struct.pack("<Q", 2) + b"{}", ("no manifest", "safetensors.numpy.load_file")),
        (
            "a manifest of someone else",
            joined(header, {"format": "other", "version": 1, "tree": None}, arrays),
            ("None",),
        ),
        ("version true", joined(header, {**manifest, "version": True}, arrays), ("version True",)),
        ("version 0", joined(header, {**manifest, "version": 0}, arrays), ("version 0",)),
        ("more in the manifest", joined(header, {**manifest, "code": "x"}, arrays), ("manifest",)),
        ("unsigned", joined(header, json.dumps(manifest) + " ", arrays, sign=False), ("manifest: checksum mismatch",)),
        ("half a surrogate", joined(header, '{"\ud800": 0}', arrays, sign=False), ("manifest",)),
        ("changed numbers", data[:-1] + b"\x01", ("factors.1: checksum mismatch",)),
        ("a tree of numbers", joined({"__metadata__": {}}, {**manifest, "tree": [1, 2]}, b""), ("manifest: a tuple",)),
    ]:
        yield name, foreign, words

    def entry(key, **changes):
        return joined({**header, key: {**header[key], **changes}}, manifest, arrays)

    node = manifest["tree"]["fields"]["factors"]

    def tree(**fields):
        return joined(
            header, {**manifest, "tree": {"kind": "Kronecker", "fields": {"factors": node, **fields}}}, arrays
        )

    whole = {"dtype": "F64", "data_offsets": [0, 32]}
    for name, foreign, words in [
        ("8 TB", entry("factors.0", shape=[10**6, 10**6]), ("factors.0", "declares 8.0 TB", "the 32 bytes")),
        ("8 TB of offsets", entry("factors.0", shape=[10**6, 10**6], data_offsets=[0, 8 * 10**12]), ("begins at", "factors.1")),
        ("truncated by 8 TB", joined({"__metadata__": header["__metadata__"], "a": {**whole, "shape": [10**12],
         "data_offsets": [0, 8 * 10**12]}}, manifest, arrays), ("truncated: 128 bytes", "8.0 TB")),
        ("overflow", entry("factors.0", shape=[2**62, 8]), ("declares",)),
        ("beyond 64 bits", entry("factors.0", shape=[2**64, 0]), ("up to 32 sizes",)),
        ("empty and huge", entry("factors.0", shape=[2**62, 2**62, 0], data_offsets=[0, 0]), ("factors.1", "begins at")),
        ("negative", entry("factors.0", shape=[-2, -2]), ("none below 0",)),
        ("float size", entry("factors.0", shape=[2.0, 2]), ("2.0",)),
        ("33 axes", entry("factors.0", shape=[1] * 31 + [2, 2]), ("up to 32 sizes",)),
        ("gap", entry("factors.0", data_offsets=[8, 40]), ("begins at",)),
        ("overlap", entry("factors.1", shape=[4], data_offsets=[0, 32]), ("begins at", "one array after the other")),
        ("big-endian code", entry("factors.0", dtype=">f8"), ("dtype '>f8'",)),
        ("integers", entry("factors.0", dtype="I64"), ("dtype 'I64'",)),
        ("another dtype", entry("factors.0", dtype="F32", shape=[2, 4]), ("float64 of shape [2, 2]", "F32 of shape [2, 4]")),
        ("another shape", entry("factors.1", shape=[3, 4]), ("factors.1", "[4, 3]", "[3, 4]")),
        ("an array to much", joined({**header, "../x": {**whole, "shape": [0], "data_offsets": [0, 0]}}, manifest, arrays),
         ("'../x'", "belongs to nothing")),
        ("a strange key", joined({("terms.-1" if k == "factors.0" else k): v for k, v in header.items()}, manifest, arrays),
         ("factors.0: missing",)),
        ("no offsets", joined({**header, "factors.0": {"dtype": "F64", "shape": [2, 2]}}, manifest, arrays), ("unknown entry",)),
        ("20,001 keys", joined({**header, **{str(i): 0 for i in range(20_000)}}, manifest, arrays), ("20003 entries",)),
        ("no number", tree(factors=[{"dtype": "float64"}, node[1]]), ("factors.0: a node of ['dtype']",)),
        ("a class of Python", tree(factors=[{"kind": "os.system", "fields": {}}, node[1]]), ("unknown class 'os.system'",)),
        ("the contract", tree(factors=[{"kind": "StructuredMatrix", "fields": {}}]), ("unknown class 'StructuredMatrix'",)),
        ("fields of none", tree(secret=1), ("Kronecker with fields", "'secret'")),
        ("a number for a matrix", tree(factors=[3]), ("factors", "in a Kronecker")),
        ("too deep", tree(factors=json.loads("[" * 40 + "]" * 40)), ("nested 17 deep",)),
        ("no factors", tree(factors=[]), ("fields that do not fit", "factors is empty")),
        ("a Fit in a matrix", tree(factors=[{"kind": "Fit", "fields": {}}]), ("Fit with fields []",)),
    ]:  # fmt: skip
        yield name, foreign, words


@pytest.mark.parametrize("data, words", [pytest.param(data, words, id=name) for name, data, words in hostile()])
def test_hostile_files(data, words):
    tracemalloc.start()
    text = refused(data, *words)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**23 and len(text) < 2000
    assert not any(hasattr(io, name) or hasattr(_container, name) for name in ("pickle", "importlib"))


def misfit(A, **changes):
    """The file of A with other values for fields that are no arrays."""
    header, manifest, arrays = parts(written(A))
    manifest["tree"]["fields"].update(changes)
    return joined(header, manifest, arrays)


@pytest.mark.parametrize(
    "data, words",
    [
        (misfit(sm.Circulant([1.0, 2.0], (2, 1)), corner=[3, 1]), ("a Circulant", "shape")),
        (misfit(sm.Circulant([1.0, 2.0]), corner=[2.0, 2]), ("corner", "tuple[int, int]")),
        (misfit(sm.Circulant([1.0, 2.0]), corner=None), ("corner", "NoneType")),
        (misfit(sm.Identity(3), n=-1), ("n is -1", "a Identity")),
        (misfit(sm.Identity(3), n=True), ("n: a bool",)),
        (misfit(sm.LowDisplacementRank(np.ones((3, 1)), np.ones((3, 1))), transposed=0), ("transposed: a int",)),
        (misfit(sm.LowDisplacementRank(np.ones((3, 1)), np.ones((3, 1))), corner=[2, 2]), ("do not fit",)),
        (misfit(sm.MultilevelToeplitz(np.ones((3, 3))), shapes=[[2, 2], [2, 3]]), ("do not fit",)),
        (misfit(sm.Fit(sm.Identity(2), 0.5, 0), relative_error="small"), ("relative_error: a str", "float")),
        (misfit(sm.Fit(sm.Identity(2), 0.5, 0), iterations=True), ("iterations: a bool",)),
        (misfit(sm.Fit(sm.Identity(2), 0.5, 0), matrix=None), ("matrix: a NoneType",)),
    ],
)
def test_fields_that_do_not_fit(data, words):
    refused(data, *words)


def test_arrays_that_do_not_fit():
    for fields, kind in [
        ({"c": [3, 1]}, "Circulant"),
        ({"c": [3], "tail": [2, 2]}, "Toeplitz"),
        ({"c": [0], "tail": [2]}, "Hankel"),
        ({"c": [], "tail": []}, "Toeplitz"),
        ({"U": [3, 2], "V": [3, 1]}, "LowRank"),
        ({"factors": [[2, 2, 2], [3, 1, 1]], "scales": None}, "Separated"),
        ({"factors": [[2, 2, 2], [2, 1, 1]], "scales": [3]}, "Separated"),
        ({"n": 3, "like": [5]}, "Identity"),
        ({"t": [3, 3], "shapes": ((2, 2),)}, "MultilevelToeplitz"),
        ({"factors": [[2, 3]]}, "KroneckerSum"),
        ({"scale": [1], "matrix": sm.Identity(2)}, "Scaled"),
        ({"terms": [sm.Identity(2), sm.Identity(3)]}, "Sum"),
        ({"factors": [sm.Identity(2), sm.Identity(3)]}, "Product"),
        ({"matrix": sm.Dense(np.ones((2, 3)))}, "Inverse"),
        ({"array": [2, 2, 2]}, "Dense"),
    ]:

        def value(v):
            if isinstance(v, list):  # of arrays or matrices, or a shape
                return tuple(map(value, v)) if v and not isinstance(v[0], int) else np.ones(v)
            return v

        cls = getattr(sm, kind)
        fields = {"corner": (3, 3), **fields} if kind == "Circulant" else fields
        refused(written(cls._of(**{k: value(v) for k, v in fields.items()})), "do not fit", kind)


def test_an_empty_array_of_an_impossible_shape():
    header, manifest, arrays = parts(written(sm.Dense(np.ones((0, 3)))))
    manifest["tree"]["fields"]["array"]["shape"] = header["array"]["shape"] = [2**62, 2**62, 0]
    refused(joined(header, manifest, arrays), "array: shape [4611686018427387904, ", "a shape that an array can have")


def test_a_file_that_shrinks_while_it_is_read():
    data = written(sm.Diagonal(np.ones(5)))
    with pytest.raises(sm.FormatError, match=r"load: d: truncated while it was read; expected 40 bytes"):
        io._read(BytesIO(data[:-8]), len(data))


def test_memory(path, rng):
    """A save copies nothing; a load holds the arrays, and once more those of one matrix."""
    A = sm.Dense(rng.standard_normal((1000, 1000)))
    tracemalloc.start()
    sm.save(A, path)
    saving = tracemalloc.get_traced_memory()[1]
    tracemalloc.reset_peak()
    B = sm.load(path)
    loading = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert B.equals(A) and saving < 2e6 and loading < 2.2 * 8e6  # 1 MB: the mask of what is finite


def test_no_memory_is_no_matter_of_the_file(monkeypatch):
    def of(**fields):
        raise MemoryError

    data = written(sm.Diagonal([1.0]))
    monkeypatch.setattr(sm.Diagonal, "_of", of)
    with pytest.raises(MemoryError) as error:
        read(data)
    assert not isinstance(error.value, sm.SepmatError)


def test_nonfinite_numbers(path):
    A = sm.Toeplitz([1.0, np.nan, np.inf], [1.0, 2.0])
    with pytest.raises(sm.NonFiniteError, match=r"save: c: 2 non-finite entries, first at \[1\]"):
        sm.save(A, path)
    assert not path.exists()
    sm.save(A, path, allow_nonfinite=True)
    with pytest.raises(sm.FormatError, match=r"load: c: 2 non-finite entries, first at \[1\].*allow_nonfinite=True"):
        sm.load(path)
    assert content(sm.load(path, allow_nonfinite=True)) == content(A)
    with pytest.raises(sm.NonFiniteError, match=r"save: terms\.1\.matrix\.d"):
        sm.save(sm.Sum(sm.Identity(2), sm.Scaled(2.0, sm.Diagonal([1.0, np.inf]))), path)


def test_limits_hold_when_saving(path):
    many = sm.Kronecker._of(factors=(np.eye(1),) * 10_001)
    with pytest.raises(sm.SizeLimitError, match=r"10001 arrays.*in files of their own"):
        sm.save(many, path)
    deep = sm.Identity(2)
    for _ in range(20):
        deep = sm.Inverse(deep)
    with pytest.raises(sm.ArgumentError, match=r"nested 17 deep.*inner matrices"):
        sm.save(deep, path)
    sm.save(sm.Kronecker._of(factors=(np.eye(1),) * 1000), path)
    assert len(sm.load(path).factors) == 1000


@pytest.mark.parametrize(
    "value", [np.eye(2), [[1.0]], None, "matrix", [sm.Identity(2)], sm.factorize(sm.Dense(np.eye(2)))]
)
def test_only_matrices_and_fits(path, value):
    with pytest.raises(
        sm.DTypeError, match=rf"save: A: a {type(value).__name__}; expected a structured matrix or a Fit"
    ):
        sm.save(value, path)


def test_only_structures_that_load_finds(path):
    class Twice(sm.Dense):  # not decorated
        pass

    with pytest.raises(sm.DTypeError, match="a structure that load finds by its name"):
        sm.save(Twice([[1.0]]), path)
    with pytest.raises(sm.DTypeError, match=r"save: corner: a list.*as Circulant declares"):
        sm.save(sm.Circulant._of(c=np.ones(2), corner=[2, 2]), path)
    with pytest.raises(sm.DTypeError, match=r"save: array: dtype int64"):
        sm.save(sm.Dense._of(array=np.ones((2, 2), int)), path)
    with pytest.raises(sm.DTypeError, match=r"save: n: a complex; expected an array, a matrix, a number"):
        io._Writer(False).encode(1j, ("n",))


# the operating system ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [3, None, b"matrix", ["a"], True])
def test_file_names(name):
    for call in (sm.load, lambda path: sm.save(sm.Identity(2), path)):
        with pytest.raises(sm.DTypeError, match=f"path: a {type(name).__name__}; expected a file name"):
            call(name)
    with pytest.raises(sm.ArgumentError, match=r"path.*zero byte"):
        sm.load("a\0b")


def test_operating_system_errors_stay_what_they_are(tmp_path):
    A = sm.Identity(2)
    with pytest.raises(FileNotFoundError):
        sm.load(tmp_path / "nothing")
    with pytest.raises(FileNotFoundError):
        sm.save(A, tmp_path / "nothing" / "matrix")
    for call in (sm.load, lambda path: sm.save(A, path)):
        with pytest.raises(IsADirectoryError):
            call(tmp_path)
        os.mkfifo(tmp_path / "pipe")
        with pytest.raises(OSError, match="not a regular file"):
            call(tmp_path / "pipe")
        os.unlink(tmp_path / "pipe")
    with pytest.raises(OSError, match="not a regular file"):
        sm.save(A, os.devnull)
    assert not os.listdir(tmp_path)


def test_no_permission(path, monkeypatch):
    sm.save(sm.Identity(2), path)
    path.chmod(0o444)
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may write to everything
    with pytest.raises(PermissionError):
        sm.save(sm.Identity(3), path)
    assert sm.load(path).shape == (2, 2) and os.listdir(path.parent) == [path.name]


@pytest.mark.parametrize("function", ["fsync", "replace"])
@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt(), MemoryError()])
def test_a_failed_save_leaves_the_old_file(path, monkeypatch, function, error):
    def fail(*_):
        raise error

    sm.save(sm.Identity(2), path)
    with monkeypatch.context() as patch:
        patch.setattr(os, function, fail)
        with pytest.raises(type(error)):
            sm.save(sm.Identity(3), path)
    assert sm.load(path).shape == (2, 2) and os.listdir(path.parent) == [path.name]


def test_links_modes_and_names(tmp_path):
    target, link = tmp_path / "deep" / "matrix", tmp_path / "link"
    target.parent.mkdir()
    link.symlink_to(target)
    sm.save(sm.Identity(2), link)  # to nothing yet
    assert link.is_symlink() and sm.load(target).shape == (2, 2)
    target.chmod(0o640)
    sm.save(sm.Identity(3), link)
    assert link.is_symlink() and sm.load(link).shape == (3, 3) and stat.S_IMODE(target.stat().st_mode) == 0o640
    name = tmp_path / "Ä matrix (1).x+"  # nothing is appended, and regular expressions are not meant
    sm.save(sm.Identity(4), name)
    assert sm.load(name).shape == (4, 4)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        sm.save(sm.Identity(5), "here")
        assert sm.load("here").shape == (5, 5)


@pytest.fixture
def alive():
    """The id of a process of ours: no other one may get a signal if a test fails."""
    process = subprocess.Popen([sys.executable, "-I", "-S", "-c", "input()"], stdin=subprocess.PIPE)
    with process:
        yield process.pid
        assert process.poll() is None, "asking whether it lives has killed it"
        process.stdin.close()


def test_strays_of_the_dead_go_and_others_stay(path, alive):
    with subprocess.Popen([sys.executable, "-I", "-S", "-c", ""]) as process:
        dead = process.pid
    me, other = os.getpid(), threading.Thread(target=lambda: gate.wait(60))
    gate = threading.Event()
    other.start()
    gone = [f"{dead}.{dead}", f"{me}.{threading.get_native_id()}", f"{me}.4194303", f"{10**30}.1"]
    stay = [f"{alive}.1", f"{alive}.{alive}", f"{me}.{other.native_id}", f"{dead}.x", f"{dead}"]
    try:
        for ids in (*gone, *stay):
            (path.parent / f".{path.name}.{ids}.tmp").touch()
        (path.parent / f".{path.name}x.{dead}.1.tmp").touch()
        sm.save(sm.Identity(2), path)
    finally:
        gate.set()
    left = set(os.listdir(path.parent))
    assert left == {path.name, f".{path.name}x.{dead}.1.tmp", *(f".{path.name}.{ids}.tmp" for ids in stay)}


def test_who_is_alive(monkeypatch, alive):
    asked = []

    def someone_elses(*process):
        asked.append(process)
        raise PermissionError

    assert _container._is_alive(alive, 1)
    with monkeypatch.context() as patch:
        patch.setattr(os, "kill", someone_elses)
        assert _container._is_alive(10**6, 1) and asked == [(10**6, 0)]
    monkeypatch.setattr(os, "name", "nt")  # where os.kill(process, 0) kills
    monkeypatch.setattr(os, "kill", None)
    assert _container._is_alive(10**30, 1)


def test_no_folder_is_opened_where_there_is_no_need(path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(os, "open", None)
        patch.setattr(os, "name", "nt")
        sm.save(sm.Identity(2), str(path))
    assert sm.load(path).shape == (2, 2)


def test_what_another_saver_writes_is_left_alone(path, monkeypatch):
    sm.save(sm.Identity(2), path)
    monkeypatch.setattr(_container, "_remove_strays", lambda *_: None)
    other = path.parent / f".{path.name}.{os.getpid()}.{threading.get_native_id()}.tmp"
    other.touch()
    with pytest.raises(FileExistsError):
        sm.save(sm.Identity(3), path)
    assert other.exists() and sm.load(path).shape == (2, 2)


def test_savers_at_once(path):
    matrices = [sm.Dense(np.full((60, 60), float(k))) for k in range(4)]
    expected = [content(A) for A in matrices]
    sm.save(matrices[0], path)
    errors = []

    def work(A):
        try:
            for _ in range(15):
                sm.save(A, path)
                assert content(sm.load(path)) in expected
        except Exception as error:  # noqa: BLE001
            errors.append(error)

    threads = [threading.Thread(target=work, args=(A,)) for A in matrices]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not errors and os.listdir(path.parent) == [path.name]


# torture in small -------------------------------------------------------------------------------------------------------


def test_damaged_files():
    found, examples = file_torture.damaged_files(5000, 1)
    assert not examples and found["changed"] == 0 and found["refused"] > 4500
    assert set(found) <= {"refused", "unchanged"} and sum(found.values()) == 5000


def test_the_torture_notices(monkeypatch):
    """Without checksums damage gets through, and the count says so."""
    monkeypatch.setattr(_container, "digest", file_torture.undigested)
    monkeypatch.setattr(io, "digest", file_torture.undigested)
    found, examples = file_torture.damaged_files(2000, 1)
    assert found["changed"] > 20 and examples
    monkeypatch.setattr(io, "_checked", lambda cls, values, name: cls._of(**values))
    assert file_torture.random_fuzzing(1, 3000, 60)[1]


def test_kills():
    """In a process of its own: forking one with threads is asking for trouble."""
    command = [sys.executable, "-m", "tests.file_torture", "--kills", "12"]
    ended = subprocess.run(command, cwd=FOLDER.parents[1], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    found = re.search(r"kills: 12 kills, (\d+) inside a save, 0 lost, 0 strays", ended.stdout)
    assert found and int(found[1]) > 0, ended.stdout


def test_the_page_quotes_the_record():
    text, record = file_torture.PAGE.read_text(encoding="utf-8"), json.loads(file_torture.FIGURES.read_text())
    assert file_torture.documented(text, record) == text
    numbers = record["numbers"]
    assert numbers["damaged files"]["changed"] == numbers["damaged files"]["other errors"] == 0
    assert numbers["kills"]["lost"] == numbers["kills"]["strays"] == numbers["fuzzing"]["failures"] == 0


def test_fuzzing():
    done, examples = file_torture.random_fuzzing(1, 3000, 60)
    assert done == 3000 and not examples


# the command line -------------------------------------------------------------------------------------------------------


def test_the_best_fit_is_saved_and_shown(tmp_path, capsys):
    np.save(tmp_path / "m.npy", np.kron([[1.0, 2.0], [3.0, 4.0]], np.arange(9.0).reshape(3, 3)))
    best = tmp_path / "best.safetensors"
    assert main(["approximate", str(tmp_path / "m.npy"), "--tol", "1e-10", "--save", str(best)]) == 0
    fit = sm.load(best)
    assert isinstance(fit, sm.Fit) and fit.relative_error < 1e-10
    capsys.readouterr()
    assert main(["info", str(best)]) == 0
    said = capsys.readouterr().out
    assert (
        type(fit.matrix).__name__ in said and "parameters" in said and str(best.stat().st_size) in said.replace(",", "")
    )
    assert main(["info", str(tmp_path / "m.npy")]) == 2
    assert "an .npy file" in capsys.readouterr().err


def test_one_fit_goes_to_one_file(tmp_path, capsys):
    np.savez(tmp_path / "m.npz", a=np.eye(4), b=np.ones((4, 4)))
    assert main(["approximate", str(tmp_path / "m.npz"), "--save", str(tmp_path / "x")]) == 2
    assert "--save: 2 matrices" in capsys.readouterr().err and not (tmp_path / "x").exists()


if __name__ == "__main__":
    for name, A in samples().items():
        file = FOLDER / f"{name}.{_container.VERSION}.safetensors"
        if not file.exists():
            sm.save(A, file)
            print(file)
