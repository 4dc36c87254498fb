"""A new trainable structure is one class and one entry in PARAMETRISATIONS: this test makes both, and nothing else.

Hankel matrices, W[i, j] = h[i + j]: the core has them and sepmat.nn does not. With the entry they are updates and layers, start
at a given ΔW, are advised, are an adapter of PEFT, and their weighted sums are exact.
"""

import dataclasses

import numpy as np
import pytest
import torch
from torch import nn

import sepmat as sm
import sepmat.nn as snn


@dataclasses.dataclass(frozen=True)
class HankelParametrisation(snn.Parametrisation):
    """W[i, j] = h[i + j]; h: (out + in - 1,)."""

    name = ranked = "hankel"
    moved = ("h",)
    transforms = advised = True
    peft = "surm"

    def parameter_shapes(self):
        return {"h": (sum(self.shape) - 1,)}

    def variances(self, gain):
        return {"h": 0.0 if gain is None else gain / self.shape[1]}

    def matrix(self, parameters):
        h, m = parameters["h"], self.shape[0]
        return sm.Hankel._of(c=h[:m], tail=h[m:])

    def nearest(self, M, seed=0):
        H = sm.nearest_hankel(M).matrix
        return {"h": torch.cat((H.c, H.tail))}, True

    @classmethod
    def of(cls, A):
        return cls(A.shape) if isinstance(A, sm.Hankel) else None


@pytest.fixture(autouse=True)
def entry(monkeypatch):
    monkeypatch.setitem(snn.PARAMETRISATIONS, "hankel", HankelParametrisation)


def hankel(m, n, seed=0):
    """A dense Hankel matrix, written as a loop."""
    h = np.random.default_rng(seed).standard_normal(m + n - 1)
    return torch.tensor([[h[i + j] for j in range(n)] for i in range(m)])


@pytest.mark.parametrize("shape", [(6, 6), (7, 4), (3, 8)], ids=str)
def test_it_is_an_update_and_a_layer(shape):
    m, n = shape
    x = torch.randn(5, n, dtype=torch.float64)
    update = snn.StructuredUpdate(n, m, "hankel", alpha=2.0, dtype=torch.float64)
    assert not torch.any(update(x))
    update(x).sum().backward()
    assert torch.all(update.h.grad != 0)
    layer = snn.StructuredLinear(n, m, "hankel", dtype=torch.float64)
    dense = torch.stack([layer.h[i : i + n] for i in range(m)])
    torch.testing.assert_close(layer(x), nn.functional.linear(x, dense, layer.bias))


def test_it_starts_at_a_given_matrix_and_is_advised():
    H, noise = hankel(6, 5), torch.from_numpy(np.random.default_rng(1).standard_normal((6, 5)))
    M = H + 0.1 * noise
    update, fit = snn.from_delta(M, "hankel")
    best = sm.nearest_hankel(M)
    assert fit.optimal and abs(fit.relative_error - best.relative_error) <= 1e-14
    torch.testing.assert_close(update.to_dense(), best.matrix.to_dense())
    (layer,) = snn.advise(M, max_parameters=10).layers
    assert layer.parametrisation == HankelParametrisation((6, 5)) and layer.num_parameters == 10
    assert abs(layer.relative_error - best.relative_error) <= 1e-14


def test_it_is_an_adapter_of_peft_whose_sums_are_exact():
    peft = pytest.importorskip("peft")
    from sepmat.peft import SURMConfig, configs

    changes = [hankel(4, 6, seed).to(torch.float32) for seed in (2, 3)]
    (config,) = configs(snn.advise({"0": changes[0]}, 9, "hankel")).values()
    assert isinstance(config, SURMConfig) and config.structure == "hankel"
    model = peft.get_peft_model(nn.Sequential(nn.Linear(6, 4)), config)
    model.add_adapter("second", SURMConfig(structure="hankel", target_modules=["0"], alpha=0.5))
    for name, M in zip(("default", "second"), changes, strict=True):
        snn.load_deltas(model, {"0": M}, adapter=name)
    model.add_weighted_adapter(["default", "second"], [2.0, -1.0], "sum")
    found = model.base_model.model[0].get_delta_weight("sum")
    torch.testing.assert_close(found, 2 * changes[0] - changes[1])


def test_what_it_does_not_say_is_refused_or_has_a_default():
    @dataclasses.dataclass(frozen=True)
    class Bare(HankelParametrisation):
        name = "bare"
        ranked = None
        nearest = snn.Parametrisation.nearest
        moved = ()

    with pytest.raises(sm.UnsupportedError, match="nearest matrix"):
        Bare((3, 3)).nearest(torch.eye(3))
    assert list(Bare.trials((3, 3), 5)) == [Bare((3, 3))] and not list(HankelParametrisation.trials((3, 3), 5))
    parts = [Bare((3, 3))] * 2
    with pytest.raises(sm.UnsupportedError, match="linear in all of its parameters"):
        Bare.summed(parts, [{"h": torch.ones(5)}] * 2)
