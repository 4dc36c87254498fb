"""Step time and memory of adapters beside PEFT's LoRA, LoKr and C3A, in one run.

A step of a layer is forward, backward, and the gradient of its input and of what is trained; of a model, forward, backward
and AdamW. All tuners of a case are attached to the same frozen weights, checked against the dense W + ΔW, and then timed in
rounds that have each of them once, in a fresh random order: CPU time of one thread, float32. The memory is the most that
torch's allocator has handed out during one step, above what it had before.
"""

import copy
import functools
import sys
import time
from collections.abc import Callable
from typing import Any

from studies import _adapter_speed_page, _race, _study, _tasks, _tuners

STATUS = "illustration"
LONG = True
FROZEN, FULL = "frozen", "full"
ALL = (
    *(FROZEN, FULL, "lora_8", "lora_16", "lokr", "c3a", "c3a_8"),
    *("lsr_4", "lsr_16", "circulant", "symmetric_toeplitz", "toeplitz", "kronecker", "ldr", "adapter"),
)
SOME = (FROZEN, "lora_8", "lokr", "c3a", "lsr_16", "circulant", "toeplitz", "kronecker", "ldr", "adapter")
Case = dict[str, Any]


def layer(n: int, tokens: int) -> Case:
    """A linear layer n × n on so many tokens."""
    return {"name": f"layer {n}², {tokens} tokens", "kind": "layer", "n": n, "tokens": tokens}


def model(name: str, targets: list[str] | str, layers: int, n: int, length: int, batch: int) -> Case:
    """A BERT of so many layers of width n, with random weights."""
    sizes = {"layers": layers, "n": n, "length": length, "batch": batch}
    return {"name": f"{name}: {layers} layers of {n}", "kind": "model", "targets": targets} | sizes


PRESETS: dict[str, dict[str, Any]] = {
    "smoke": {
        "tuners": {
            "layer": (FROZEN, "lora_8", "lora_16", "lsr_16", "circulant", "toeplitz"),
            "model": (FROZEN, "lora_8", "lsr_16", "circulant"),
        },
        "cases": [layer(48, 64), model("query, value", ["query", "value"], 1, 48, 8, 2)],
        "pace": (1, 1, 0.0),
    },
    "paper": {
        "tuners": {"layer": ALL, "model": SOME},
        "cases": [
            layer(768, 1024),
            layer(768, 4096),
            layer(2048, 1024),
            model("query, value", ["query", "value"], 4, 768, 128, 8),
            model("all linear layers", "all-linear", 4, 768, 128, 8),
        ],
        "pace": (5, 25, 20.0),
    },
}


def compute(p: dict[str, Any], rng: Any) -> dict[str, Any]:
    """All cases; the tuners of a case stand side by side."""
    import torch

    pace = _race.Pace(*p["pace"])
    cases = []
    for case in _study.progress(p["cases"], "cases"):
        torch.manual_seed(int(rng.integers(2**31)))
        cases.append(case | {"tuners": race(case, p["tuners"][case["kind"]], pace, rng)})
    return {"threads": 1, "rounds": p["pace"][1], "cases": cases}


def race(case: Case, names: tuple[str, ...], pace: _race.Pace, rng: Any) -> dict[str, Any]:
    """Each tuner with its parameters, its error, its memory and what the clock said."""
    build = layer_steps if case["kind"] == "layer" else model_steps
    with _race.threads(1), _tasks.quiet():
        steps = build(case, names)
        found = {name: told for name, (_, told) in steps.items()}
        calls = {name: step for name, (step, _) in steps.items()}
        for step in calls.values():
            step()
        for name, step in calls.items():
            found[name]["bytes"] = peak(step)
        samples = _race.timed(calls, pace, rng, time.process_time, patient=True)
    for name, seconds in samples.items():
        found[name]["seconds"] = _race.spread(seconds)
    return found


Steps = dict[str, tuple[Callable[[], Any], dict[str, Any]]]


