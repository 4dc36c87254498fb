"""The GPU study without a GPU: its plan, its truth, every way that it times, and what it asks of a device.

No number that is made here is kept: a stand-in's times say nothing about a device.
"""

import importlib.util
import itertools
import math
import operator
from pathlib import Path

import gpu_stand_in
import numpy as np
import pytest
import stand_in_cupy
from gpu_stand_in import SMALL

from studies import (
    _gpu_cases,
    _gpu_check,
    _gpu_data,
    _gpu_device,
    _gpu_page,
    _gpu_problem,
    _gpu_routes,
    _gpu_tools,
    gpu_speed,
)
from studies._gpu_cases import Check, power


@pytest.fixture
def device(monkeypatch):
    return gpu_stand_in.install(monkeypatch)


# --- the plan -----------------------------------------------------------------------------------------------------------


def test_the_grid_has_what_was_asked_for():
    checks = list(itertools.chain(*_gpu_cases.grid().values()))
    assert len(checks) == len(set(checks)) >= 2 * _gpu_page.CHECKS
    sides = {s[0] for c in checks for s in c.shapes if len(set(c.shapes)) == 1}
    assert sides >= {2, 3, 4, 5, 8, 12, 16, 24, 32, 64, 128}
    assert {len(c.shapes) for c in checks} == set(range(1, 9))
    assert {c.rows for c in checks} == {1, 2, 7, 64, 1024}
    assert {c.layout for c in checks} == {"rows", "columns", "transposed", "strided", "offset"}
    assert {c.dtype for c in checks} == {"float32", "float64", "complex64", "complex128"}
    assert {c.kernel for c in checks} == {"", "kernel", "merged plan"} and {c.library for c in checks} == {
        "cupy",
        "torch",
    }
    assert {c.terms for c in checks} == {0, 1, 2, 8}
    assert {(12, 20), (1, 4), (3, 5)} <= {s for c in checks for s in c.shapes}
    assert all(len(group) <= 120 for group in _gpu_cases.grid().values())  # the record is written after each


def test_every_forced_kernel_is_one():
    checks = [c for c in itertools.chain(*_gpu_cases.grid().values()) if c.kernel == "kernel"][::11]
    for c in checks:
        left, right = (1, c.rows) if c.layout in ("columns", "transposed") else (c.rows, 1)
        assert "kernel" in _gpu_routes.route("kernel", c.shapes, left, c.dtype, c.terms or 1, right).route
        assert _gpu_routes.route("merged plan", c.shapes, left, c.dtype, c.terms or 1, right).route == "merged"
        assert _gpu_check.specialisations([c])


def test_cases_and_predictions():
    cases = {c.name: c for c in _gpu_cases.timed()}
    assert len(cases) == len(_gpu_cases.timed()) and set(_gpu_cases.PREDICTIONS) <= set(cases)
    assert {c.part for c in cases.values()} | {"env", "correct", "sanitize"} == set(_gpu_cases.PARTS)
    for name, p in _gpu_cases.PREDICTIONS.items():  # the floors that the predictions were written against
        assert cases[name].floor(_gpu_cases.PREDICTED_CEILINGS) * 1e6 == pytest.approx(p.floor, rel=0.025)
    assert set(_gpu_cases.PUBLISHED) <= set(cases)
    assert cases["8^5, M = 1024"].floor({"copy": 3e12, "gemm float32": None}) is None


def test_misses():
    assert _gpu_cases.miss(130, (125, 160)) == 1
    assert _gpu_cases.miss(320, (125, 160)) == 2
    assert _gpu_cases.miss(50, (125, 160)) == -2.5
    assert _gpu_page.beside(320e-6, (125, 160), 1e-6) == "320 (125–160, **×2.0**)"
    assert _gpu_page.beside(100e-6, (125, 160), 1e-6) == "100 (125–160, ÷1.2)"
    assert _gpu_page.beside(None, (800, 800), 1e-6) == "not yet measured (800)"


# --- the numbers ----------------------------------------------------------------------------------------------------------


