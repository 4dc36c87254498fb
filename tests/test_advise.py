"""Updates near a given ΔW, and advice on structures: against dense least squares and planted structures."""

import copy
import dataclasses

import numpy as np
import pytest
import torch

import sepmat as sm
from sepmat.nn import (
    PARAMETRISATIONS,
    StructuredUpdate,
    adapt,
    advise,
    deltas,
    from_delta,
    gradients,
    load_delta,
    load_deltas,
    merge_and_unload,
    parametrisation,
)

LINEAR = ["circulant", "skew_circulant", "toeplitz", "symmetric_toeplitz", "block_circulant", "dense"]
SHAPES = [(12, 12), (18, 12), (10, 15), (7, 7)]
OPTIONS = {"kadaptation": {"terms": 1}}
U32 = 2.0**-24


def draws(*shape, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape))


def projection_error(update, M):
    """min ‖M − Σ p_i B_i‖ / ‖M‖ over the basis that unit parameters give: plain dense least squares."""
    basis = []
    with torch.no_grad():
        for p in update.parameters():
            p.zero_()
        for p in update.parameters():
            flat = p.view(-1)
            for i in range(flat.numel()):
                flat[i] = 1.0
                basis.append(update.to_dense().to(torch.float64).reshape(-1).clone())
                flat[i] = 0.0
    B = torch.stack(basis, dim=1).numpy()
    x = np.linalg.lstsq(B, M.reshape(-1).numpy(), rcond=None)[0]
    return np.linalg.norm(M.reshape(-1).numpy() - B @ x) / np.linalg.norm(M.numpy())


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("structure", LINEAR)
def test_structures_linear_in_their_parameters_get_the_projection(structure, shape):
    M = draws(*shape)
    update, fit = from_delta(M, structure, alpha=0.5)
    assert fit.optimal
    oracle = projection_error(StructuredUpdate(shape[1], shape[0], structure, dtype=torch.float64), M)
    assert abs(fit.relative_error - oracle) <= 1e-12
    true = torch.linalg.norm(M - update.to_dense()) / torch.linalg.norm(M)
    assert abs(fit.relative_error - true) <= 1e-12


@pytest.mark.filterwarnings("ignore:kron.*without divisors")  # 7×7
@pytest.mark.parametrize("shape", SHAPES[1:])  # "ldr" at 12×12 takes 500 sweeps
@pytest.mark.parametrize("structure", sorted(set(PARAMETRISATIONS) - {"kadaptation"}))
def test_a_matrix_of_the_structure_comes_back(structure, shape):
    """ΔW of the very structure: an error of round-off where the nearest matrix is closed, small where it is searched for."""
    there = StructuredUpdate(shape[1], shape[0], structure, dtype=torch.float64, **OPTIONS.get(structure, {}))
    there.reset_parameters(torch.Generator().manual_seed(3), zero=False)
    M = there.to_dense().detach()
    _, fit = from_delta(M, there.parametrisation)
    # "ldr" and "lsr" are searched for from starts that do not know the answer
    assert fit.relative_error <= (1e-12 if structure not in ("ldr", "lsr") else 0.75)


@pytest.mark.parametrize("structure", ["circulant", "skew_circulant", "toeplitz", "symmetric_toeplitz"])
def test_products_of_two_factors_hold_at_least_one_of_them(structure):
    M = draws(9, 9)
    _, one = from_delta(M, structure)
    update, two = from_delta(M, structure, factors=2)
    assert abs(one.relative_error - two.relative_error) <= 1e-12
    update(torch.ones(1, 9, dtype=torch.float64)).sum().backward()
    assert all(p.grad is not None and bool(p.grad.any()) for p in update.parameters()), "nothing is dead"


def test_low_rank_and_kronecker_are_the_truncated_svd():
    M = draws(12, 8)
    s = np.linalg.svd(M.numpy(), compute_uv=False)
    _, fit = from_delta(M, "lora", rank=3)
    assert abs(fit.relative_error - np.linalg.norm(s[3:]) / np.linalg.norm(s)) <= 1e-12
    R = M.reshape(4, 3, 4, 2).permute(0, 2, 1, 3).reshape(16, 6).numpy()
    s = np.linalg.svd(R, compute_uv=False)
    _, fit = from_delta(M, "kronecker", shapes=((4, 4), (3, 2)), terms=2)
    assert abs(fit.relative_error - np.linalg.norm(s[2:]) / np.linalg.norm(s)) <= 1e-12


