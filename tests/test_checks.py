"""Every check that a call passes through is told who calls it, and about which argument: words of errors that nobody raised yet."""

import functools
import inspect
import re

import numpy as np
import pytest
from behaviour import arguments

import sepmat as sm
from sepmat import _check, interop
from sepmat.errors import speaks

PUBLIC = {name for thing in (sm, interop, sm.StructuredMatrix, sm.Separated) for name in dir(thing)} | set(
    arguments.CALLS
)
PUBLIC |= {"s * A", "A @ B", "relative_distance"}  # operators, and a property of fits
PARTS = {"A", "M", "G", "H"}  # of an argument: W(G, H), the matrix that U and V make
CHECKS = {
    name: inspect.signature(check)
    for name, check in vars(_check).items()
    if inspect.isfunction(check) and "where" in inspect.signature(check).parameters
}


@pytest.fixture
def told(monkeypatch):
    """The (check, where, argument) of all checks that are called; the lists of as_arrays as one line for each array."""
    found = set()

    def spied(name, check):
        @functools.wraps(check)
        def spy(*args, **kwargs):
            bound = CHECKS[name].bind(*args, **kwargs)
            bound.apply_defaults()
            given = bound.arguments
            found.add((name, given["where"], given.get("name")))
            return check(*args, **kwargs)

        return spy

    for name in CHECKS:
        monkeypatch.setattr(_check, name, spied(name, getattr(_check, name)))
    return found


def of(where):
    """The names of the parameters of what speaks; of operators and methods, any that an argument has."""
    thing = getattr(sm, where, None) or getattr(interop, where, None)
    return set(inspect.signature(thing).parameters) if callable(thing) else arguments.NAMES


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", [name for name in arguments.CALLS if name != "load"])
def test_checks_are_told_who_calls(name, told):
    function, good = arguments.CALLS[name]
    function(**good)
    for check, where, about in told:
        assert isinstance(where, str) and where in PUBLIC, (check, where, about)
        if "name" in CHECKS[check].parameters and not callable(about):
            assert re.match(r"\w*", about)[0] in of(where) | PARTS, (check, where, about)


def test_a_dense_routine_that_gives_up():
    """Finite factors of a matrix that is out of range: our error, from the one of the array library."""
    F = np.array([[0.0, 1.0, 2.0], [3.0, 1.0, 0.0], [1.0, 1.0, 1.0]])
    A = sm.Separated([np.ldexp(F, k)[None] for k in (1000, 900)])
    match = r"^eigvals: A: .*dense routine failed.*Multiply A by a power of two"
    with pytest.raises(sm.NonFiniteError, match=match) as caught:
        sm.eigvals(A)
    assert type(caught.value.__cause__) is np.linalg.LinAlgError


def test_a_dense_routine_of_torch_that_gives_up():
    torch = pytest.importorskip("torch")

    @speaks
    def inverse_of(X):
        return torch.linalg.inv(X)

    with pytest.raises(sm.NonFiniteError, match=r"^inverse_of: X: .*Multiply X by a power of two"):
        inverse_of(torch.zeros(2, 2))
    with pytest.raises(RuntimeError, match="at least 2 dimensions"):  # any other error of torch passes
        inverse_of(torch.zeros(2))