def test_the_host_makes_the_rows_of_what_the_device_has(monkeypatch):
    monkeypatch.setattr(_gpu_data, "CHUNK", 13)
    for dtype in ("float32", "float64", "complex64", "complex128"):
        x = _gpu_data.draw(np, 7, (9, 5), dtype)
        assert x.dtype == dtype
        assert np.array_equal(x[[0, 8]], _gpu_data.drawn_rows(7, [0, 8], 5, dtype))
    x = _gpu_data.draw(np, 3, (100, 100), "float64")
    assert abs(x.mean()) < 0.03 and abs(x.std() - 3**-0.5) < 0.02 and abs(x).max() <= 1
    assert len(np.unique(x)) > 9900 and not np.array_equal(x, _gpu_data.draw(np, 4, (100, 100), "float64"))


def test_rows_to_compare():
    assert _gpu_data.some(0, 8) == []
    assert _gpu_data.some(1, 8) == [0]
    assert _gpu_data.some(7, 8) == list(range(7))
    found = _gpu_data.some(1024, 2**15)
    assert found[0] == 0 and found[-1] == 1023 and len(found) == 2


def test_truth_is_the_product():
    rng = np.random.default_rng(0)
    F, G, x = rng.standard_normal((2, 3, 4)), rng.standard_normal((2, 5, 2)), rng.standard_normal((6, 8))
    D = sum(np.kron(a, b) for a, b in zip(F, G, strict=True))
    assert _gpu_data.distance(_gpu_data.total([F, G], x), x @ D.T) < 1e-15
    assert _gpu_data.distance(x * math.nan, x) == math.inf


@pytest.mark.parametrize("layout", _gpu_cases.LAYOUTS)
@pytest.mark.parametrize("kernel", ["", "kernel", "merged plan"])
def test_checks_pass_and_fail(device, layout, kernel, monkeypatch):
    checks = [
        Check(((2, 3), (3, 2)), terms, dtype, 7, layout, kernel) for terms in (0, 3) for dtype in ("float32", "float64")
    ]
    found = _gpu_check.group(device, checks, 1)
    assert found["checks"] == 4 and found["failed"] == 0 and 0 < found["worst"] <= 1 and found["parity"] <= 2
    run = _gpu_check.run
    for wrong in (lambda y: y * (1 + 1e-4), lambda y: y[..., :-1], lambda y: y * math.nan, lambda y: 1 / 0):
        monkeypatch.setattr(_gpu_check, "run", lambda *a, wrong=wrong: wrong(run(*a)))
        broken = _gpu_check.group(device, checks, 1)
        assert broken["failed"] == 4 and len(broken["failures"]) == 4, broken


def test_checks_of_tensors(device):
    found = _gpu_check.group(device, [Check(power(3, 2), 0, "float32", 7, "strided", "", "torch")], 1)
    assert found["failed"] == 0, found


@pytest.mark.parametrize("case", SMALL, ids=lambda c: c.name)
def test_every_way_computes_the_case(case, device):
    """Shapes, layouts and formulas of all ways: what is timed on the device is right here."""
    run = gpu_speed.Run(device, {"cases": None}, 0)
    run.numbers = {"ceilings": {}}
    found = run.timed(case, 3)["ways"]
    wrong = {name: told["out"] for name, told in found.items() if "out" in told}
    missing = {name for name, text in wrong.items() if text.startswith(("ModuleNotFoundError", "ImportError"))}
    assert not wrong.keys() - missing, wrong
    assert {"sepmat", "sepmat again"} <= set(found) and len(found) >= 4
    assert all(
        told["error"] is not None and len(told["seconds"]["eager"]) == 3 for n, told in found.items() if n not in wrong
    )


def test_a_wrong_way_is_not_timed(device):
    problem = _gpu_problem.Problem(SMALL[0], device, 3)
    told = gpu_speed.Run(device, {}, 0).way(problem, _gpu_problem.Way("wrong", "cupy", lambda: lambda x: x * 1.1))
    assert told["out"].startswith("error") and "seconds" not in told
    told = gpu_speed.Run(device, {}, 0).way(problem, _gpu_problem.Way("none", "cupy", lambda: 1 / 0))
    assert told["out"] == "ZeroDivisionError: division by zero"


