"""Fine-tuning real models on real data: accuracy against trainable parameters, beside PEFT's LoRA, LoKr and C3A.

Every tuner goes through PEFT and the Trainer of transformers. Its learning rate is chosen by accuracy on a validation
split, with a seed of its own; then it is trained from several seeds, each with the same batches in the same order for all
tuners, and asked the test set. Finished runs are kept in build/fine_tune.jsonl, so that a run that was stopped goes on.
"""

import hashlib
import json
import sys
import time
from collections.abc import Iterable
from typing import Any

import numpy as np

from studies import _fine_tune_page, _runs, _study, _tasks, _train, _tuners

STATUS = "illustration"
LONG = True
TUNERS = (
    *("lora_8", "lora_1", "lokr", "c3a", "head"),
    *("lsr_16", "circulant", "toeplitz", "symmetric_toeplitz", "kronecker", "ldr", "adapter", "lsr_4"),
)
RATES = [m * 10.0**e for e in range(-5, 2) for m in (1, 3)]
SHARED: dict[str, Any] = {"head_rate": 3e-3, "decay": 0.01, "warm_up": 0.06, "batch": 16, "bf16": True}
TEXT = {"train": 800, "validation": 600, "test": 1000, "length": 40, "epochs": 1}
PRESETS: dict[str, dict[str, Any]] = {
    "smoke": {
        "tasks": {
            "descriptions": SHARED | {"train": 32, "validation": 8, "test": 32, "length": 8, "epochs": 1, "layers": 1},
            "digits": SHARED | {"train": 32, "validation": 8, "test": 32, "pixels": 28, "epochs": 1, "layers": 1},
        },
        "tuners": ("lora_8", "circulant"),
        "seeds": 2,
        "rates": 1,
        "rates of": {},
        "runs": None,
    },
    "paper": {
        "tasks": {
            "movies": SHARED | TEXT,
            "tweets": SHARED | TEXT,
            "times": SHARED | TEXT,
            "digits": SHARED | {"train": 400, "validation": 300, "test": 1000, "pixels": 42, "epochs": 2},
        },
        "tuners": TUNERS,
        "seeds": 5,
        "rates": 5,
        "rates of": {"tweets": "movies", "times": "movies"},
        "runs": "build/fine_tune.jsonl",
    },
}
SEARCH = 100  # the seed of the search for a learning rate
SECONDS = "seconds"


# --- the runs ---------------------------------------------------------------------------------------------------------


def compute(p: dict[str, Any], rng: Any) -> dict[str, Any]:
    """Search the learning rates, train from the seeds, put the results together. The draws hang on the seeds alone."""
    runs = _runs.Runs(_study.ROOT / p["runs"] if p["runs"] else None)
    until = time.monotonic() + 60 * p["minutes"] if "minutes" in p else None
    with _train.threads(1):
        work = Work(p, runs)
        for name in p["tasks"]:
            work.task(name)  # what is missing is said before hours have passed
        if until is None or p["minutes"] > 0:
            work.do(until)
    return work.numbers()


