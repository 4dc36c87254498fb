"""What the fine-tuning study says: claims with the numbers that decide, tables, and the figure."""

from collections.abc import Iterator
from typing import Any

from studies import _study, _style, _tasks, _tuners

TABLE = _tuners.tuners(384)
REFERENCE = _tuners.REFERENCE
Task = dict[str, Any]


def rows(task: Task, kind: str | None = None) -> Iterator[tuple[str, dict[str, Any]]]:
    """The tuners of a task that have an accuracy."""
    for name, row in task["tuners"].items():
        if "mean" in row and kind in (None, TABLE[name].kind):
            yield name, row


def share(task: Task, name: str) -> float:
    """Trainable parameters over those of LoRA of rank 8, heads left out."""
    return float(task["tuners"][name]["parameters"] / task["tuners"][REFERENCE]["parameters"])


# --- claims -----------------------------------------------------------------------------------------------------------


def claims(numbers: dict[str, Any]) -> dict[str, bool]:
    """The plan, the counts, and the claim of both papers for each tuner on all tasks; for the smoke preset the first two."""
    runs, tasks = numbers["runs"], numbers["tasks"]
    out = {
        f"all {runs['planned']} runs of the plan are made": runs["done"] == runs["planned"],
        "the parameters that are trained beside the head are as many as the formulas say": all(
            row["parameters"] == count(task, name) for task in tasks for name, row in task["tuners"].items()
        ),
    }
    if numbers["seeds"] < 5:
        return out
    names = dict.fromkeys(name for task in tasks for name, _ in rows(task, _tuners.OURS))
    for name in names:
        found = [(t, t["tuners"][name]["difference"]) for t in tasks if t["tuners"].get(name, {}).get("difference")]
        if not found or any(d["error"] is None or share(t, name) >= 0.5 for t, d in found):
            continue
        told = ", ".join(f"{task['title']} {points(d)}" for task, d in found)
        lead = f"{TABLE[name].label}, {percent(share(found[0][0], name))} of the parameters of LoRA r = 8"
        out[f"{lead}: at least as accurate on every task ({told})"] = all(d["mean"] >= 0 for _, d in found)
        out[f"{lead}: on no task worse by two standard errors"] = all(d["mean"] > -2 * d["error"] for _, d in found)
    return out


def count(task: Task, name: str, n: int = 384) -> int:
    """Parameters of a tuner on all its layers: two places in each layer of the backbone."""
    one = {
        "head": 0,
        "lora_8": 8 * 2 * n,
        "lora_1": 2 * n,
        "lokr": 16 * 16 + 2 * 8 * 24,
        "c3a": n,
        "c3a_8": 8 * n,
        "lsr_4": 2 * 16 * (24 * 2 + 16 * 2),
        "lsr_16": 2 * 8 * (24 * 4 + 16 * 4),
        "circulant": n,
        "symmetric_toeplitz": n,
        "toeplitz": 2 * n - 1,
        "kronecker": 24 * 24 + 16 * 16,
        "ldr": 2 * n,
        "adapter": 2 * n,
    }
    return one[name] * 2 * int(task["layers"])


def percent(value: float) -> str:
    """A share in per cent."""
    return f"{100 * value:.0f} %"


def points(difference: dict[str, Any]) -> str:
    """A difference of accuracies in points, with its standard error."""
    error = "" if difference["error"] is None else f" ± {100 * difference['error']:.1f}"
    return f"{100 * difference['mean']:+.1f}".replace("-", "−") + error


# --- tables -----------------------------------------------------------------------------------------------------------


def tables(numbers: dict[str, Any]) -> str:
    """How far the plan is, and a table for each task."""
    runs = numbers["runs"]
    parts = [
        f"{runs['done']} of the {runs['planned']} runs of the plan are in; their training took "
        f"{runs['seconds'] / 60:.0f} minutes of one core. The sentences: `{_tasks.DOWNLOAD}`"
    ]
    for task in numbers["tasks"]:
        chance = f"{percent(task['majority'])} for the most frequent class"
        sizes = (
            f"{task['train']:,} examples to train, {task['validation']} to choose the rate, {task['test']:,} to test"
        )
        passes = "1 pass" if task["epochs"] == 1 else f"{task['epochs']} passes"
        head = [
            "",
            "parameters",
            "of LoRA r = 8",
            "rate",
            "seeds",
            "accuracy, %",
            "to LoRA r = 8, points",
            "seconds a run",
        ]
        parts.append(
            f"{task['title'][0].upper()}{task['title'][1:]}, {task['backbone']} ({sizes}; {passes} in batches of {task['batch']}; "
            f"{chance}):\n\n" + _study.table(head, [line(task, name) for name in task["tuners"]])
        )
    return "\n\n".join(parts)


