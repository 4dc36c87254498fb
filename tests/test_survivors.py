"""What mutation testing showed to be untested: each line here fails for a mutant that every other test let live."""

import math
import pathlib
import tempfile

import numpy as np
import pytest
from cases import CASES
from conftest import dtype_of

import sepmat as sm
from sepmat import _array, eigenpairs, equations, fit, interop
from sepmat._bounds import BOUNDS
from sepmat.als_solve import scaled
from sepmat.kernels import kron, plan, reference, terms

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
    "displacement_form: A: Kronecker(2×2 ⊗ 2×2): no rule": lambda: sm.displacement_form(
        sm.Kronecker(np.eye(2), np.eye(2))
    ),
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
        monkeypatch.setattr(reference, "TERM_BLOCK", entries)
        np.testing.assert_allclose(reference.separated(factors, None, x, -2), expected, rtol=1e-12)


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


def test_rcond_of_arrays_without_lapack_and_of_empty_ones():
    """array-api-strict gives no factors of LAPACK, so its inverse says how good A is."""
    strict = pytest.importorskip("array_api_strict")
    for scale in (1.0, 2.0**-1000, 2.0**1000):
        assert sm.factorize(sm.Dense(strict.asarray(scale * np.diag([1.0, 2.0])))).rcond == 0.5
    assert _array.lu_factor(np.zeros((0, 0))).scale == 1.0


def test_the_smallest_displacement_rank():
    """Doubling finds that 4 terms are enough, bisection that 3 are."""
    r = rng(0).standard_normal
    M = sm.LowDisplacementRank(r((12, 3)), r((12, 3))).to_dense()
    best = sm.approximate(M, tol=1e-6, structures="displacement")[0]
    assert best.matrix.terms == 3 and best.relative_error <= 1e-6


def test_a_solution_that_vanishes_is_no_solution():
    from sepmat.cauchy_like import LIMIT, _worst

    rest, x = np.array([[1.0, 1e-17], [0.0, 0.0]]), np.array([[0.0, 1.0], [0.0, 0.0]])
    with _array.quiet():
        assert _worst(rest, x, 1e-16) > LIMIT and _worst(0 * rest, 0 * x, 1e-16) == 0


def test_rcond_of_a_matrix_that_hardly_sees_the_mean():
    """W = Z_1(g) takes the vector of ones to 0.1 of it and others to many times their length."""
    g = rng(0).standard_normal((64, 1))
    W = sm.LowDisplacementRank(g - g.mean() + 0.1 / 64, np.eye(64)[:, :1])
    exact = 1 / np.linalg.cond(W.to_dense(), 1)
    assert exact / 2 <= sm.factorize(W).rcond <= 20 * exact  # estimates of norms are lower bounds


def test_transposes_of_displacement_stay_in_their_class():
    r = rng(5).standard_normal
    W = sm.LowDisplacementRank(r((4, 2)), r((4, 2)))
    for A in (W.T @ sm.Circulant(r(4)), sm.SkewCirculant(r(4)) @ W.T):
        assert isinstance(A, sm.LowDisplacementRank) and A.terms == 2


def test_iterations_stop_after_20_steps_that_gain_nothing():
    A = sm.laplacian(4, 2) + SHIFTED
    start = sm.power_iteration(A, rank=1).vector
    again = sm.power_iteration(A, rank=1, start=start)
    assert again.iterations == 20 and again.converged


def test_a_start_that_solves_the_system_takes_one_sweep():
    """No other start competes with it."""
    A, X = sm.laplacian(4, 3), sm.Separated([rng(k).standard_normal((2, 4, 1)) for k in range(3)])
    assert sm.als_solve(A, A @ X, tol=1e-5, start=X).iterations == 1


def test_a_search_that_gains_little_is_given_up():
    """40 random terms on 8×8×8: a term more gains a few per cent, so the search ends long before the 40."""
    I, F = sm.Kronecker(*[np.eye(8)] * 3), sm.Separated([rng(k).standard_normal((40, 8, 1)) for k in range(3)])
    with pytest.warns(sm.ConvergenceWarning):
        found = sm.als_solve(I, F, tol=1e-3)
    assert found.matrix.terms <= 10


