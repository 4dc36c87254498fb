"""The GPU study on NumPy and on torch on the CPU: small cases of every kind, and a device that is none."""

import sys
import types

import numpy as np
import pytest
import stand_in_cupy

from sepmat.kernels.cuda import chain
from studies import _gpu_cases, _gpu_check, _gpu_data, _gpu_device, _gpu_routes
from studies._gpu_cases import Case, power

SMALL = [
    Case("chain", "chain", 6, shapes=power(3, 2), compiled=False),
    Case("chain", "chain", 4, "float64", ((2, 3), (4, 2))),
    Case("sum", "sum", 5, shapes=power(3, 2), terms=3),
    Case("form", "form", 8, "bfloat16", power(4, 2), 2, 16, 4),
    *(Case("layer", "layer", 8, "bfloat16", power(4, 2), R) for R in (1, 3)),
    Case("layer", "backward", 8, "bfloat16", power(4, 2), 1),
    Case("toeplitz", "toeplitz", 5, size=12),
    Case("toeplitz", "circulant", 5, size=12),
    Case("torch", "backward", 6, shapes=power(3, 2)),
    Case("torch", "backward", 6, shapes=power(3, 2), terms=2),
]


class Products(chain.Products):
    """The passes of a plan on NumPy arrays, those of the kernel too."""

    def kernel(self, step, factors, y):
        stacks = np.asarray(y).reshape(-1, step.left, step.n, step.right) if step.specialisation else None
        found = []
        for l in range(factors[0].shape[0]):
            rows = np.moveaxis(stacks[l if len(stacks) > 1 else 0], 1, -1)
            made = _gpu_data.product([F[l] for F in factors], rows.reshape(-1, step.n))
            found.append(np.moveaxis(made.reshape(step.left, step.right, step.m), -1, 1))
        return sum(found) if step.specialisation.kind in ("sum", "gather") else np.stack(found)


class Host(_gpu_device.Device):
    """The stand-in, with torch on the CPU: its graphs and its allocator are not there."""

    where = "cpu"

    def peak(self, call, x):
        return super().peak(call, x) if self.torch is None else 0

    def release(self):
        self.synchronize()

    def launches(self, call, x):
        call(x)
        return 1

    def _torch_graph(self, call, inputs):
        raise NotImplementedError("no graphs on the CPU")

    def _torch_launch(self):
        return None


def install(monkeypatch):
    """A device of NumPy and torch on the CPU in place of the machine's; times are of two calls."""
    torch = pytest.importorskip("torch")
    made = Host(stand_in_cupy.module(), torch)
    monkeypatch.setattr(_gpu_device, "device", lambda: made)
    monkeypatch.setattr(_gpu_device, "SECONDS", 0.0)
    monkeypatch.setattr(_gpu_device, "LEAST", 2)
    monkeypatch.setattr(_gpu_routes, "products", Products)
    monkeypatch.setattr(_gpu_check, "compiled", lambda specs, until: {"compiled": len(specs)})
    monkeypatch.setattr(_gpu_cases, "timed", lambda: SMALL)
    kron = types.SimpleNamespace(make_kron=lambda a, b, scale: torch.kron(a, b) * scale)
    monkeypatch.setitem(sys.modules, "peft.tuners.lokr.layer", kron)
    return made
