"""save and load: the same bits for every class, samples of released formats, the command line.

Damaged and hostile files are in test_hostile_files.py, names, permissions, several savers and kills in test_file_system.py.
`python tests/test_files.py` writes the samples of the current format version that are still missing in tests/files.
"""

import pathlib

import numpy as np
import pytest
from cases import CASES
from conftest import dtype_of, library
from file_parts import refused, resigned
from file_torture import content, read, written

import sepmat as sm
from sepmat import _container
from sepmat.__main__ import main

FOLDER = pathlib.Path(__file__).parent / "files"
DTYPES = ("float32", "float64", "complex64", "complex128")


def same(A, B):
    """Of the same classes all the way down, with the same numbers, dtypes and libraries."""
    assert type(A) is type(B)
    mine, theirs = (X.matrix.arrays() if isinstance(X, sm.Fit) else X.arrays() for X in (A, B))
    assert [(library(a), dtype_of(a)) for a in mine] == [(library(b), dtype_of(b)) for b in theirs]
    return content(A) == content(B)


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
