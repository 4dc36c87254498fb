"""The rest of the library on a CUDA device: bands of real sizes, trainable layers, solvers, files, moves between devices.

All of it is skipped, and counted, where there is no device (conftest.py); the kernels are test_gpu.py's.
"""

import copy

import numpy as np
import pytest
import scipy.linalg
from cases import normal
from conftest import check, host, library, onto

import sepmat as sm
from sepmat._bounds import BOUNDS

pytestmark = pytest.mark.gpu


# --- bands: the dense form below the crossover, transforms beyond -------------------------------------------------------------


@pytest.mark.parametrize("rows", [1, 64, 8192])
@pytest.mark.parametrize("n", [63, 512, 1000, 2048])
def test_bands(n, rows, device):
    """Circulant, Toeplitz and W(G, H) on many and on few rows, twice: what is remembered gives the same."""
    rng = np.random.default_rng(n)
    c, r, x = (normal(rng, shape, "float32") for shape in ((n,), (n,), (rows, n)))
    r[0] = c[0]
    T, C = scipy.linalg.toeplitz(*map(np.float64, (c, r))), scipy.linalg.circulant(c.astype(float))
    chosen = np.unique(np.linspace(0, rows - 1, 16).astype(int))
    for A, D, limit in (
        (sm.Toeplitz(onto(device, c), onto(device, r)), T, BOUNDS["B10"](4 * n)),
        (sm.Circulant(onto(device, c)), C, BOUNDS["B9"](n)),
    ):
        given, scale = onto(device, x), np.linalg.norm(D) * 2 * np.linalg.norm(x[chosen], axis=1)
        for _ in range(2):
            y = host(given @ A.T)[chosen]
            check(np.linalg.norm(y - x[chosen] @ D.T, axis=1), scale, 2 * limit, "float32", f"B25 {device}, bands")


@pytest.mark.parametrize("n", [8, 200])
def test_displacement(n, device):
    rng = np.random.default_rng(n)
    G, H, x = (normal(rng, shape, "float64") for shape in ((n, 3), (n, 3), (50, n)))
    A = sm.LowDisplacementRank(*(onto(device, a) for a in (G, H)))
    B = sm.LowDisplacementRank(G, H)
    scale = np.sqrt(n) ** 2 * np.sum(np.linalg.norm(G, axis=0) * np.linalg.norm(H, axis=0)) * np.linalg.norm(x, axis=1)
    found = host(onto(device, x) @ A.T)
    check(np.linalg.norm(found - x @ B.T, axis=1), scale, 2 * BOUNDS["B11"](n, 3), "float64", f"B25 {device}, bands")


def test_solvers(device):
    """Direct solves, and conjugate gradients by the solver of the library with a circulant in front."""
    n = 512
    c, b = 1 / (1 + np.arange(float(n))) ** 1.1, np.ones(n)
    T = sm.Toeplitz(onto(device, c))
    D = scipy.linalg.toeplitz(c)
    x = host(sm.solve(T, onto(device, b)))
    check(
        np.linalg.norm(b - D @ x),
        np.linalg.norm(D, 2) * np.linalg.norm(x),
        BOUNDS["B14"](n),
        "float64",
        "B14 on a device",
    )
    if device == "cupy":
        found = sm.interop.cg(T, onto(device, b), rtol=1e-10, M=sm.inverse(sm.strang(T)))
        assert found.iterations < 20 and np.linalg.norm(b - D @ host(found.x)) <= 1e-9 * np.linalg.norm(b)


# --- files and moves ----------------------------------------------------------------------------------------------------------


def test_files(device, tmp_path):
    """What was saved from a device comes back to it, and to the CPU, with the same bits."""
    A = sm.Kronecker(*(onto(device, normal(np.random.default_rng(k), (3, 3), "float64")) for k in range(2)))
    sm.save(A, tmp_path / "A.safetensors")
    back = sm.load(tmp_path / "A.safetensors", like=onto(device, np.empty(0)))
    assert back.equals(A) and library(back.arrays()[0]) == library(A.arrays()[0])
    assert np.array_equal(sm.load(tmp_path / "A.safetensors").to_dense(), host(A.to_dense()))


def test_moves(torch):
    """There and back: the same bits; the two do not mix."""
    A = sm.Toeplitz(torch.arange(5.0), torch.arange(0.0, 10.0, 2.0))
    there = A.to_device("cuda")
    assert there.arrays()[0].is_cuda and there.to_device("cpu").equals(A)
    with pytest.raises(sm.DTypeError, match="mixed devices"):
        there @ torch.ones(5)


# --- trainable layers -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["circulant", "toeplitz", "ldr", "kronecker", "krona", "lsr", "lora"])
def test_layers_train_alike(name, torch):
    """Forward and backward of an update on the device and on the CPU, and under autocast to bfloat16."""
    from sepmat.nn import StructuredUpdate

    mine = StructuredUpdate(96, 64, name)
    mine.reset_parameters(torch.Generator().manual_seed(0), zero=False)
    other = copy.deepcopy(mine).to("cuda")
    x = torch.randn(40, 96, generator=torch.Generator().manual_seed(1))
    found = []
    for module, given in ((mine, x.clone()), (other, x.to("cuda"))):
        given.requires_grad_()
        y = module(given)
        found.append([y, *torch.autograd.grad(y.square().sum(), [given, *module.parameters()])])
    for a, b in zip(*found, strict=True):
        check(host(b) - host(a), float(a.detach().norm()), 200, "float32", "layers on a device")
    with torch.autocast("cuda", dtype=torch.bfloat16):
        half = other(x.to("cuda"))
    check(
        host(half.float()) - host(found[0][0]),
        float(found[0][0].detach().norm()),
        8,
        "bfloat16",
        "layers under autocast",
    )
