"""The orthonormal tree, and from low matrix rank to low separation rank."""

import math

import numpy as np
import pytest
from conftest import check, dtype_of, host, library

from sepmat.tree import tree

DTYPES = ["float32", "float64", "complex64", "complex128"]


def draw(rng, shape, dtype="float64"):
    x = rng.standard_normal(shape)
    if dtype.startswith("complex"):
        x = x + 1j * rng.standard_normal(shape)
    return x.astype(dtype)


def outer_sum(weights, factors):
    """Σ_l w_l f_1[:, l] ∘ … ∘ f_d[:, l] in double precision."""
    columns = np.ones((1, len(weights)), np.complex128 if np.iscomplexobj(factors[0]) else np.float64)
    for F in factors:
        columns = (columns[:, None, :] * F[None, :, :]).reshape(-1, len(weights))
    return (columns @ weights).reshape([len(F) for F in factors])


def on_host(found):
    return host(found[0]).astype(np.float64), [host(F).astype(np.result_type(host(F), np.float64)) for F in found[1]]


# the tree ---------------------------------------------------------------------------------------------------------------

SHAPES = [(1,), (5,), (3, 4), (4, 3), (1, 1, 1), (2, 3, 4), (9, 2, 2), (2, 3, 4, 5), (3, 1, 2, 4, 2)]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_tree_is_exact_and_orthonormal(shape, dtype, rng, xp):
    T = draw(rng, shape, dtype)
    found = tree(xp.asarray(T))
    assert library(found[0]) == library(xp.asarray(T)) and {dtype_of(F) for F in found[1]} == {dtype}
    assert dtype_of(found[0]) == dtype.replace("complex64", "float32").replace("complex128", "float64")
    w, factors = on_host(found)
    assert [F.shape for F in factors] == [(n, len(w)) for n in shape]
    assert len(w) <= math.prod(shape) // max(shape) and np.all(np.diff(w) <= 0) and np.all(w > 0)
    check(np.linalg.norm(outer_sum(w, factors) - T), np.linalg.norm(T), 200, dtype, "tree exact")
    gram = np.ones((len(w), len(w)))
    for F in factors:
        gram = gram * (F.conj().T @ F)
    check(np.max(np.abs(gram - np.eye(len(w)))), 1.0, 200, dtype, "tree orthonormal")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(6, 7), (4, 5, 6), (3, 4, 2, 5)])
def test_tree_error_is_that_of_the_weights_left_out(shape, dtype, rng):
    T = draw(rng, shape, dtype)
    norm = np.linalg.norm(T)
    everything = on_host(tree(T))[0]
    for options in ({"rank": 1}, {"rank": 3}, {"rank": 10**6}, {"tol": 0.1}, {"tol": 0.5}, {"tol": 0.5, "rank": 2}):
        w, factors = on_host(tree(T, **options))
        tail = np.linalg.norm(everything[len(w) :])
        check(np.linalg.norm(outer_sum(w, factors) - T) - tail, norm, 200, dtype, "tree error formula")
        if "rank" in options:
            assert len(w) <= options["rank"]
        else:
            assert tail <= options["tol"] * norm < np.linalg.norm(everything[len(w) - 1 :])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(8, 9), (6, 7, 8), (3, 4, 5, 3)])
def test_tree_leaves_no_round_off(shape, dtype, rng):
    w, _ = on_host(tree(outer_sum(np.ones(1), [draw(rng, (n, 1), dtype) for n in shape]).astype(dtype)))
    assert len(w) == 1
    two = outer_sum(np.ones(2), [draw(rng, (n, 2), dtype) for n in shape]).astype(dtype)
    assert len(on_host(tree(two))[0]) == 2 ** (len(shape) - 1)


@pytest.mark.parametrize("shape", [(3,), (0,), (2, 3), (0, 3), (2, 3, 4), (2, 0, 4), (0, 0, 0)])
def test_tree_of_zero_has_no_terms(shape, xp):
    w, factors = tree(xp.zeros(shape))
    assert tuple(w.shape) == (0,) and [tuple(F.shape) for F in factors] == [(n, 0) for n in shape]


@pytest.mark.parametrize("scale", [1e-300, 1e-150, 1e150, 1e300])
def test_tree_knows_no_scale(scale, rng):
    T = draw(rng, (3, 4, 5))
    w, factors = tree(T * scale)
    check(np.linalg.norm(outer_sum(w / scale, factors) - T), np.linalg.norm(T), 200, "float64", "tree exact")
