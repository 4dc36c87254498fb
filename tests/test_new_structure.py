"""A new structure is three edits: its class with its rules, one export line, one case. This test does them.

The class is the one that docs/design.md walks through (its python block that defines AntiCirculant). Nothing of the
library or of the other tests is touched, and every law of the contract holds for it on every backend.
"""

import sys
import types
from functools import cache

import numpy as np
import pytest
import reference as ref
from cases import Case, case
from conftest import check
from test_contract import DTYPES, LAWS, Built
from test_docs import ROOT, blocks

import sepmat as sm

DESIGN = ROOT / "docs" / "design.md"


@cache
def anti_circulant_class():
    for line, info, code in blocks(DESIGN):
        if info == "python" and "class AntiCirculant" in code:
            module = sys.modules["anti_circulant"] = types.ModuleType("anti_circulant")  # pickling looks there
            exec(compile("\n" * (line - 1) + code, str(DESIGN), "exec"), module.__dict__)
            return module.AntiCirculant
    pytest.fail("docs/design.md has no python block that defines AntiCirculant")


def anti_circulant(c):
    """A[i, j] = c[(i + j) mod n]"""
    n = len(c)
    A = ref.zeros((n, n), c)
    for i in range(n):
        for j in range(n):
            A[i, j] = c[(i + j) % n]
    return A


def new_case(n) -> Case:
    cls = anti_circulant_class()
    oracle = ref.normwise(anti_circulant, lambda c: ref.fft_constant(len(c)), ref.circulant_norm)
    found = case(f"AntiCirculant {n}", [(n,)], cls, oracle, cls)
    rng = np.random.default_rng(0)
    A, B = (cls(rng.standard_normal(3)) for _ in range(2))  # the walk-through may keep these closed or lazy
    kinds = {"T": type(A.T), "scaled": type(2 * A), "plus": type(A + B), "times": type(A @ B.H)}
    return case(found.name, found.shapes, cls, oracle, cls, **kinds)


@pytest.mark.parametrize("backend", DTYPES)
@pytest.mark.parametrize("law", LAWS, ids=lambda f: f.__name__)
def test_every_law_holds(law, backend):
    for n in (0, 1, 2, 5, 8):
        for dtype in DTYPES[backend]:
            try:
                law(Built(new_case(n), backend, dtype))
            except Exception as e:
                e.add_note(f"{law.__name__}: AntiCirculant {n} on {backend} {dtype}")
                raise


def test_its_class_survives():
    """At least the transpose, multiples and sums stay anti-circulant: losing the structure would be silent."""
    c = new_case(5)
    assert c.T is c.scaled is c.plus is c.kind


def test_it_has_a_rule():
    rng = np.random.default_rng(1)
    A = anti_circulant_class()(rng.standard_normal(5))
    D = anti_circulant(A.arrays()[0])
    tables = [f for f in (sm.solve, sm.inverse, sm.slogdet, sm.trace, sm.diagonal, sm.norm) if type(A) in f.rules]
    assert tables, "the walk-through registers a rule of linalg.py below the class"
    for f in tables:
        if f is sm.solve:
            b = rng.standard_normal(5)
            x = sm.solve(A, b)
            bound = 20 * ref.log2(5) + 6
            check(
                np.linalg.norm((b - D @ x).astype(float)), float(ref.frobenius(D)) * np.linalg.norm(x), bound, "float64"
            )
        if f is sm.trace:
            check(abs(float(sm.trace(A)) - float(np.trace(D))), float(ref.frobenius(D)), 30, "float64")
        if f is sm.norm:
            check(abs(float(sm.norm(A)) - float(ref.frobenius(D))), float(ref.frobenius(D)), 30, "float64")
    with pytest.raises(sm.UnsupportedError, match=r"Use .* or "):
        sm.factorize(A)
