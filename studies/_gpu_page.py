"""What the GPU study says: claims with the numbers that decide, tables, predictions beside what was measured, the figure.

A time is the median of a replayed graph where the call could be captured, else of eager calls; ratios are of like with like, those to
packages of eager calls, which is how they are used. A claim about a case that was not measured is neither kept nor broken: it is listed.
"""

import math
from typing import Any

from sepmat._bounds import BOUNDS
from studies import _study, _style
from studies._gpu_cases import MISS, PREDICTED_CEILINGS, PREDICTIONS, PUBLISHED, miss
from studies._gpu_routes import KERNEL, MERGED
from studies._gpu_ways import AGAIN, LINEAR_OPERATOR, MATMUL, OURS, PEFT

MEDIAN = 1
CHECKS = 5000
FLOORS = {"8^4": 0.6, "8^5": 0.6, "16^3": 0.6, "32^3": 0.6, "8^6": 0.35, "16^4": 0.35}
TIMES = {"8^4": 4.0, "8^5": 4.0, "16^3": 4.0, "32^3": 2.5}
LARGE = ("64^2", "64^3", "128^2")
SLOWER = 1.05  # than the merged plan, at most
SUMS, LAYERS = 3.0, 3.0
BEST = 1.6
MINE = (OURS, AGAIN, KERNEL, "sepmat on torch", "sepmat in torch.compile")
Numbers = dict[str, Any]


# --- times ------------------------------------------------------------------------------------------------------------


def seconds(case: Numbers, way: str, kind: str = "") -> float | None:
    """The median of a way: of the graph where there is one, or of the kind that is named; None: not measured."""
    found = case.get("ways", {}).get(way, {}).get("seconds", {})
    kinds = [kind] if kind else ["graph", "eager"]
    return next((float(found[k][MEDIAN]) for k in kinds if k in found), None)


def share(case: Numbers) -> float | None:
    """Floor over time of ours."""
    floor, took = case.get("seconds of the floor"), seconds(case, OURS)
    return floor / took if floor and took else None


def times(case: Numbers, other: str, kind: str = "eager") -> float | None:
    """How many times ours another way takes; kind "": both as graphs, or where one has none, both eager."""
    for k in [kind] if kind else ["graph", "eager"]:
        mine, theirs = seconds(case, OURS, k), seconds(case, other, k)
        if mine and theirs:
            return theirs / mine
    return None


def best_other(case: Numbers, kind: str = "") -> tuple[str, float] | None:
    """The fastest way that is not ours, and its time; the merged plan is ours too, without a kernel."""
    found = {way: seconds(case, way, kind) for way in case.get("ways", {}) if way not in (*MINE, MERGED)}
    known = {way: took for way, took in found.items() if took is not None}
    return min(known.items(), key=lambda item: item[1]) if known else None


def noise(case: Numbers) -> float:
    """The same way timed twice, the longer over the shorter."""
    first, second = seconds(case, OURS), seconds(case, AGAIN)
    return max(first / second, second / first) if first and second else 1.0


# --- claims -----------------------------------------------------------------------------------------------------------


def claims(numbers: Numbers) -> dict[str, bool]:
    """What was decided, each with the number that decides."""
    return {f"{text} ({told})": holds for text, told, holds in _all(numbers) if holds is not None}


def undecided(numbers: Numbers) -> list[str]:
    """Claims whose cases were not measured."""
    return [text for text, _, holds in _all(numbers) if holds is None]


