"""What somebody who knows NumPy tries first: names that are offered, and messages that say what to call instead."""

import pydoc

import numpy as np
import pytest

import sepmat as sm

A = sm.Kronecker(np.eye(2), np.diag([1.0, 2.0, 3.0]))


def test_names_on_offer_are_no_modules_but_one():
    modules = {name for name in dir(sm) if not name.startswith("_") and type(getattr(sm, name)).__name__ == "module"}
    assert modules == {"interop"}
    assert {"Kronecker", "solve", "nearest_kronecker", "ShapeError"} <= set(sm.__all__) <= set(dir(sm))
    assert "nearest_kronecker(" in pydoc.plain(pydoc.render_doc(sm))


@pytest.mark.parametrize("call, own", [
    (lambda: np.linalg.solve(A, np.ones(6)), r"sm\.solve"),
    (lambda: np.linalg.inv(A), r"sm\.inverse"),
    (lambda: np.linalg.det(A), r"sm\.slogdet"),
    (lambda: np.linalg.norm(A), r"sm\.norm"),
    (lambda: np.trace(A), r"sm\.trace"),
    (lambda: np.diag(A), r"sm\.diagonal"),
    (lambda: np.kron(A, A), r"sm\.kron"),
    (lambda: np.sum(A), "the functions of sepmat"),
    (lambda: A**2, "A @ A"),
    (lambda: A**-1, r"sm\.inverse\(A\)"),
])  # fmt: skip
def test_messages_name_the_function_of_the_library(call, own):
    with pytest.raises(sm.DTypeError, match=f"(Use|Write) .*{own}"):
        call()
