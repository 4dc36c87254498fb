"""What the speed of adapters says: ratios within one run, claims with the numbers that decide, tables, and the figure."""

from typing import Any

from studies import _study, _style, _tuners
from studies._race import MEDIAN, MIN

Case = dict[str, Any]
TIMES = {  # tuner: (at most so many times, the time of)
    "lsr_16": (1.03, "lora_16"),
    "circulant": (1.15, "lora_8"),
    "kronecker": (1.2, "lora_8"),
    "toeplitz": (1.35, "lora_8"),
    "symmetric_toeplitz": (1.35, "lora_8"),
    "ldr": (1.6, "lora_8"),
}
FASTER = 1.5  # than C3A of one block; and than LoKr
THAN_LOKR = ("lsr_16", "circulant", "kronecker")
SHARE = 0.3  # of the parameters of LoRA of the same rank
ACTIVATIONS = 2.0  # temporaries of a step
MARKERS = ("o", "s", "D", "^", "v")
COLOURS = ("#0072B2", "#56B4E9", "#009E73", "#D55E00", "#E69F00")


def label(name: str, n: int = 768) -> str:
    """What a tuner is called on layers of width n."""
    limits = {"frozen": "nothing (frozen)", "full": "everything"}
    return limits.get(name) or _tuners.tuners(n)[name].label


def ratio(case: Case, name: str, other: str, place: int = MIN) -> float:
    """Step time over that of another tuner: of the minima, or of the medians."""
    tuners = case["tuners"]
    return float(tuners[name]["seconds"][place] / tuners[other]["seconds"][place])


def temporaries(case: Case, name: str) -> float:
    """Peak memory of a step above that of the frozen layer, in activations of tokens × n numbers."""
    more = case["tuners"][name]["bytes"] - case["tuners"]["frozen"]["bytes"]
    return float(more / (4 * case["tokens"] * case["n"]))


# --- claims -----------------------------------------------------------------------------------------------------------


def claims(numbers: dict[str, Any]) -> dict[str, bool]:
    """Errors and counts; for the paper preset the goals for layers of 768² too, each with its ratios."""
    layers = [case for case in numbers["cases"] if case["kind"] == "layer"]
    errors = [t["error"] for case in layers for t in case["tuners"].values() if t["error"] is not None]
    out = {
        "every linear tuner computes x (W + ΔW)ᵀ to 1e-5": max(errors) <= 1e-5,
        "parameters of a layer: n for a circulant, 2n − 1 for Toeplitz, 2n for displacement rank 1, 2nr for LoRA": all(
            t["parameters"] == count(name, case["n"])
            for case in layers
            for name, t in case["tuners"].items()
            if count(name, case["n"])
        ),
    }
    if numbers["rounds"] < 5:
        return out
    chosen = [case for case in layers if case["n"] == 768]
    for name, (limit, other) in TIMES.items():
        text = f"{label(name)}, 768²: at most {limit:g} × {label(other)}"
        if name == "lsr_16":
            part = chosen[0]["tuners"][name]["parameters"] / chosen[0]["tuners"][other]["parameters"]
            out[f"{label(name)}: at most 30 % of the parameters of {label(other)} ({100 * part:.1f} %)"] = part <= SHARE
        out |= compared(text, chosen, lambda c, at, n=name, o=other: ratio(c, n, o, at), limit, most=True)
    for peer, names in (("c3a", TIMES), ("lokr", THAN_LOKR)):
        for name in names:
            text = f"{label(name)}, 768²: at least {FASTER:g} times faster than {label(peer)}"
            out |= compared(text, chosen, lambda c, at, n=name, p=peer: ratio(c, p, n, at), FASTER, most=False)
    for name in TIMES:
        found = [temporaries(case, name) for case in chosen]
        text = f"{label(name)}, 768²: temporaries of at most 2 activations ({', '.join(f'{v:.2f}' for v in found)})"
        out[text] = all(round(v, 2) <= ACTIVATIONS for v in found)
    return out


def compared(text: str, cases: list[Case], value: Any, limit: float, most: bool) -> dict[str, bool]:
    """One claim on all cases, decided by the minima; the medians are told."""
    found = [(value(case, MIN), value(case, MEDIAN), case["tokens"]) for case in cases]
    told = ", ".join(f"{tokens:,} tokens {least:.2f}, median {middle:.2f}" for least, middle, tokens in found)
    good = [round(least, 2) <= limit if most else round(least, 2) >= limit for least, _, _ in found]
    return {f"{text} ({told})": all(good)}