@pytest.mark.parametrize(
    "structure, options", [("lora", {"rank": 5}), ("kronecker", {"terms": 5}), ("lsr", {"rank": 4})]
)
def test_terms_beyond_what_is_needed_can_be_trained(structure, options):
    """ΔW of rank one (zero too): the spare terms change nothing, and have a gradient."""
    for M in (torch.outer(draws(6), draws(4)), torch.zeros(6, 4, dtype=torch.float64)):
        update, fit = from_delta(M, structure, **options)
        assert fit.relative_error <= (1e-12 if structure == "lora" else 1.0)
        torch.sum(update(torch.eye(4, dtype=torch.float64)) * draws(4, 6, seed=1)).backward()
        spare = {"lora": "B", "kronecker": "A1", "lsr": "A1"}[structure]  # zero there, and not in the others
        assert bool(getattr(update, spare).grad.flatten()[-1] != 0)


def test_lsr_is_at_least_as_near_as_its_factors_apart():
    """Better than thin factors of the SVD each in its nearest sum; never better than its inner rank allows."""
    M = draws(24, 4) @ draws(4, 24, seed=1)
    _, fit = from_delta(M, "lsr", rank=4, terms=3)
    low = sm.nearest_low_rank(M.numpy(), rank=4).matrix
    apart = [sm.nearest_kronecker(X, ((6, 2), (4, 2)), rank=3).matrix.to_dense() for X in (low.U, low.V)]
    error = np.linalg.norm(M.numpy() - apart[0] @ apart[1].T) / np.linalg.norm(M.numpy())
    assert fit.relative_error < 0.99 * error
    _, full = from_delta(M, "lsr", rank=4, terms=12)
    assert full.relative_error <= 1e-6  # enough terms for any factors


def test_parameters_keep_dtype_and_the_error_is_of_what_is_stored():
    M = draws(8, 8).to(torch.float32)
    update, fit = from_delta(M, "lora", rank=8)
    assert next(update.parameters()).dtype == torch.float32 and 0 < fit.relative_error <= 16 * U32
    half, fit = from_delta(M.to(torch.bfloat16), "lora", rank=8)
    assert next(half.parameters()).dtype == torch.bfloat16 and 1e-4 < fit.relative_error < 2**-5


def test_errors():
    with pytest.raises(sm.UnsupportedError, match="kadaptation"):
        from_delta(draws(8, 8), "kadaptation", terms=2)
    with pytest.raises(sm.ShapeError, match=r"M: shape \(8,\)"):
        from_delta(draws(8), "lora")
    with pytest.raises(sm.NonFiniteError, match="non-finite"):
        from_delta(draws(8, 8) / 0.0, "lora")
    with pytest.raises(sm.ShapeError, match="that of the update"):
        load_delta(StructuredUpdate(8, 6, "lora"), draws(8, 6))
    with pytest.raises(sm.ArgumentError, match="scale of 0"):
        load_delta(StructuredUpdate(6, 8, "lora", alpha=0.0), draws(8, 6))
    with pytest.raises(sm.ArgumentError, match=r"no update for nowhere.*layers with an update"):
        load_deltas(adapt(model(), ["0"], "circulant"), {"nowhere": draws(12, 8)})
    with pytest.raises(sm.ArgumentError, match="Try 4 or more"):
        advise(draws(4, 4), 2)
    with pytest.raises(sm.ArgumentError, match="structures"):
        advise(draws(4, 4), 20, structures="hankel")
    with pytest.raises(sm.ArgumentError, match="empty"):
        advise({}, 20)
    with pytest.raises(sm.ArgumentError, match="empty"):
        gradients(model(), [])
    with pytest.raises(sm.ArgumentError, match="with a loss"):
        gradients(model(), [torch.ones(1, 8)])


def model():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(8, 12), torch.nn.Tanh(), torch.nn.Linear(12, 12), torch.nn.Linear(12, 3))


def planted():
    """A model and what a fine-tune did to it: a Toeplitz ΔW in one layer, one of rank one in another."""
    base, tuned = model(), model()
    toeplitz = sm.Toeplitz(np.random.default_rng(1).standard_normal(12), None).to_dense()
    low_rank = torch.outer(draws(12), draws(8, seed=2))
    with torch.no_grad():
        tuned[2].weight += torch.from_numpy(toeplitz)
        tuned[0].weight += low_rank
    return base, tuned