def test_the_estimate_of_a_class_without_a_rule():
    """x and the parameters are read, the result is written."""
    assert sm.explain(sm.Inverse(sm.Dense(np.eye(4))), np.ones((4, 2))).bytes == 8 * (4 * 2 + 16 + 4 * 2)


def test_traffic_of_a_product_in_slabs():
    """Two passes, each of which reads all numbers and writes them."""
    found = sm.explain(sm.Kronecker(*[np.eye(16)] * 5), (16**5, 8))
    assert "two passes" in found.route and found.bytes == 8 * (5 * 256 + 4 * 16**5 * 8)


def test_operations_of_a_sum_in_slabs():
    """The GEMMs of 8 terms; what slabs have in common is not counted twice."""
    S = sm.Separated([np.ones((8, 64, 64), "float32")] * 2)
    found = sm.explain(S, np.ones((4096, 256), "float32"))
    assert "16 rows of factor 0 at a time" in found.route and found.flops == 8 * 2 * (2 * 64 * 4096 * 256)
    assert "rows of x at a time" in sm.explain(S, np.ones((256, 4096), "float32"), axis=-1).route


def test_rectangular_terms_are_multiplied_from_the_cheaper_end():
    """Factors that shrink come first."""
    for shapes, first in ((((4, 64), (64, 4)), True), (((64, 4), (4, 64)), False)):
        p = plan.terms(shapes, 8, 1, 64, "d")
        assert p.forward is first and p.flops == 8 * 2 * (2 * 4 * 64 * 4 * 64)


def test_what_the_rows_of_torch_take():
    """Real tensors, also those that ask for a gradient: their products have a backward of their own."""
    torch = pytest.importorskip("torch")
    takes = {row.name: row.accepts for row in kron.kron_matmul.rows}["torch"]
    factors, x = [torch.ones(2, 2, requires_grad=True)] * 2, torch.ones(3, 4)
    assert takes(factors, x, -1) and not takes(factors, x, -2)
    assert not takes(factors, x + 0j, -1) and not takes(factors, x[:0], -1)


def test_few_pairs_of_terms_are_compared(monkeypatch):
    counted, ratios = [], terms._ratios

    def counting(part, pairs, tol):
        counted.append(len(pairs))
        return ratios(part, pairs, tol)

    monkeypatch.setattr(terms, "_ratios", counting)
    S = sm.Separated([rng(k).standard_normal((300, 3, 3)) for k in range(3)])
    assert S.merged() is S and counted and sum(counted) <= 300  # of 44850


def test_the_largest_of_parallel_terms_keeps_its_factors():
    F = np.array([[[1.0], [1 + 2.0**-50]], [[1.0], [1.0]]])
    found = sm.Separated([F, F], [1e-3, 1.0]).merged()
    assert found.terms == 1
    np.testing.assert_array_equal(found.factors[0], F[1:])


def test_what_is_left_of_equal_terms_is_exact():
    """(1 − (1 − 2^-50)) a⊗a is no rounding, also beside terms that are parallel and not equal."""
    a, b = np.array([[1.0], [2.0]]), np.array([[1.0], [-3.0]])
    S = sm.Separated([np.stack([a, a, b, 3 * b]), np.stack([a, a, b, b])], [1.0, -(1 - 2.0**-50), 1.0, 1.0])
    found = S.merged()
    assert found.terms == 2
    np.testing.assert_array_equal(found.to_dense(), 2.0**-50 * np.kron(a, a) + 4 * np.kron(b, b))


def test_a_large_right_hand_side_does_not_hide_a_singular_matrix():
    """All eigenvalues are 2, and rcond is below 1e-20."""
    J = np.eye(5) + 1e4 * np.eye(5, k=1)
    for b in (np.ones(25), 1e100 * np.ones(25)):
        with pytest.raises(sm.SingularMatrixError):
            sm.solve(sm.KroneckerSum(J, J), b)