def count(name: str, n: int) -> int | None:
    """The parameters of a tuner on a layer n × n, where a line says it."""
    circulant = {"circulant": n, "symmetric_toeplitz": n, "toeplitz": 2 * n - 1, "ldr": 2 * n, "c3a": n}
    return ({"lora_8": 16 * n, "lora_16": 32 * n} | circulant).get(name)


# --- tables -----------------------------------------------------------------------------------------------------------


def tables(numbers: dict[str, Any]) -> str:
    """A table for each case."""
    return "\n\n".join(f"{title(case)}:\n\n{table(case)}" for case in numbers["cases"])


def title(case: Case) -> str:
    """A case in words."""
    if case["kind"] == "layer":
        return f"One layer {case['n']}², {case['tokens']:,} tokens, forward and backward"
    where, _, size = case["name"].partition(": ")
    return f"BERT, {size}, {case['batch']} × {case['length']} tokens, {where} adapted; a step of AdamW"


def table(case: Case) -> str:
    """Parameters, times, ratios to LoRA of rank 8, memory."""
    layer = case["kind"] == "layer"
    head = ["", "parameters", "ms, least", "ms, median", "× LoRA r = 8, least", "median", "peak, MiB"]
    rows = []
    for name, told in case["tuners"].items():
        least, middle = (1e3 * told["seconds"][place] for place in (MIN, MEDIAN))
        ratios = [f"{ratio(case, name, 'lora_8', place):.2f}" for place in (MIN, MEDIAN)]
        row = [label(name, case["n"]), f"{told['parameters']:,}", f"{least:.1f}", f"{middle:.1f}", *ratios]
        rows.append([*row, f"{told['bytes'] / 2**20:.1f}", *([f"{temporaries(case, name):.2f}"] if layer else [])])
    return _study.table([*head, *(["temporaries, activations"] if layer else [])], rows)


# --- the figure -------------------------------------------------------------------------------------------------------


def plot(numbers: dict[str, Any]) -> Any:
    """Left: step time over LoRA's, a row a tuner, a marker a case. Right: temporaries of a layer."""
    cases = numbers["cases"]
    names = list(cases[0]["tuners"])
    rows = {name: -i for i, name in enumerate(names)}
    figure = _style.figure(13, 0.36 * len(names) + 2.0)
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=[3, 2])
    offsets = [0.09 * (i - (len(cases) - 1) / 2) for i in range(len(cases))]
    for i, case in enumerate(cases):
        found = {n: ratio(case, n, "lora_8") for n in case["tuners"]}
        look = {"linestyle": "none", "marker": MARKERS[i], "color": COLOURS[i], "markersize": 5}
        y = [rows[n] - 2 * offsets[i] for n in found]
        left.plot(list(found.values()), y, label=title(case).split(", forward")[0], **look)
        if case["kind"] == "layer":
            right.plot([temporaries(case, n) for n in found], y, **look)
    for name, (limit, other) in TIMES.items():
        if name in rows and other == "lora_8":
            left.plot([limit, limit], [rows[name] - 0.42, rows[name] + 0.42], color=_style.INK, linewidth=1.2)
    left.axvline(1.0, color=_style.QUIET, linewidth=0.8)
    right.axvline(ACTIVATIONS, color=_style.QUIET, linewidth=0.8)
    left.set(xlabel="step time ÷ LoRA r = 8's (least of the rounds; bars: goals for 768²)", title="time")
    right.set(xlabel="peak above the frozen layer's, in activations", title="temporaries")
    left.set_yticks(
        list(rows.values()), [{"c3a": "C3A, one block", "c3a_8": "C3A, 8 × 8 blocks"}.get(n) or label(n) for n in names]
    )
    left.set_xscale("log")
    ticks = [0.6, 0.8, 1.0, 1.2, 1.5, 2.0, 2.5, 3.0]
    left.set_xticks(ticks, [f"{t:g}" for t in ticks])
    left.minorticks_off()
    figure.legend(loc="outside lower center", ncols=2)
    return figure