def test_advice_finds_what_was_planted_and_keeps_its_budget():
    base, tuned = planted()
    changes = deltas(tuned, base)
    assert set(changes) == {"0", "2"} and changes["0"].shape == (12, 8)
    advice = advise(changes, max_parameters=40)
    found = advice.parametrisations
    assert found["0"].name == "lora" and found["0"].rank == 1
    assert found["2"].name == "symmetric_toeplitz"
    assert advice.num_parameters == 20 + 12 <= 40 and advice.relative_error <= 1e-5
    assert "symmetric_toeplitz" in str(advice) and "together" in str(advice)
    x = torch.ones(2, 8)
    adapted = advice.adapt(copy.deepcopy(base), trainable=["3"])
    assert bool((adapted(x) == base(x)).all())
    assert sum(p.numel() for p in adapted.parameters() if p.requires_grad) == 32 + 39
    fits = load_deltas(adapted, changes)
    assert all(fit.relative_error <= 1e-5 for fit in fits.values())
    torch.testing.assert_close(merge_and_unload(adapted)(x), tuned(x), rtol=0, atol=1e-4)


def test_advice_spends_where_it_helps_most():
    """Two layers, one change ten times as large: a budget for one goes there, and more budget is never worse."""
    changes = {"small": draws(8, 8), "large": 10 * draws(8, 8, seed=1)}
    names = ["lora", "toeplitz", "kronecker", "lsr"]
    assert list(advise(changes, 16, names).parametrisations) == ["large"]
    budgets = (16, 32, 64, 100)
    advice = [advise(changes, budget, names) for budget in budgets]
    errors = [a.relative_error for a in advice]
    assert errors == sorted(errors, reverse=True)
    assert all(a.num_parameters <= budget for a, budget in zip(advice, budgets, strict=True))


def test_gradients_are_the_first_step_and_leave_the_model_alone():
    net = model()
    net[0].weight.requires_grad_(False)
    x, y = draws(5, 8).to(torch.float32), torch.tensor([0, 1, 2, 0, 1])
    loss = lambda m, batch: torch.nn.functional.cross_entropy(m(batch[0]), batch[1])  # noqa: E731
    found = gradients(net, [(x, y), (x, y)], loss)
    net.requires_grad_(True)
    loss(net, (x, y)).backward()
    for name in ("0", "2", "3"):
        torch.testing.assert_close(found[name], -net[int(name)].weight.grad)
    other = model()
    other[0].weight.requires_grad_(False)
    gradients(other, [(x, y)], loss)
    assert not other[0].weight.requires_grad and all(p.grad is None for p in other.parameters())


def test_the_layout_of_gpt2_is_turned():
    Conv1D = pytest.importorskip("transformers.pytorch_utils").Conv1D
    base = torch.nn.Sequential(Conv1D(6, 4))  # 4 -> 6, its weight is (4, 6)
    tuned = copy.deepcopy(base)
    with torch.no_grad():
        tuned[0].weight += draws(4, 6)
    change = deltas(tuned, base)["0"]
    assert change.shape == (6, 4)
    adapted = adapt(base, ["0"], "lora", rank=4)
    assert load_deltas(adapted, {"0": change})["0"].relative_error <= 16 * U32
    x = torch.ones(2, 4)
    torch.testing.assert_close(adapted(x), tuned(x))


def test_advice_as_configurations_of_peft():
    """One adapter for each structure, all of them active, set to the ΔW; structures of two methods are refused."""
    peft = pytest.importorskip("peft")
    from sepmat.peft import configs

    base, tuned = planted()
    changes = deltas(tuned, base)
    advice = advise(changes, 60, ["symmetric_toeplitz", "kronecker"])
    (first, config), *others = configs(advice).items()
    wrapped = peft.get_peft_model(copy.deepcopy(base), config, adapter_name=first)
    for name, config in others:
        wrapped.add_adapter(name, config)
    wrapped.base_model.set_adapter([first, *(name for name, _ in others)])
    assert sum(p.numel() for n, p in wrapped.named_parameters() if ".surm_" in n) == advice.num_parameters
    fits = load_deltas(wrapped, {name: changes[name] for name in advice.parametrisations})
    for layer in advice.layers:
        assert abs(fits[layer.name].relative_error - layer.relative_error) <= 1e-5
    with pytest.raises(sm.UnsupportedError, match="LORA and SURM"):
        configs(advise(changes, 40))
    with pytest.raises(sm.UnsupportedError, match="'dense'"):
        configs(
            type(advice)((dataclasses.replace(advice.layers[0], parametrisation=parametrisation("dense", (4, 4))),))
        )
