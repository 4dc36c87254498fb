"""What mutation testing showed to be untested: each line here fails for a mutant that every other test let live."""

import math
import pathlib
import tempfile

import numpy as np
import pytest
from cases import CASES
from conftest import dtype_of

import sepmat as sm
from sepmat import _array, fit, interop
from sepmat._bounds import BOUNDS
from sepmat.kernels import kron

rng = np.random.default_rng
SUM = sm.Separated([rng(0).standard_normal((2, 2, 2))] * 2)


@pytest.mark.parametrize("case", [c for c in CASES if all(np.prod(s) for s in c.shapes)], ids=str)
def test_estimates_are_of_the_size_they_must_be(case):
    """Every number of x is read, every number of the result is written, and both take a time between 1e-8 and 1 s."""
    A = case.make(*case.data(rng(0), "float64"))
    m, n = A.shape
    for k in (1, 5):
        found = sm.explain(A, np.ones((n, k)))
        assert found.bytes >= 8 * (m + n) * k and 1e-8 < found.seconds < 1 and found.flops >= 0


def test_empty_right_hand_sides_and_empty_matrices():
    found = interop.lsmr(sm.Toeplitz([4.0, 1, 0]), np.zeros(3))
    assert found.relative_residual == 0.0 and found.converged
    assert sm.slogdet(sm.Separated([np.zeros((2, 0, 0)), np.ones((2, 2, 2))])) == (1.0, 0.0)
    assert sm.factorize(sm.Dense(np.zeros((0, 0)))).rcond == 1.0
    zero = sm.nearest_separated(np.zeros((4, 4), "float32"), ((2, 2), (2, 2)), tol=1e-3)
    assert dtype_of(zero.matrix) == "float32" and zero.iterations == 0
    assert dtype_of(sm.nearest_low_rank(np.zeros((0, 3), "float32"), 1).matrix) == "float32"


def test_the_smallest_rank_of_a_sequence_that_misses():
    assert fit.smallest_rank([1.0, 0.5, 0.4, 0.3], 0.1) == 3 and fit.smallest_rank([1.0], 0.1) == 1
    assert fit.smallest_rank([1.0, 0.5, 0.4, 0.3], 0.4) == 2


def test_the_error_of_an_exponential_is_relative():
    """‖exp A‖ is 1e6 here: an error that was multiplied by it would be above 1e-5."""
    A = sm.KroneckerSum(np.array([[0.3, 1e6], [0.0, -0.7]]), np.array([[0.1, 0.2], [0.3, 0.4]]))
    assert sm.expm(A, 1e-9).relative_error < 1e-9


SHIFTED = sm.Separated([rng(1).standard_normal((3, 4, 4))] * 2)
SPREAD = sm.KroneckerSum(np.diag([1.0, 2.0]), np.diag([1.0, 3.0]))


def tensor(a):
    return pytest.importorskip("torch").asarray(np.array(a))


def loaded(header):
    with tempfile.TemporaryDirectory() as folder:
        file = pathlib.Path(folder) / "a.safetensors"
        file.write_bytes(len(header).to_bytes(8, "little") + header)
        return sm.load(file)


REFUSED = {
    "approximate: seed: a str": lambda: sm.approximate(np.eye(4), 8, seed="x"),
    "approximate: structures: a int": lambda: sm.approximate(np.eye(4), 8, structures=5),
    "approximate: structures: empty": lambda: sm.approximate(np.eye(4), 8, structures=()),
    "expm: max_condition: 0.1": lambda: sm.expm(sm.KroneckerSum(np.eye(2), np.eye(3)), 1e-6, max_condition=0.1),
    "norm: A: no closed form of ord=2": lambda: sm.norm(sm.LowDisplacementRank(np.eye(3), np.eye(3)), 2),
    "Identity: like: a str": lambda: sm.Identity(3, like="x"),
    "als_solve: F: mixed libraries": lambda: sm.als_solve(SUM, SUM.map(tensor), rank=1),
    "eigvals: size": lambda: sm.eigvals(sm.KroneckerSum(*[np.eye(1000)] * 5)),
    "diagonal: size": lambda: sm.diagonal(sm.Identity(10**13)),
    "exponential_sum: terms: 0": lambda: sm.exponential_sum(10.0, terms=0),
    "inner: B: a int": lambda: sm.inner(SUM, 3),
    "inner: A: a int": lambda: sm.inner(3, SUM),
    "convert: A: Kronecker(2×2 ⊗ 2×2): no rule": lambda: sm.displacement_form(sm.Kronecker(np.eye(2), np.eye(2))),
    "inverse: A": lambda: sm.inverse(sm.MultilevelCirculant(np.zeros((2, 2)))),
    "norm: A: no closed form of ord=2 for Multi": lambda: sm.norm(
        sm.MultilevelToeplitz(np.ones((3, 3)), ((2, 2), (2, 2))), 2
    ),
    "schulz_inverse: start: ‖I − A X_0‖ = 1.2": lambda: sm.schulz_inverse(SPREAD, 1e-6, start=0.5),
    "A - B: B: a int": lambda: 3 - sm.Dense(np.eye(2)),
    "factor_shapes: rank: 0": lambda: sm.factor_shapes(np.eye(4), rank=0),
    "load: header: a str": lambda: loaded(b'"abc"'),
    "load: header: 2 entries": lambda: loaded(b"[1,2]"),
}