# --- the device -----------------------------------------------------------------------------------------------------------


def test_device_on_the_stand_in(device):
    found = device.environment()
    assert found["gpu"] == "stand-in" and found["capability"] == "0.0" and found["TF32 off"]
    ceilings = _gpu_device.Device(device.cupy, None).ceilings(edge=32)
    assert ceilings["gemm tf32"] is None and ceilings["launch of torch"] is None
    assert all(value > 0 for name, value in ceilings.items() if value is not None) and len(ceilings) == 8
    assert _gpu_device.Device(device.cupy, None).peak(lambda x: x, 1) == 512


def test_graphs(device):
    log = device.cuda.Stream.log
    low, median, high = device.replayed(lambda x: x, [1, 2], "cupy")
    assert 0 <= low <= median <= high and log[:2] == ["begin", "end"] and set(log[2:]) == {"launch"}
    log.clear()
    capturing = iter([None, None, NotImplementedError("no cuBLAS in a graph")])

    def call(x):
        if error := next(capturing):
            raise error

    with pytest.raises(NotImplementedError, match="cuBLAS"):
        device.replayed(call, [1, 2], "cupy")
    assert log == ["begin", "end"]


def test_cupy_has_the_names_of_the_stand_in():
    cupy = pytest.importorskip("cupy", reason="cupy is not installed")
    assert all(operator.attrgetter(name)(cupy) is not None for name in stand_in_cupy.USED)


def test_peft_has_the_function_that_is_timed():
    """Its text is read: importing PEFT takes seconds."""
    found = importlib.util.find_spec("peft") or pytest.skip("peft is not installed")
    text = (Path(found.origin).parent / "tuners" / "lokr" / "layer.py").read_text(encoding="utf-8")
    assert "def make_kron(w1, w2, scale" in text and "torch.kron(w1, w2)" in text


def test_tools_that_are_not_there(monkeypatch):
    monkeypatch.setattr(_gpu_tools.shutil, "which", lambda name: None)
    assert _gpu_tools.sanitized("memcheck") == {"out": "compute-sanitizer is not installed"}
    assert _gpu_tools.counted("8^5") == {"out": "ncu is not installed"}
    assert [name for name, _ in _gpu_tools.probes()][:2] == ["memcheck", "racecheck"]


@pytest.mark.parametrize(
    "text, findings",
    [
        ("========= ERROR SUMMARY: 0 errors", 0),
        ("========= ERROR SUMMARY: 12 errors", 12),
        ("========= RACECHECK SUMMARY: 3 hazards displayed (3 errors, 0 warnings)", 3),
        ("========= Error: permission denied", None),
    ],
)
def test_what_the_sanitizer_says(text, findings, monkeypatch):
    monkeypatch.setattr(_gpu_tools, "_run", lambda *command: ({"status": 0}, f"=========\n{text}\n"))
    found = _gpu_tools.sanitized("memcheck")
    assert found.get("findings") == findings and ("out" in found) == (findings is None)


def test_what_ncu_says(monkeypatch):
    text = '==PROF== noise\n"ID","Metric Name","Metric Value"\n"0","dram__bytes_read.sum","1,000"\n"0","dram__bytes_write.sum","24"\n'
    monkeypatch.setattr(_gpu_tools, "_run", lambda *command: ({"status": 0}, text))
    assert _gpu_tools.counted("8^4") == {"status": 0, "bytes": 1024.0, "compulsory": 2 * 4 * 1024 * 4096}
    monkeypatch.setattr(_gpu_tools, "_run", lambda *command: ({"status": 1}, "ERR_NVGPUCTRPERM\n"))
    assert _gpu_tools.counted("8^4") == {"status": 1, "out": "ERR_NVGPUCTRPERM"}
