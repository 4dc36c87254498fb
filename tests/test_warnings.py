"""Every warning points at the line that called the library, and not into it."""

import importlib
import warnings

import numpy as np
import pytest

import sepmat as sm
from sepmat import interop

r = np.random.default_rng(0).standard_normal
T = sm.Toeplitz([4.0, 1.0, 0.5, 0.2])
SUM = sm.Separated([r((3, 2, 2)), r((3, 2, 2))])
TURN = sm.KroneckerSum(np.array([[0, 1.0], [-1, 0]]), np.zeros((2, 2)))
SINGULAR = sm.KroneckerSum(np.diag([1.0, 0.0]), np.diag([1.0, 0.0]))
SMOOTH = np.exp(-(np.arange(60.0) ** 2) / 18)

CALLS = {
    "compress, tol": (sm.PrecisionWarning, lambda: sm.compress(SUM, tol=1e-17)),
    "compress": (sm.ConvergenceWarning, lambda: sm.compress(sm.Separated([r((3, 2, 2))] * 3), tol=1e-10, penalty=0.5)),
    "nearest_kronecker": (sm.PrecisionWarning, lambda: sm.nearest_kronecker(r((4, 4)), ((2, 2), (2, 2)), tol=1e-20)),
    "nearest_separated": (sm.PrecisionWarning, lambda: sm.nearest_separated(r((4, 4)), ((2, 2), (2, 2)), tol=1e-20)),
    "exponential_sum": (sm.PrecisionWarning, lambda: sm.exponential_sum(32.2, tol=1e-15)),
    "schulz_inverse": (sm.ConvergenceWarning, lambda: sm.schulz_inverse(SINGULAR, 1e-6)),
    "sign": (sm.ConvergenceWarning, lambda: sm.sign(TURN, 1e-6)),
    "expm": (sm.ConvergenceWarning, lambda: sm.expm(SUM, 1e-17)),
    "als_solve": (sm.ConvergenceWarning, lambda: sm.als_solve(SINGULAR, sm.Separated([np.ones((1, 2, 1))] * 2), tol=1e-6)),
    "power_iteration": (sm.ConvergenceWarning, lambda: sm.power_iteration(TURN, tol=1e-6)),
    "cg": (sm.ConvergenceWarning, lambda: interop.cg(T, np.arange(4.0), rtol=1e-13, maxiter=1)),
    "inverse": (sm.ConditionWarning, lambda: sm.inverse(sm.Toeplitz(SMOOTH + 1e-12 * np.eye(60)[0]))),
}  # fmt: skip


@pytest.mark.parametrize("name", CALLS)
def test_a_warning_points_at_the_caller(name):
    kind, call = CALLS[name]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        call()
    assert kind in [w.category for w in caught]
    for found in caught:
        assert (found.filename, found.lineno) == (__file__, call.__code__.co_firstlineno)


def test_rough_solves_say_so_at_the_caller(monkeypatch):
    """No matrix is known that refinement leaves above the limit, so the limit comes down."""
    monkeypatch.setattr(importlib.import_module("sepmat.cauchy_like"), "LIMIT", -1.0)
    for call in (lambda: sm.solve(T, np.ones(4)), lambda: sm.factorize(T).solve(np.ones(4))):
        with pytest.warns(
            sm.PrecisionWarning, match=r"^solve: the residual with A \(Toeplitz\(4×4\)\) is \d+ n u"
        ) as caught:
            call()
        assert len(caught) == 1 and caught[0].filename == __file__
