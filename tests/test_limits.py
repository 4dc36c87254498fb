"""The table of limits and what stands on it: nothing in it is untested, the assertion bites, the record holds."""

import ast
import json
import math
import pathlib
import re

import conftest
import limits
import numpy as np
import pytest
import volume
from conftest import check, equal, ratio

from sepmat._bounds import BOUNDS

ROOT = pathlib.Path(__file__).resolve().parent.parent


def named():
    """Every bound and identity that a test of this folder asserts by name."""
    found = set()
    for file in (ROOT / "tests").glob("test_*.py"):
        if file != pathlib.Path(__file__):
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                name = isinstance(node, ast.Constant) and isinstance(node.value, str) and len(node.value) < 50
                if name and re.match(
                    r"(B|id )\d", node.value
                ):  # the names of `check` and `equal`; docstrings are longer
                    found |= set(re.findall(r"\b(B\d+|id \d+)", node.value))
    return found


def test_every_bound_and_identity_is_asserted():
    """B1 to B26 and 1 to 40: one that no test names fails here."""
    assert {f"B{k}" for k in range(1, 27)} == {key for key in limits.LIMITS if key.startswith("B")}
    assert {f"id {k}" for k in range(1, 41)} <= set(limits.LIMITS)
    needed = {f"B{k}" for k in range(1, 27)} | {f"id {k}" for k in range(1, 41)}
    assert needed <= named(), f"no test asserts {sorted(needed - named())}"


def test_names_find_their_limit():
    assert limits.find("B12 multilevel solve") is limits.LIMITS["B12"]
    assert limits.find("B1 transform, 2^t") is limits.LIMITS["B1"]
    assert limits.find("id 32 adjoint") is limits.LIMITS["id 32 adjoint"]
    assert limits.find("id 3") is limits.LIMITS["id 3"] and limits.find("Toeplitz splits") is None
    for limit in limits.LIMITS.values():
        assert limit.says and 0 < limit.alarm < 1


@pytest.fixture
def clean(monkeypatch):
    monkeypatch.setattr(conftest, "worst", {})
    monkeypatch.setattr(conftest, "tally", {})
    monkeypatch.setattr(conftest, "counted", None)


U = 2.0**-53


@pytest.mark.parametrize(
    ("error", "scale", "expected"),
    [(U, 1.0, 1.0), (0.0, 0.0, 0.0), (1e-300, 0.0, 1 / U), (math.nan, 1.0, math.inf), (math.inf, 1.0, math.inf),
     ([0.0, math.nan], [1.0, 1.0], math.inf), ([], [], 0.0), (-U, 1.0, 1.0), (U, math.nan, math.inf)],
)  # fmt: skip
def test_ratio(error, scale, expected):
    assert ratio(error, scale, "float64") == pytest.approx(expected)


def test_the_assertion_bites(clean):
    """NaN, an error above the limit, one above the alarm, an unequal array and NaN in equal arrays fail; all is recorded."""
    for error in (math.nan, 11 * U):
        with pytest.raises(AssertionError, match="ratio"):
            check(error, 1.0, 10, "float64", "B12")
    with pytest.raises(conftest.Alarm, match="alarm"):
        check(65 * U, 1.0, 66, "float64", "B12")
    for pair in ((np.array([1.0]), np.array([2.0])), (np.array([math.nan]), np.array([math.nan])), ([1], [2])):
        with pytest.raises(AssertionError, match="id 5"):
            equal(*pair, "id 5")
    assert conftest.worst["B12"] == math.inf and conftest.worst["id 5"] == math.inf
    assert conftest.tally == {"B12": 3, "id 5": 3}


def test_alarms_begin_at_eight_numbers(clean):
    """(20 log₂ n + 6) is 66 at n = 8, γ_K is 8 at K = 8 and √2 γ_2K 22.6; identities and other bounds always have theirs."""
    for name, limit, dtype in (("B12", 66, "float64"), ("B3", 8.001, "float64"), ("B4", 22.7, "complex128")):
        below = BOUNDS[name](*((7, dtype) if name != "B12" else (7,)))
        check(0.99 * below * U, 1.0, below, dtype, name)
        with pytest.raises(conftest.Alarm):
            check(0.99 * limit * U, 1.0, limit, dtype, name)
    for name in ("B15 solve", "id 1"):
        with pytest.raises(conftest.Alarm):
            check(0.99 * U, 1.0, 1.0, "float64", name)
    check(0.99 * U, 1.0, 1.0, "float64", "a name of no table")


def test_the_random_loop_counts_alarms_and_fails_on_bounds(clean, monkeypatch, capsys):
    """A law with an error of 0.9 of its bound, one above it, one that goes on after an alarm: what the loop makes of them."""

    def law(share):
        def planted(b):
            for _ in range(2):
                check(share * 66 * U, 1.0, 66, "float64", "B12 planted")

        return planted

    for share, alarms, failures in ((0.1, 0, 0), (0.9, 2, 0), (1.1, 0, 1), (math.nan, 0, 1)):
        monkeypatch.setattr(volume, "LAWS", [law(share)])
        monkeypatch.setattr(volume, "solves", lambda b: None)
        assert volume.main(["--seed", "1", "--first", "5", "--cases", "1"]) == (1 if failures else 0)
        text = capsys.readouterr().out
        assert f"failures {failures}, alarms {alarms}" in text
        again = "python tests/volume.py --seed 1 --first 5 --cases 1 --backend numpy"
        assert (again in text) == bool(alarms or failures)
        assert ("0.9 of the bound" in text) == bool(alarms)
        with pytest.raises(conftest.Alarm):  # outside the loop it is an error again
            check(65 * U, 1.0, 66, "float64", "B12")


def test_the_record_is_whole():
    """figures/accuracy.json: every bound and identity, the worst error of each below its hard limit."""
    record = json.loads((ROOT / "figures" / "accuracy.json").read_text(encoding="utf-8"))
    worst = record["numbers"]["worst"]
    needed = {f"B{k}" for k in range(1, 27)} | {f"id {k}" for k in range(1, 41)}
    found = {key for name in worst for key in re.findall(r"\b(B\d+|id \d+)", name)}
    assert needed <= found, f"not recorded: {sorted(needed - found)}"
    assert all(0 <= value <= 1 for value in worst.values())


def test_the_record_of_the_random_loop(clean, tmp_path):
    """One entry for each library, the last run of it, and the sums over them."""
    file = tmp_path / "volume.json"
    for backend, cases in (("numpy", 2), ("array_api_strict", 1), ("numpy", 1)):
        assert volume.main(["--seed", "3", "--cases", str(cases), "--backend", backend, "--json", str(file)]) == 0
    found = json.loads(file.read_text())
    runs = found.pop("runs")
    assert list(runs) == ["array_api_strict", "numpy"] and found["cases"] == 2 and found["failures"] == 0
    assert found["checks"] == sum(run["checks"] for run in runs.values()) > 0
    assert all(run["made"]["versions"]["numpy"] == np.__version__ for run in runs.values())