def layer_steps(case: Case, names: tuple[str, ...]) -> Steps:
    """A step of one adapted layer for each tuner."""
    import torch

    n = case["n"]
    base = torch.nn.Linear(n, n)
    x, g = torch.randn(case["tokens"], n, requires_grad=True), torch.randn(case["tokens"], n)
    steps: Steps = {}
    for name in names:
        holder = attach(torch.nn.ModuleDict({"layer": copy.deepcopy(base)}), name, ["layer"], n)
        module = holder["layer"]
        trained = [q for q in module.parameters() if q.requires_grad]
        linear = name not in (FROZEN, FULL, "adapter")
        told = {"parameters": sum(q.numel() for q in trained), "error": error(module, base, x) if linear else None}
        steps[name] = functools.partial(layer_step, module, x, g, [x, *trained]), told
    return steps


def layer_step(module: Any, x: Any, g: Any, wanted: list[Any]) -> None:
    """Forward and backward."""
    import torch

    with torch.enable_grad():
        y = module(x)
        torch.autograd.grad(y, wanted, g)


def error(module: Any, base: Any, x: Any) -> float:
    """Relative error of the layer against the dense W + ΔW, to the next power of ten."""
    import torch

    with torch.no_grad():
        dense = base.weight.double() + module.get_delta_weight("default").double()
        truth = x.double() @ dense.T + base.bias.double()
        return _study.round_off(float(torch.linalg.norm(module(x).double() - truth) / torch.linalg.norm(truth)))


def model_steps(case: Case, names: tuple[str, ...]) -> Steps:
    """A step of a whole model for each tuner."""
    import torch
    from transformers import BertConfig, BertForSequenceClassification

    n, shape = case["n"], (case["batch"], case["length"])
    settings = BertConfig(
        vocab_size=1000,
        hidden_size=n,
        num_hidden_layers=case["layers"],
        num_attention_heads=max(1, n // 64),
        intermediate_size=4 * n,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    base = BertForSequenceClassification(settings)
    inputs = {"input_ids": torch.randint(1000, shape), "labels": torch.randint(2, shape[:1])}
    steps: Steps = {}
    for name in names:
        targets = ["output.dense"] if name == "adapter" else case["targets"]
        adapted = attach(copy.deepcopy(base), name, targets, n, ["classifier"]).train()
        trained = [q for q in adapted.parameters() if q.requires_grad]
        told = {"parameters": sum(q.numel() for q in trained), "error": None}
        steps[name] = functools.partial(model_step, adapted, inputs, torch.optim.AdamW(trained, 1e-4)), told
    return steps


def model_step(adapted: Any, inputs: dict[str, Any], optimiser: Any) -> None:
    """Forward, backward, AdamW."""
    import torch

    with torch.enable_grad():
        adapted(**inputs).loss.backward()
        optimiser.step()
        optimiser.zero_grad()


def attach(module: Any, name: str, targets: list[str] | str, n: int, head: list[str] | None = None) -> Any:
    """The module with a tuner; what a tuner starts at zero is random here, so that all of it is at work."""
    import peft
    import torch

    if name in (FROZEN, FULL):
        for key, q in module.named_parameters():
            q.requires_grad_(name == FULL or any(part in (head or []) for part in key.split(".")))
        return module
    tuner = _tuners.tuners(n)[name]
    adapted = peft.get_peft_model(module, tuner.configuration(targets, head))
    with torch.no_grad():
        for key, q in adapted.named_parameters():
            if q.requires_grad and not any(part in (head or []) for part in key.split(".")):
                q.copy_(0.02 * torch.randn_like(q))
    return adapted.base_model.model if head is None else adapted


def peak(step: Callable[[], Any]) -> int:
    """The most bytes of torch's allocator during a step, above those before it."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as watched:
        step()
    events = [e for e in watched.profiler.kineto_results.events() if e.name() == "[memory]"]
    total = most = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        total += event.nbytes()
        most = max(most, total)
    return int(most)


claims, tables, plot = _adapter_speed_page.claims, _adapter_speed_page.tables, _adapter_speed_page.plot


if __name__ == "__main__":
    sys.exit(_study.main(only="adapter_speed"))
