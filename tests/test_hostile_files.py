"""load and bad files: one error with five parts for whatever is damaged or hostile, and save for what it cannot write."""

import json
import struct
import tracemalloc
from io import BytesIO

import numpy as np
import pytest
from file_parts import joined, parts, refused
from file_torture import content, read, written

import sepmat as sm
from sepmat import _container, io

# damaged and hostile files ----------------------------------------------------------------------------------------------


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
