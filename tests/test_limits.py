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
from conftest import check, equal, ratio

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
    with pytest.raises(AssertionError, match="alarm"):
        check(9 * U, 1.0, 10, "float64", "B12")
    for pair in ((np.array([1.0]), np.array([2.0])), (np.array([math.nan]), np.array([math.nan])), ([1], [2])):
        with pytest.raises(AssertionError, match="id 5"):
            equal(*pair, "id 5")
    assert conftest.worst["B12"] == math.inf and conftest.worst["id 5"] == math.inf
    assert conftest.tally == {"B12": 3, "id 5": 3}


def test_the_record_is_whole():
    """figures/accuracy.json: every bound and identity, the worst error of each below its hard limit."""
    record = json.loads((ROOT / "figures" / "accuracy.json").read_text(encoding="utf-8"))
    worst = record["numbers"]["worst"]
    needed = {f"B{k}" for k in range(1, 27)} | {f"id {k}" for k in range(1, 41)}
    found = {key for name in worst for key in re.findall(r"\b(B\d+|id \d+)", name)}
    assert needed <= found, f"not recorded: {sorted(needed - found)}"
    assert all(0 <= value <= 1 for value in worst.values())