class Work:
    """The plan of a study and what there is of it."""

    def __init__(self, p: dict[str, Any], runs: _runs.Runs) -> None:
        self.p, self.runs, self._tasks = p, runs, {}
        self.table = _tuners.tuners(384)
        self.pairs = [(task, name) for task in p["tasks"] for name in p["tuners"]]

    def task(self, name: str) -> _tasks.Task:
        """A task, read once."""
        if name not in self._tasks:
            self._tasks[name] = _tasks.task(name, self.p["tasks"][name] | {"data": self.p.get("data")})
        return self._tasks[name]

    def key(self, task: str, name: str, rate: float, seed: int) -> _runs.Key:
        """What a run depends on."""
        tuner = self.table[name]
        settings = json.dumps([self.p["tasks"][task], tuner.config, tuner.options, tuner.place], sort_keys=True)
        digest = hashlib.sha256(settings.encode()).hexdigest()[:12]
        return {"task": task, "tuner": name, "rate": rate, "seed": seed, "settings": digest}

    def do(self, until: float | None) -> None:
        """The missing runs: for each backbone the searches and the first seed, then the other seeds in turn."""
        for source in dict.fromkeys(self.source(t) for t in self.p["tasks"]):
            while missing := self.searches(source):
                self.runs.make(missing, self.run, f"learning rates, {source}", until)
                if until is not None and time.monotonic() >= until:
                    return
            first = [(t, n) for t, n in self.pairs if self.source(t) == source]
            self.runs.make(self.finals(first, [0]), self.run, f"seed 0, {source}", until)
        self.runs.make(self.finals(self.pairs, range(self.p["seeds"])), self.run, "all seeds", until)

    def source(self, task: str) -> str:
        """The task on which the rates of this one are searched."""
        return str(self.p["rates of"].get(task, task))

    def searches(self, task: str) -> list[_runs.Key]:
        """Runs of a search that are still to be made, as far as is known now."""
        keys = [self.key(task, name, rate, SEARCH) for name in self.p["tuners"] for rate in self.tried(task, name)]
        return [key for key in keys if self.runs.get(key) is None]

    def finals(self, pairs: Iterable[tuple[str, str]], seeds: Iterable[int]) -> list[_runs.Key]:
        """Runs from the seeds; a rate that is not chosen yet is 0."""
        return [self.key(t, n, self.chosen(t, n) or 0.0, seed) for seed in seeds for t, n in pairs]

    def tried(self, task: str, name: str) -> list[float]:
        """The rates to try: three, and where the first or last of them is best, the next one too."""
        rates = list(self.table[name].rates)[: self.p["rates"]]
        while len(rates) < self.p["rates"]:
            found = self.searched(task, name, rates)
            if len(found) < len(rates):
                break
            if (edge := best(found)) not in (rates[0], rates[-1]):
                break
            near = min(range(len(RATES)), key=lambda i: abs(RATES[i] - edge))
            rates = sorted([*rates, RATES[near + (1 if edge == rates[-1] else -1)]])
        return rates

    def searched(self, task: str, name: str, rates: list[float]) -> dict[float, float]:
        """Accuracy on the validation split by rate."""
        found = {rate: self.runs.get(self.key(task, name, rate, SEARCH)) for rate in rates}
        return {rate: result["validation"] for rate, result in found.items() if result}

    def chosen(self, task: str, name: str) -> float | None:
        """The best rate, of equals the least; None before the search."""
        source = self.source(task)
        found = self.searched(source, name, self.tried(source, name))
        return best(found) if found else None

    def run(self, key: _runs.Key) -> dict[str, Any]:
        """Train once; asked the validation split for the search, the test set otherwise."""
        task, p = self.task(key["task"]), self.p["tasks"][key["task"]]
        model, seconds = _train.run(task, self.table[key["tuner"]], key["rate"], key["seed"], p)
        body, head = (sum(q.numel() for q in group) for group in _train.groups(model, task.backbone))
        result = {"parameters": body, "head": head, SECONDS: round(seconds, 2)}
        if key["seed"] == SEARCH:
            return result | {"validation": float(_train.right(model, task.validation, p).mean())}
        return result | {"right": np.packbits(_train.right(model, task.test, p)).tobytes().hex()}

    # --- what came out ------------------------------------------------------------------------------------------------

    def numbers(self) -> dict[str, Any]:
        """Everything for the record."""
        sources = dict.fromkeys(self.source(t) for t in self.p["tasks"])
        keys = [self.key(t, n, r, SEARCH) for t in sources for n in self.p["tuners"] for r in self.tried(t, n)]
        keys += self.finals(self.pairs, range(self.p["seeds"]))
        done = [result for key in keys if (result := self.runs.get(key))]
        if not done:
            raise _study.StudyError("no run is finished")
        runs = {"planned": len(keys), "done": len(done), SECONDS: sum(result[SECONDS] for result in done)}
        return {"runs": runs, "seeds": self.p["seeds"], "tasks": [self.told(name) for name in self.p["tasks"]]}

    def told(self, name: str) -> dict[str, Any]:
        """A task and its tuners."""
        task, p = self.task(name), self.p["tasks"][name]
        out = {
            "name": name,
            "title": _tasks.TITLES[name],
            "backbone": task.backbone.name,
            "layers": task.layers,
            "classes": task.classes,
        }
        out |= {k: p[k] for k in ("train", "validation", "test", "epochs", "batch")} | {"majority": task.majority}
        answers = {n: self.answers(name, n, len(task.test)) for n in self.p["tuners"]}
        reference = answers.get(_tuners.REFERENCE)
        rows = {}
        for n, found in answers.items():
            row = self.row(name, n)
            if found:
                row |= summary(found)
                if reference and n != _tuners.REFERENCE:
                    row["difference"] = paired(found, reference)
            if row:
                rows[n] = row
        return out | {"tuners": rows}

    def answers(self, task: str, name: str, size: int) -> dict[int, Any]:
        """By seed: which examples of the test set are right."""
        keys = {seed: self.finals([(task, name)], [seed])[0] for seed in range(self.p["seeds"])}
        found = {seed: self.runs.get(key) for seed, key in keys.items()}
        return {
            seed: np.unpackbits(np.frombuffer(bytes.fromhex(result["right"]), dtype=np.uint8))[:size].astype(float)
            for seed, result in found.items()
            if result
        }

    def row(self, task: str, name: str) -> dict[str, Any]:
        """The search of a tuner, its counts, and the median of the seconds that its runs took."""
        rate, source = self.chosen(task, name), self.source(task)
        if rate is None:
            return {}
        found = self.searched(source, name, self.tried(source, name))
        keys = [self.key(source, name, rate, SEARCH) for rate in found]
        runs = [
            result
            for key in keys + self.finals([(task, name)], range(self.p["seeds"]))
            if (result := self.runs.get(key))
        ]
        return {
            "parameters": runs[0]["parameters"],
            "head": runs[0]["head"],
            "rates": {f"{rate:g}": accuracy for rate, accuracy in found.items()},
            "rate": rate,
            "at the edge": len(found) > 1 and rate in (min(found), max(found)),
            SECONDS: float(np.median([run[SECONDS] for run in runs])),
        }