def _all(numbers: Numbers) -> list[tuple[str, str, bool | None]]:
    """(the claim, the number that decides, whether it holds; None: not measured)."""
    cases = numbers.get("cases", {})
    out = [*_correct(numbers), *_sanitized(numbers)]

    def claim(text: str, value: float | None, limit: float, most: bool = False, form: str = "{:.2f}") -> None:
        holds = None if value is None else bool(round(value, 2) <= limit if most else round(value, 2) >= limit)
        out.append((text, "" if value is None else form.format(value), holds))

    for name, limit in FLOORS.items():
        case = cases.get(f"{name}, M = 1024", {})
        claim(f"{name}, M = 1024, float32: at least {limit:.0%} of the floor", share(case), limit)
    for name, limit in TIMES.items():
        value = times(cases.get(f"{name}, M = 1024", {}), LINEAR_OPERATOR)
        claim(f"{name}, M = 1024, float32: at least {limit:g} times linear_operator", value, limit)
    for name in LARGE:
        case = cases.get(f"{name}, M = 1024", {})
        value = times(case, MATMUL, "")
        limit = round(1 / noise(case), 2)
        claim(f"{name}, M = 1024, float32: no slower than the chain of cupy.matmul, up to the noise", value, limit)
    case = cases.get("32^2 R = 8, M = 4096", {})
    claim(f"sum of 8 terms, 32^2: at least {SUMS:g} times linear_operator", times(case, LINEAR_OPERATOR), SUMS)
    other, mine = best_other(case, "eager"), seconds(case, OURS, "eager")
    claim(
        f"sum of 8 terms, 32^2: at least {BEST:g} times the best other way",
        other[1] / mine if other and mine else None,
        BEST,
    )
    for name, what in (("64^2 R = 1", "forward"), ("backward 64^2", "forward and backward")):
        value = times(cases.get(f"{name}, M = 8192, bfloat16", {}), PEFT)
        claim(f"layer of d = 4096, 64×64, bfloat16, {what}: at least {LAYERS:g} times PEFT's LoKr", value, LAYERS)
    ratios = {n: t for n, c in cases.items() if (t := times(c, MERGED, "")) is not None}
    slowest = min(ratios, key=lambda n: ratios[n], default=None)
    text = "no case slower than the merged plan by more than 5 %"
    if slowest is None:
        out.append((text, "", None))
    else:
        out.append((text, f"{slowest}: {1 / ratios[slowest]:.2f}", round(1 / ratios[slowest], 2) <= SLOWER))
    return out


def _correct(numbers: Numbers) -> list[tuple[str, str, bool | None]]:
    groups = numbers.get("correct", {}).get("groups", {}).values()
    checks, failed = (sum(g[key] for g in groups) for key in ("checks", "failed"))
    worst, parity = (max((g[key] for g in groups), default=0.0) for key in ("worst", "parity"))
    told = f"{checks:,} checks, {failed} failed, the worst at {worst:.2f} of the limit, {parity:.2f} times the bound"
    holds = failed == 0 if checks >= CHECKS else None if failed == 0 else False
    parity_limit = f"{BOUNDS['B25']():g} times the bound of the CPU"
    return [(f"errors within the limits and {parity_limit} on 5,000 checks or more", told if checks else "", holds)]


def _sanitized(numbers: Numbers) -> list[tuple[str, str, bool | None]]:
    found = {k: v for k, v in numbers.get("sanitize", {}).items() if "findings" in v}
    count = sum(v["findings"] for v in found.values())
    holds = None if not found else count == 0
    return [("compute-sanitizer finds nothing", f"{', '.join(found)}: {count}" if found else "", holds)]


# --- tables -----------------------------------------------------------------------------------------------------------


def quote(record: Numbers | None, kernel: str) -> str:
    """One line for the README and, where there is no record, all that the page says."""
    if record is None:
        return (
            "GPU: not yet measured. `python -m studies.gpu_speed` measures, within 8 minutes, where there is a device."
        )
    environment = record["numbers"]["environment"]
    held = sum(record["claims"].values())
    return (
        f"{environment['gpu']}, {record['made']['date'][:10]}: {held} of {len(record['claims'])} claims hold. "
        f"{for_kernel(environment['kernel'], kernel)}"
    )


def for_kernel(measured: str, current: str) -> str:
    """For which sources of the kernels the numbers hold."""
    if measured == current:
        return f"GPU numbers are for kernel {measured}, the current one."
    return f"GPU numbers are for kernel {measured}; current {current}, not yet measured."


