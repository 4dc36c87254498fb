"""What somebody who knows NumPy tries first: names that are offered, and messages that say what to call instead."""

import pydoc
import subprocess
import sys

import numpy as np
import pytest

import sepmat as sm
from sepmat.linalg import OpenFunction
from sepmat.matrix import _instead

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
    (lambda: np.linalg.eigvalsh(A), r"sm\.eigvals"),
    (lambda: np.linalg.cond(A), r"sm\.svdvals"),
    (lambda: np.transpose(A), r"A\.T"),
    (lambda: np.dot(A, np.ones(6)), "A @ x"),
    (lambda: A**2, "A @ A"),
    (lambda: A**-1, r"sm\.inverse\(A\)"),
])  # fmt: skip
def test_messages_name_the_function_of_the_library(call, own):
    with pytest.raises(sm.DTypeError, match=f"(Use|Write) .*{own}"):
        call()


def test_every_open_function_is_named_for_its_namesake():
    """Of the files of the functions, not of a list beside them."""
    open_functions = [name for name, thing in vars(sm).items() if isinstance(thing, OpenFunction)]
    assert {"solve", "norm", "factorize"} <= set(open_functions) <= set(_instead)
    assert all(_instead[name] == f"sm.{name}" for name in open_functions)
    assert all(hasattr(sm, call[3:]) for call in _instead.values() if call.startswith("sm."))


@pytest.mark.parametrize("call, speaker", [
    (lambda: sm.factorize(sm.Circulant(np.ones(3))), "factorize: A"),
    (lambda: sm.factorize(sm.Toeplitz(np.ones(6)) + A), "factorize: A"),
    (lambda: sm.norm(sm.Circulant([np.nan, 1.0]), 2), "norm: A"),
    (lambda: sm.inverse(sm.Kronecker(np.eye(2), np.ones((2, 2)))), r"inverse: A\.factors\[1\]"),
    (lambda: sm.separated_inverse(A, tol=-1.0), "separated_inverse: tol"),
    (lambda: sm.Kronecker(*[np.ones((2**18, 1))] * 2) @ np.ones(1), "A @ x: size"),
])  # fmt: skip
def test_errors_name_the_function_that_was_called(call, speaker):
    with pytest.raises(sm.SepmatError, match=f"^{speaker}"):
        call()


def test_no_function_is_sent_to_the_class_that_it_came_with():
    """A class with a rule that this matrix does not meet is not among those that have one."""
    B = sm.Toeplitz(np.ones(6)) + A
    with pytest.raises(sm.UnsupportedError) as error:
        sm.solve(B, np.ones(6))
    assert "Sum(" in error.value.args[2] and "Toeplitz" in error.value.args[3] and ", Sum" not in error.value.args[3]


@pytest.mark.parametrize("call", [
    lambda x: sm.Identity(3) @ x,
    lambda x: sm.Toeplitz(x) + sm.Identity(3),
    lambda x: sm.Identity(3) @ sm.Toeplitz(x),
    lambda x: sm.Kronecker(sm.Toeplitz(x), sm.Identity(2)),
])  # fmt: skip
def test_an_identity_among_tensors_is_told_of_like(call):
    torch = pytest.importorskip("torch")
    x = torch.ones(3, dtype=torch.float64, requires_grad=True)
    with pytest.raises(sm.DTypeError, match=r"mixed libraries.* Use sm\.Identity\(n, like=x\)"):
        call(x)
    assert (sm.Identity(3, like=x) @ x).shape == (3,)


@pytest.mark.parametrize("call, advice", [
    (lambda: A @ np.ones((2, 3)), r"x\.reshape\(-1\) for the values on a grid"),
    (lambda: A.apply(np.ones((3, 2)), 0), r"x\.reshape\(-1\) for the values on a grid"),
    (lambda: A @ np.ones((2, 6)), r"A @ x\.T or x @ A\.T"),
    (lambda: A @ np.ones(5), "Check the sizes"),
    (lambda: A @ 2.0, r"2 \* A to scale"),
    (lambda: sm.convert(A, sm.Dense), r"Use sm\.Dense\(A\.to_dense\(\)\)"),
    (lambda: sm.convert(A, sm.Hankel), r"Use approximate\(A\.to_dense\(\), \.\.\.\), or nearest_\*"),
    (lambda: sm.convert(np.eye(3), sm.Toeplitz), r"Use approximate\(\) for dense matrices"),
])  # fmt: skip
def test_sizes_and_classes_that_do_not_fit_come_with_what_would(call, advice):
    with pytest.raises(sm.SepmatError, match=f"{advice}.*\\.$"):
        call()


@pytest.mark.parametrize("call, advice", [
    (lambda: sm.inv, r"write sm\.inverse$"),
    (lambda: sm.svd, r"write sm\.svdvals$"),
    (lambda: sm.no_such_thing, "'no_such_thing'$"),
    (lambda: sm.Toeplitz(np.eye(3)), r"nearest_\*"),
    (lambda: sm.solve(A, np.ones((2, 3))), r"b\.reshape\(-1\) for the values on a grid"),
    (lambda: sm.solve(A, np.ones(5)), "Check the sizes"),
])  # fmt: skip
def test_what_a_first_hour_meets(call, advice):
    with pytest.raises((AttributeError, sm.ShapeError), match=advice):
        call()


def test_the_torch_modules_are_imported_by_their_names():
    code = "import sepmat as sm\ntry:\n    sm.nn\nexcept AttributeError as e:\n    print(e)\nfrom sepmat import nn\nsm.nn.adapt"
    pytest.importorskip("torch")
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "module 'sepmat' has no attribute 'nn'; write import sepmat.nn"