def best(found: dict[float, float]) -> float:
    """The rate with the best accuracy, of equals the least."""
    return max(found, key=lambda rate: (found[rate], -rate))


def summary(answers: dict[int, Any]) -> dict[str, Any]:
    """Accuracy by seed, its mean and standard error over the seeds, and that of one accuracy on so many examples."""
    each = [float(a.mean()) for a in answers.values()]
    mean = float(np.mean(each))
    size = len(next(iter(answers.values())))
    return {
        "accuracy": each,
        "mean": mean,
        "error": standard_error(each),
        "binomial": (mean * (1 - mean) / size) ** 0.5,
    }


def paired(answers: dict[int, Any], reference: dict[int, Any]) -> dict[str, Any]:
    """Difference to the reference: mean over common seeds, its standard error over seeds, over examples, and of both.

    Both is the root of the sum of their squares: on the safe side, for what they have in common counts twice.
    """
    seeds = sorted(answers.keys() & reference.keys())
    if not seeds:
        return {}
    gaps = np.stack([answers[s] - reference[s] for s in seeds])
    by_seed, by_example = gaps.mean(axis=1), gaps.mean(axis=0)
    errors = [standard_error(by_seed), standard_error(by_example)]
    both = float(np.hypot(*errors)) if None not in errors else None
    return {
        "seeds": len(seeds),
        "mean": float(gaps.mean()),
        "over seeds": errors[0],
        "over examples": errors[1],
        "error": both,
    }


def standard_error(values: Any) -> float | None:
    """Of the mean; None of a single value."""
    values = np.asarray(values)
    return float(values.std(ddof=1) / len(values) ** 0.5) if len(values) > 1 else None


claims, tables, plot = _fine_tune_page.claims, _fine_tune_page.tables, _fine_tune_page.plot


if __name__ == "__main__":
    sys.exit(_study.main(only="fine_tune"))