@pytest.mark.parametrize("message", REFUSED)
def test_who_refuses(message):
    with pytest.raises(sm.SepmatError) as caught:
        REFUSED[message]()
    assert str(caught.value).startswith(message)


def test_scales_that_are_odd_powers_of_two():
    M = rng(2).standard_normal((5, 4))
    for k in (101, -101, 3):
        found = sm.nearest_low_rank(M * 2.0**k, 4).matrix.to_dense() / 2.0**k
        np.testing.assert_allclose(found, M, rtol=0, atol=1e-14)
    for k in (400, -400):
        S = sm.Separated([2.0**k * F for F in SUM.factors], [1.0, -2.0])
        plain = sm.Separated(SUM.factors, [1.0, -2.0])
        assert float(sm.norm(S)) == pytest.approx(float(sm.norm(plain)) * 2.0 ** (2 * k), rel=1e-13)


def test_small_things():
    """A cycle of no numbers, the transpose of a transpose, the number of steps of a fit."""
    assert sm.shift(0).shape == (0, 0)
    A = sm.Toeplitz([1.0, 2.0], [1.0, 3.0])
    assert A.T.T is A
    steps = sm.compress(sm.Separated([rng(k).standard_normal((4, 3, 3)) for k in range(3)]), rank=2).iterations
    assert isinstance(steps, int) and steps > 0


def test_algebra_of_rarer_pairs():
    r = rng(5).standard_normal
    W, D, C = sm.LowDisplacementRank(r((4, 1)), r((4, 1))).T, sm.Dense(r((4, 4))), sm.Circulant(r(4))
    inverse, Z = sm.Inverse(D), sm.SkewCirculant(r(4))
    for A, expected in (
        (W @ C, W.to_dense() @ C.to_dense()),
        (W @ Z, W.to_dense() @ Z.to_dense()),
        (W.T @ Z, W.to_dense().T @ Z.to_dense()),
        (2 * inverse + 3 * inverse, 5 * np.linalg.inv(D.to_dense())),
        (D.__rsub__(C), C.to_dense() - D.to_dense()),
    ):
        np.testing.assert_allclose(A.to_dense(), expected, rtol=1e-11, atol=1e-12)
    K = sm.KroneckerSum(r((2, 2)), r((3, 3)), r((2, 2)))
    for x in (r((12, 5)), r((2, 12, 3))):
        np.testing.assert_allclose(
            K @ x if x.ndim == 2 else K.apply(x, axis=1), K.to_dense() @ x, rtol=1e-12, atol=1e-12
        )


def test_power_iteration_keeps_its_rank():
    assert sm.power_iteration(sm.laplacian(4, 2) + SHIFTED, rank=1).vector.terms == 1
    assert sm.power_iteration(sm.laplacian(4, 2) + SHIFTED, rank=3).vector.terms > 1


def test_the_command_line_by_default(tmp_path, capsys):
    """A tenth of the entries, and never less than two terms of rank one; one panel for one matrix."""
    from sepmat.__main__ import main

    np.save(tmp_path / "M.npy", rng(3).standard_normal((6, 5)))
    arguments = ["approximate", str(tmp_path / "M.npy"), "--structures", "low_rank"]
    assert main([*arguments, "--plot", str(tmp_path / "M.png")]) == 0
    first = capsys.readouterr().out
    assert main([*arguments, "--max-parameters", "22"]) == 0
    assert [line for line in first.splitlines() if "Low" in line] == [
        line for line in capsys.readouterr().out.splitlines() if "Low" in line
    ]
    assert (tmp_path / "M.png").stat().st_size > 1000