def tables(numbers: Numbers, kernel: str) -> str:
    """The machine, the checks, the times, the predictions, what is open."""
    e = numbers["environment"]
    head = (
        f"{e['gpu']}, compute capability {e['capability']}, {e['SMs']} SMs, {e['L2'] / 2**20:.0f} MiB of L2, "
        f"{e['shared memory'] / 1024:.0f} KiB of shared memory a block, CUDA {e['runtime']}, driver {e['driver']}, "
        f"CuPy {e['versions'].get('cupy-cuda13x')}, torch {e['versions'].get('torch')}. "
        f"{for_kernel(e['kernel'], kernel)}"
    )
    parts = [head, ceilings(numbers["ceilings"]), checks(numbers["correct"])]
    for part in dict.fromkeys(c["part"] for c in numbers["cases"].values()):
        found = {n: c for n, c in numbers["cases"].items() if c["part"] == part}
        parts.append(f"Microseconds, part `{part}` (graph / eager):\n\n{timings(found)}")
    parts.append("Predicted before the first run, and by how much it missed:\n\n" + predictions(numbers))
    if numbers.get("sanitize"):
        parts.append(probes(numbers["sanitize"]))
    if open_ := undecided(numbers):
        parts.append("Not yet measured:\n\n" + "\n".join(f"- {text}" for text in open_))
    return "\n\n".join(parts)


def ceilings(found: Numbers) -> str:
    """What the machine can do at most."""
    rows = []
    for name, value in found.items():
        rate, unit = ("TB/s", 1e12) if name == "copy" else ("TFLOP/s", 1e12) if "gemm" in name else ("µs", 1e-6)
        assumed = PREDICTED_CEILINGS.get(name)
        told = "not measured" if value is None else f"{value / unit:.2f} {rate}"
        off = f"{value / assumed:.2f}" if assumed and value else ""
        rows.append([name, told, f"{assumed / unit:.2f} {rate}" if assumed else "", off])
    return _study.table(["ceiling", "measured", "assumed", "measured / assumed"], rows)


def checks(found: Numbers) -> str:
    """Correctness in one row for each dtype, failures below."""
    rows, lines = [], []
    for dtype in ("float32", "float64", "complex64", "complex128"):
        groups = [g for name, g in found["groups"].items() if name.endswith(f" {dtype}")]
        count, failed = (sum(g[key] for g in groups) for key in ("checks", "failed"))
        worst, parity = (max((g[key] for g in groups), default=0.0) for key in ("worst", "parity"))
        rows.append([dtype, f"{count:,}", str(failed), f"{worst:.2f}", f"{parity:.2f}"])
        lines += [f"- ✗ {text}" for g in groups for text in g["failures"]]
    done = sum(g["checks"] for g in found["groups"].values())
    text = _study.table(["dtype", "checks", "failed", "worst / limit", "worst / bound of the CPU"], rows)
    text += f"\n\n{done:,} of {found['planned']:,} planned checks."
    return text + ("\n\n" + "\n".join(lines) if lines else "")


def timings(cases: Numbers) -> str:
    """A row for each case: the floor, ours and its share, and the other ways."""
    ways = list(dict.fromkeys(w for c in cases.values() for w in c["ways"] if w not in (OURS, AGAIN)))
    rows = []
    for name, case in cases.items():
        floor, part = case["seconds of the floor"], share(case)
        row = [name, f"{1e6 * floor:.1f}" if floor else "–", cell(case, OURS), f"{part:.0%}" if part else "–"]
        launches = case["ways"].get(OURS, {}).get("launches")
        plan = f"{case['plan']}, {1e6 * case['expected']:.0f}" if "plan" in case else case.get("out", "")
        last = [str(launches or ""), plan]
        rows.append([*row, *(cell(case, way) for way in ways), *last])
    return _study.table(["case", "floor", OURS, "floor / time", *ways, "launches", "plan, expected"], rows)


def cell(case: Numbers, way: str) -> str:
    """Microseconds of graph and eager, or why there are none."""
    found = case["ways"].get(way)
    if found is None:
        return ""
    if "seconds" not in found:
        return str(found.get("out", "–")).partition(":")[0]
    graph, eager = (seconds(case, way, kind) for kind in ("graph", "eager"))
    return " / ".join("–" if t is None else f"{1e6 * t:.1f}" if t < 1e-3 else f"{1e6 * t:.0f}" for t in (graph, eager))