def test_the_coordinates_of_displacement_fits():
    """W(G, H) is K ∘ (Ĝ Ĥᵀ) there, and the way back gives the same matrix."""
    from sepmat.nearest_displacement import _Run, _Target

    for dtype in ("float64", "complex128"):
        G, H = (rng(k).standard_normal((5, 2)).astype(dtype) * (1 if dtype == "float64" else 1 + 2j) for k in range(2))
        W = sm.LowDisplacementRank(G, H).to_dense()
        target = _Target(W)
        g, h = np.fft.fft(G, axis=0), target.spectrum(H)
        np.testing.assert_allclose(target.model(g, h), W, rtol=0, atol=1e-13 * np.abs(W).max())
        back = sm.LowDisplacementRank(*target.generators(_Run(g, h, W, 0.0, True, 0)))
        np.testing.assert_allclose(back.to_dense(), W, rtol=0, atol=1e-13 * np.abs(W).max())


def test_symmetric_triplets_are_those_of_a_block_by_default():
    from sepmat.nearest_kronecker import _symmetric

    M = rng(0).standard_normal((256, 256))
    R = _symmetric(M + M.T, ((16, 16), (16, 16)))
    (U, _, V), exact = R.triplets(9, rng(0))
    assert U.shape[1] < 60 and V.shape == U.shape and not exact and R.triplets(9, rng(0), True)[1]


def test_shapes_of_three_factors_under_a_tolerance_and_a_cap():
    fits = sm.factor_shapes(rng(0).standard_normal((4, 6)), tol=0.5, factors=3, max_condition=5)
    assert any(fit.matrix.terms == 2 for fit in fits)
    assert all(fit.relative_error <= 0.5 and fit.condition_number <= 5 and fit.num_parameters < 24 for fit in fits)


def test_a_product_is_found_without_sweeps():
    M = np.kron(np.kron(np.arange(4.0).reshape(2, 2), np.ones((2, 2))), [[1.0, 2.0], [3.0, 5.0]])
    found = sm.nearest_separated(M, ((2, 2),) * 3, tol=1e-6)
    assert found.matrix.terms == 1 and found.iterations == 0


def test_block_power_on_a_flat_spectrum():
    """Within 1.003 of the optimum, also where the block is nearly a quarter of the matrix."""
    for seed in range(5):
        M = rng(seed).standard_normal((49, 49))
        found = sm.nearest_kronecker(M, ((7, 7), (7, 7)), rank=4).relative_error
        assert found <= 1.003 * sm.nearest_kronecker(M, ((7, 7), (7, 7)), rank=4, exact=True).relative_error


def test_the_gradient_of_a_norm_far_from_1():
    """It grows with the product of the other factors."""
    torch = pytest.importorskip("torch")
    found = []
    for k in (0, 100, -100):
        factors = [torch.asarray(2.0**k * rng(i).standard_normal((2, 3, 3))).requires_grad_() for i in range(3)]
        sm.norm(sm.Separated(factors)).backward()
        found.append(factors[0].grad.numpy() / 2.0 ** (2 * k))
    for other in found[1:]:
        np.testing.assert_allclose(other, found[0], rtol=1e-12)


def test_a_zero_tensor_has_no_terms_of_its_dtype():
    from sepmat.tree import tree

    weights, factors = tree(np.zeros((2, 3, 4), "complex64"))
    assert weights.shape == (0,) and [(F.shape, str(F.dtype)) for F in factors] == [
        ((n, 0), "complex64") for n in (2, 3, 4)
    ]


def test_inverse_iteration_where_sweeps_from_the_last_step_fail(monkeypatch):
    """They may all leave the bound on κ; then a whole search follows."""
    A = sm.laplacian(4, 2) + sm.Separated([np.diag(np.arange(4.0))[None]] * 2)
    expected = sm.inverse_iteration(A, rank=1)
    monkeypatch.setattr(eigenpairs, "settle", lambda *args, **options: None)
    found = sm.inverse_iteration(A, rank=1)
    assert found.converged and found.value == pytest.approx(expected.value, rel=1e-3)


def test_the_sweeps_of_the_last_rank_count():
    """A thorough search goes on where a quick one ends."""
    F = sm.Separated([rng(k).standard_normal((3, 4, 1)) for k in range(3)])
    system, _ = scaled(sm.convert(sm.laplacian(4, 3), sm.Separated), F)
    quick, thorough = (equations.solution(system, 1, 0.0, math.inf, rng(0), quick=q) for q in (True, False))
    assert 0 < quick.sweeps < thorough.sweeps