def test_a_factor_alone_is_not_multiplied_out():
    assert "multiplied out" not in str(sm.explain(sm.Kronecker(np.eye(40), np.eye(50)), np.ones((2000, 1))))
    assert "factors 0 to 2 multiplied out" in str(sm.explain(sm.Kronecker(*[np.eye(3)] * 5), np.ones((243, 1))))


def test_a_fit_of_a_tensor_has_no_gradient():
    torch = pytest.importorskip("torch")
    M = torch.eye(4, dtype=torch.float64, requires_grad=True)
    assert not _array.stop_gradient(M).requires_grad


class Trap:
    def __reduce__(self):
        return pytest.fail, ("the command line ran code of a file",)


def test_the_command_line_runs_no_code_of_a_file(tmp_path, capsys):
    from sepmat.__main__ import main

    np.save(tmp_path / "M.npy", np.array([Trap()], dtype=object), allow_pickle=True)
    with pytest.raises(BaseException, match="ran code"):  # the trap works
        np.load(tmp_path / "M.npy", allow_pickle=True)
    assert main(["approximate", str(tmp_path / "M.npy")]) == 2
    assert "pickle" in capsys.readouterr().err.lower()


def test_the_self_test_names_its_classes_and_bounds():
    lines = sm.selftest(["numpy"]).lines
    assert all(line.matrix[0].isupper() for line in lines)
    assert {line.bound for line in lines if line.bound} <= set(BOUNDS)


def test_blocks_of_terms_are_added_once(monkeypatch):
    """The sum over terms in several blocks, of each form."""
    r = rng(1)
    factors = [r.standard_normal((7, 3, 4)), r.standard_normal((7, 5, 2))]
    x = r.standard_normal((8, 3))
    expected = np.einsum("lab,lcd,bdk->ack", *factors, x.reshape(4, 2, 3)).reshape(15, 3)
    for entries in (1, 200, 1000):
        monkeypatch.setattr(kron, "TERM_BLOCK", entries)
        np.testing.assert_allclose(kron._separated_reference(factors, None, x, -2), expected, rtol=1e-12)


def test_numbers_for_people():
    """1.5 T, 2 G, 3 M, 4 k."""
    from sepmat.explain import _count

    assert [_count(x)[-1] for x in (1.5e12, 2e9, 3e6, 4e3)] == ["T", "G", "M", "k"]
    assert math.isfinite(float(_count(7)))


def test_fits_that_cancel_stay_under_their_cap():
    """a⊗a⊗b + a⊗b⊗a + b⊗a⊗a has rank 3 and is a limit of rank 2, with κ → ∞: the error falls as the cap rises."""
    a, b = np.array([[1.0, 0], [0, 0]]), np.array([[0, 1.0], [0, 0]])
    W = sm.Separated([np.stack([a, a, b]), np.stack([a, b, a]), np.stack([b, a, a])])
    for cap, error in ((1.0, 0.6), (2.0, 0.035), (10.0, 1.5e-3)):
        found = sm.compress(W, rank=2, max_condition=cap)
        assert found.condition_number <= cap * (1 + 1e-12) and found.relative_error <= error
    assert sm.compress(W, tol=0.3, max_condition=3).relative_error <= 0.3


def test_ranks_grow_until_the_goal_is_met():
    r = rng(0).standard_normal
    S = sm.Separated([r((5, 3, 3)) for _ in range(3)])
    assert sm.compress(sm.Separated([np.concatenate((F, F)) for F in S.factors]), tol=1e-6).matrix.terms == 5
    assert sm.compress(sm.Separated([r((6, 2, 2)) for _ in range(3)]), tol=0.1).relative_error <= 0.1
    assert sm.nearest_separated(r((8, 8)), ((2, 2),) * 3, tol=0.2).relative_error <= 0.2
    found = sm.als_solve(sm.laplacian(4, 3), sm.Separated([r((1, 4, 1)) for _ in range(3)]), rank=3)
    assert found.iterations > 0