def predictions(numbers: Numbers) -> str:
    """Predicted ranges beside what was measured: × above, ÷ below, none inside; those that miss by more than 1.5 in bold."""
    rows = []
    for name, p in PREDICTIONS.items():
        case = numbers["cases"].get(name)
        if case is None:
            rows.append([name, *(["not yet measured"] * 3)])
            continue
        other = seconds(case, p.against) if p.against else (best_other(case) or ("", None))[1]
        ratio = times(case, LINEAR_OPERATOR)
        rows.append([name, beside(seconds(case, p.way), p.ours, 1e-6), beside(other, p.other, 1e-6)])
        rows[-1].append(beside(ratio, p.linear_operator, 1) if p.linear_operator else "")
    return _study.table(["case", "ours, µs", "best other way, µs", "times linear_operator"], rows)


def beside(measured: float | None, predicted: tuple[float, float], unit: float) -> str:
    """'131 (125–160)', '300 (125–160, **×1.9**)'."""
    low, high = predicted
    span = f"{low:g}–{high:g}" if low < high else f"{low:g}"
    if measured is None:
        return f"not yet measured ({span})"
    off = miss(measured / unit, predicted)
    text = "" if off == 1 else f", {'×' if off > 0 else '÷'}{abs(off):.1f}"
    return f"{measured / unit:.3g} ({span}{f', **{text[2:]}**' if abs(off) > MISS else text})"


def probes(found: Numbers) -> str:
    """Sanitizers, DRAM bytes, FastKron."""
    rows = []
    for name, told in found.items():
        if "findings" in told:
            said = f"{told['findings']} findings"
        elif "bytes" in told:
            said = f"{told['bytes'] / told['compulsory']:.2f} × the compulsory bytes"
        else:
            said = told.get("out") or f"status {told['status']}: {told.get('says', '')}"
        rows.append([name, said])
    return _study.table(["tool", "what it says"], rows)


# --- the figure -------------------------------------------------------------------------------------------------------

BARS = (
    (OURS, "sepmat", "#D55E00"),
    (MERGED, "merged plan on cuBLAS", "#E69F00"),
    (MATMUL, "cupy.matmul, factor by factor", "#56B4E9"),
    ("torch chain", "torch, factor by factor", "#0072B2"),
    (LINEAR_OPERATOR, "linear_operator", "#888888"),
)


def plot(numbers: Numbers) -> Any:
    """Floor over time of each way, case by case; what FastKron's authors published for another GPU as hollow markers."""
    cases = {n: c for n, c in numbers["cases"].items() if c["kind"] in ("chain", "sum") and c["seconds of the floor"]}
    figure = _style.figure(max(7.5, 0.75 * len(cases) + 2), 4.6)
    axes = figure.subplots()
    width = 0.8 / len(BARS)
    for k, (way, label, colour) in enumerate(BARS):
        heights = [c["seconds of the floor"] / t if (t := seconds(c, way)) else math.nan for c in cases.values()]
        at = [i + (k - (len(BARS) - 1) / 2) * width for i in range(len(cases))]
        axes.bar(at, heights, width, label=label, color=colour)
    known = [(i, PUBLISHED[n]) for i, n in enumerate(cases) if n in PUBLISHED]
    if known:
        look = {"marker": "o", "linestyle": "", "markerfacecolor": "none", "markeredgecolor": _style.INK}
        axes.plot(*zip(*known, strict=True), label="FastKron, published, other GPU (A100)", **look)
    axes.axhline(1.0, color=_style.QUIET, linewidth=0.8)
    axes.set_xticks(range(len(cases)), [n.replace(" · ", "\n").replace(", ", "\n") for n in cases], fontsize=7.5)
    axes.set_ylabel("floor of the machine / time")
    axes.set_title(f"Kronecker products on {numbers['environment']['gpu']}: share of what the machine allows")
    axes.margins(x=0.01)
    figure.legend(loc="outside lower center", ncols=6, fontsize=8)
    return figure
