"""`sepmat.selftest`: it covers every class, passes here, and fails where something is planted."""

import math

import pytest

import sepmat as sm
from sepmat.__main__ import main
from sepmat.selftest import SelfTest
from sepmat.toeplitz import Circulant

LAZY = {"Sum", "Product", "Scaled", "Inverse", "StructuredMatrix"}  # met in the sums and products of the others


def test_every_class_passes_on_every_library():
    found = sm.selftest()
    classes = {name for name, c in vars(sm).items() if isinstance(c, type) and issubclass(c, sm.StructuredMatrix)}
    assert found.passed, str(found)
    for backend in ("numpy", "array_api_strict", "torch"):
        assert {line.matrix for line in found.lines if line.backend == backend} == classes - LAZY
    assert found.checks == sum(line.checks for line in found.lines) > 2000
    assert {"solve", "slogdet", "svdvals", "norm", "trace"} <= {line.quantity for line in found.lines}
    assert "B12" in str(found) and str(found).endswith("passed")


def planted(monkeypatch, result):
    apply = Circulant._apply
    monkeypatch.setattr(Circulant, "_apply", lambda A, x, axis: result(apply(A, x, axis)))


@pytest.mark.parametrize("factor", [1 + 1e-3, -1, math.nan])
def test_a_wrong_product_is_found(monkeypatch, factor):
    planted(monkeypatch, lambda y: y * factor)
    found = sm.selftest(["numpy"])
    assert not found.passed and str(found).endswith("FAILED")
    assert {line.matrix for line in found.lines if not line.worst <= 1} <= {"Circulant", "Toeplitz", "Hankel"}


def test_what_is_raised_is_a_line(monkeypatch, capsys):
    def fails(y):
        raise RuntimeError("planted")

    planted(monkeypatch, fails)
    assert main(["selftest", "--backends", "numpy"]) == 1
    assert "numpy, Circulant, product: RuntimeError: planted" in capsys.readouterr().out


def test_command(capsys):
    assert main(["selftest", "--backends", "numpy", "--seed", "3"]) == 0
    assert "checks, the worst at" in capsys.readouterr().out
    assert main(["selftest", "--backends", "fortran"]) == 2
    assert "expected one of numpy" in capsys.readouterr().err


def test_nothing_measured_is_no_pass():
    assert not SelfTest(()).passed


def test_repeats():
    assert sm.selftest(["numpy"], seed=5) == sm.selftest(["numpy"], seed=5)
