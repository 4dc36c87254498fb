"""How far below its bound does every error stay, over all tests? The bounds B1 to B26 and the identities 1 to 40.

Preset paper runs the tests that assert them (python -m pytest --accuracy FILE) and takes their record; smoke takes the
library's self-test.
"""

import json
import pathlib
import re
import subprocess
import sys
import tempfile
from typing import Any

from studies import _study, _style

STATUS = "illustration"
LONG = True
PARTS = {  # test file: which of its tests; those that assert a bound or an identity
    "bounds": "", "identities": "", "identities_of_fits": "", "kernels": "", "linalg": "", "separated": "", "multilevel": "",
    "plan": "", "lstsq": "", "cauchy_like": "", "contract": "adjoint or columns or dense_form or half_precision",
    "approximate": "optimum", "functions": "schulz or expm", "operators": "sin_sum",
}  # fmt: skip
PRESETS: dict[str, dict[str, Any]] = {"smoke": {"parts": {}}, "paper": {"parts": PARTS}}
NAME = re.compile(r"((?:B|id )\d+)(?:, (B\d+))?\b")


def compute(p: dict[str, Any], rng: Any) -> dict[str, Any]:
    """{limit: worst error / hard bound, its alarm, its checks}, and the worst of every named assertion."""
    found = by_tests(p["parts"]) if p["parts"] else by_selftest(int(rng.integers(1000)))
    limits: dict[str, dict[str, Any]] = {}
    for name, worst in found["worst"].items():
        head = NAME.match(name)
        for key in (key for key in (head.groups() if head else ()) if key):
            line = limits.setdefault(key, {"worst": 0.0, "alarm": found["limits"][key], "checks": 0})
            line["worst"] = max(line["worst"], worst)
            line["checks"] += found["tally"][name]
    return {
        "limits": dict(sorted(limits.items(), key=lambda item: order(item[0]))),
        "needed": sorted(found["limits"], key=order),
        "checks": sum(found["tally"].values()),
        "passed": found["passed"],
        "worst": {name: found["worst"][name] for name in sorted(found["worst"])},
    }


def by_tests(parts: dict[str, str]) -> dict[str, Any]:
    """What a run of the tests recorded."""
    chosen = " or ".join(f"(test_{file} and ({names}))" if names else f"test_{file}" for file, names in parts.items())
    tests = [*(f"tests/test_{file}.py" for file in parts), "-k", f"({chosen}) and not gradients"]
    with tempfile.TemporaryDirectory() as folder:
        file = pathlib.Path(folder) / "accuracy.json"
        command = [sys.executable, "-m", "pytest", *tests, "--accuracy", str(file)]
        done = subprocess.run(command, cwd=_study.ROOT, capture_output=True, text=True)
        if not file.exists():
            raise _study.StudyError("the tests did not run: " + (done.stdout + done.stderr).strip()[-400:])
        found = json.loads(file.read_text(encoding="utf-8"))
    return {**found, "passed": done.returncode == 0}


def by_selftest(seed: int) -> dict[str, Any]:
    """The same from the self-test of the library."""
    import sepmat as sm
    from sepmat._bounds import BOUNDS

    found = sm.selftest(["numpy"], seed)
    names = {f"{line.bound} {line.matrix}, {line.quantity}": line for line in found.lines}
    return {
        "worst": {name: line.worst for name, line in names.items()},
        "tally": {name: line.checks for name, line in names.items()},
        "limits": {line.bound: BOUNDS[line.bound].alarm for line in found.lines},
        "passed": found.passed,
    }


def order(key: str) -> tuple[bool, int]:
    """Bounds first, then identities, by number."""
    return key.startswith("id"), int(re.sub(r"\D", "", key))


def claims(numbers: dict[str, Any]) -> dict[str, bool]:
    limits = numbers["limits"]
    worst = max(limits.values(), key=lambda line: line["worst"])["worst"]
    return {
        f"Each of the {len(numbers['needed'])} bounds and identities is asserted, in {numbers['checks']} checks in all.": (
            set(numbers["needed"]) == set(limits) and numbers["passed"]
        ),
        f"No error is above its hard limit: the worst is {worst:.2f} of it.": worst <= 1,
        "No error is above its alarm.": all(line["worst"] <= line["alarm"] for line in limits.values()),
    }


def tables(numbers: dict[str, Any]) -> str:
    """The five limits that errors come nearest to."""
    near = sorted(numbers["limits"].items(), key=lambda item: -item[1]["worst"])[:5]
    rows = [[key, f"{line['worst']:.2g}", f"{line['alarm']:.2g}", str(line["checks"])] for key, line in near]
    return "The five limits that errors come nearest to:\n\n" + _study.table(
        ["limit", "worst error / hard limit", "alarm", "checks"], rows
    )


def plot(numbers: dict[str, Any]) -> Any:
    """The worst error of every limit as a share of the hard one; a tick for the alarm; hollow: equal bit for bit."""
    groups = [[k for k in numbers["limits"] if k.startswith("id") == identity] for identity in (False, True)]
    groups = [keys for keys in groups if keys]
    figure = _style.figure(5.2 * len(groups), 1.2 + 0.19 * max(map(len, groups)))
    floor = 1e-5
    for ax, keys in zip(figure.subplots(1, len(groups), squeeze=False)[0], groups, strict=True):
        for row, key in enumerate(keys):
            line = numbers["limits"][key]
            worst = max(line["worst"], floor)
            ax.plot([floor, worst], [row, row], color=_style.QUIET, linewidth=1)
            exact = line["worst"] == 0
            ax.plot(worst, row, "o", color="#0072B2", markerfacecolor="white" if exact else "#0072B2")
            ax.plot(line["alarm"], row, "|", color="#D55E00", markersize=10)
        ax.axvline(1, color=_style.INK, linewidth=1.2)
        ax.set(xscale="log", xlim=(floor / 1.5, 3), ylim=(len(keys) - 0.3, -0.7), xlabel="worst error / hard limit")
        ax.set_yticks(range(len(keys)), [key.replace("id ", "identity ") for key in keys])
        ax.tick_params(axis="y", labelsize=8)
        ax.set_title("error bounds" if keys[0].startswith("B") else "identities")
    return figure


if __name__ == "__main__":
    sys.exit(_study.main(only="accuracy"))