def line(task: Task, name: str) -> list[str]:
    """A tuner in the table of a task."""
    row = task["tuners"][name]
    rate = f"{row['rate']:g}{' (edge)' if row['at the edge'] else ''}"
    of = percent(share(task, name)) if REFERENCE in task["tuners"] else ""
    out = [TABLE[name].label, f"{row['parameters']:,}", of, rate]
    if "mean" not in row:
        return [*out, "0", "", "", f"{row['seconds']:.0f}"]
    error = "" if row["error"] is None else f" ± {100 * row['error']:.1f}"
    gap = row.get("difference")
    parts = ""
    if gap and gap["error"] is not None:
        parts = f" (seeds {100 * gap['over seeds']:.1f}, examples {100 * gap['over examples']:.1f})"
    told = points(gap) + parts if gap else ""
    return [*out, str(len(row["accuracy"])), f"{100 * row['mean']:.1f}{error}", told, f"{row['seconds']:.0f}"]


# --- the figure -------------------------------------------------------------------------------------------------------


def plot(numbers: dict[str, Any]) -> Any:
    """Accuracy against trainable parameters, a panel a task: means over the seeds with their standard errors.

    The line is LoRA of rank 8, the grey band the standard error that so many test examples leave.
    """
    tasks = numbers["tasks"]
    columns = min(2, len(tasks))
    lines = -(-len(tasks) // columns)
    figure = _style.figure(6.0 * columns, 3.7 * lines + 1.5)
    figure.get_layout_engine().set(h_pad=0.12, w_pad=0.12)
    for ax, task in zip(figure.subplots(lines, columns, squeeze=False).flat, tasks, strict=False):
        panel(ax, task)
    handles: dict[str, Any] = {}
    for ax in figure.axes:
        found, labels = ax.get_legend_handles_labels()
        handles |= dict(zip(labels, found, strict=True))
    figure.legend(handles.values(), handles, loc="outside lower center", ncols=4)
    return figure


def panel(ax: Any, task: Task) -> None:
    """One task."""
    drawn = {name: row for name, row in rows(task) if name != "head"}
    places = apart({name: row["parameters"] for name, row in drawn.items()})
    for name, row in rows(task):
        tuner, mean = TABLE[name], 100 * row["mean"]
        if name == "head":
            ax.axhline(mean, color=_style.QUIET, linestyle=":", label=tuner.label)
            continue
        if name == REFERENCE:
            spread = 100 * row["binomial"]
            ax.axhline(mean, color=_style.INK, linewidth=0.8)
            ax.axhspan(mean - spread, mean + spread, color=_style.INK, alpha=0.07, linewidth=0)
        error = 100 * (row["error"] or 0.0)
        ax.errorbar(places[name], mean, error, linestyle="none", capsize=2, elinewidth=1, **tuner.look())
    ax.set(
        title=f"{task['title']} ({task['backbone']})", xlabel="trained parameters, head left out", ylabel="accuracy, %"
    )
    if not places:
        return
    ax.set_xscale("log")
    ax.minorticks_off()
    ticks = [t for t in (5e3, 1e4, 2e4, 5e4, 1e5) if 0.7 * min(places.values()) < t < 1.4 * max(places.values())]
    ax.set_xticks(ticks, [f"{t:,.0f}" for t in ticks])


def apart(counts: dict[str, int], step: float = 1.11) -> dict[str, float]:
    """Where to draw each count: what would lie on one another is moved apart, by a factor of `step` each."""
    places: dict[str, float] = {}
    names = sorted(counts, key=lambda name: counts[name])
    while names:
        group = [name for name in names if counts[name] <= 1.35 * counts[names[0]]]
        middle = sum(counts[name] for name in group) / len(group)
        for i, name in enumerate(group):
            places[name] = middle * step ** (i - (len(group) - 1) / 2) if len(group) > 1 else counts[name]
        names = names[len(group) :]
    return places
