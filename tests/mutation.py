"""Mutation testing: does a test fail when the library is wrong in one place?

    python tests/mutation.py --sample 700 --reach FILE --jobs 2     of all mutants of the core; writes figures/mutation.json
    python tests/mutation.py sepmat/toeplitz.py --sample 40         of one module, or of several; prints what survives
    python tests/mutation.py --score                                the score of each sample of the core with its 95 % interval, from the record
    python tests/mutation.py --control --sample 200 --reach FILE    nothing is changed, so nothing may be "killed"

mutmut makes the mutants: a + for a -, a < for a <=, an argument dropped, a number one larger. Its own runner leaves
decorated functions out, which here are the rules of all open functions; so this file runs them: the tests are collected
once, every mutant is a child process that swaps the code of one function and runs the tests that reach it until one
fails, or until it has used twice the processor time. Left out: docstrings, words for people (tests of their own read every message), devices (the tests run on the CPU), names of
what is remembered, defaults, and what runs once at import. A mutant that no test kills stands in tests/survivors.txt with the reason, or is a gap.

The sample is stratified: the list of all mutants, module after module and line after line, is cut into as many equal parts
as mutants are wanted, and one is drawn from each part. They are tried in random order and written down one by one to
FILE.SEED.tried, so that a run that is cut off is a random sample too, and goes on when it is started again with the same files.
"""

import argparse
import collections
import concurrent.futures
import cProfile
import difflib
import functools
import gc
import json
import marshal
import math
import os
import pathlib
import pickle
import random
import resource
import signal
import sys
import textwrap
import threading
import time
import types

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
RECORD, REASONS = ROOT / "figures" / "mutation.json", ROOT / "tests" / "survivors.txt"
MEMORY = 12 << 30
APART = {"nn", "peft", "torch", "cuda"}  # packages of sepmat that are not the core
SLOW = ("test_studies.py", "test_docs.py", "test_layers.py")  # processes of their own, or no code at all

# --- the mutants --------------------------------------------------------------------------------------------------------------


def mutants(path):
    """(qualified name, first line, the mutated code, what changed) for every mutant of a file."""
    import libcst as cst
    from mutmut.mutation import file_mutation as made

    class Visitor(made.MutationVisitor):
        def _skip_node_and_children(self, node):
            if isinstance(node, cst.FunctionDef):  # decorated ones too
                return node.name.value in made.NEVER_MUTATE_FUNCTION_NAMES
            if isinstance(node, cst.Call) and name(node.func).endswith(("Error", "Warning", "_remember")):
                return True
            if isinstance(node, cst.SimpleString) and " " in node.value:  # words for people
                return True
            return super()._skip_node_and_children(node)

    def name(node):
        return node.value if isinstance(node, cst.Name) else node.attr.value if isinstance(node, cst.Attribute) else ""

    def device(node):  # leaving it out changes nothing on the CPU
        return [module.code_for_node(a) for a in getattr(node, "args", ()) if a.keyword and a.keyword.value == "device"]

    source = path.read_text(encoding="utf-8")
    wrapper = cst.MetadataWrapper(cst.parse_module(source))
    visitor = Visitor(made.mutation_operators, made.IgnoredCode(set(), set(), set()))
    module, lines = wrapper.visit(visitor), wrapper.resolve(cst.metadata.PositionProvider)
    plain = {code.co_firstlineno: code for code in _functions(compile(source, str(path), "exec"))}
    seen = set()
    for mutation in visitor.mutations:
        function = mutation.contained_by_top_level_function
        if not isinstance(function, cst.FunctionDef) or device(mutation.original_node) != device(mutation.mutated_node):
            continue
        code = plain[lines[(*function.decorators, function)[0]].start.line]
        old = module.code_for_node(function)
        new = module.code_for_node(function.deep_replace(mutation.original_node, mutation.mutated_node))
        try:  # inside a class, so that super() has its cell
            changed = compile("class _:\n" + textwrap.indent(textwrap.dedent(new).strip("\n"), " "), str(path), "exec")
        except SyntaxError:
            continue
        changed = _functions(changed)[-1]
        if new not in seen and not _same(code, changed):
            seen.add(new)
            label = code.co_qualname
            if label == "_":  # a rule, known by its class
                label = f"_({module.code_for_node(function.params.params[0])})"
            yield label, code.co_firstlineno, changed, _difference(old, new)


def _functions(code):
    """The code of functions and methods, in order; what is nested in them belongs to them."""
    found = []
    for const in code.co_consts:
        if isinstance(const, types.CodeType):
            body = "__qualname__" in const.co_names and const.co_argcount == 0  # a class
            found += _functions(const) if body else [const]
    return found


def _same(a, b):
    return (a.co_code, a.co_names, a.co_varnames, a.co_freevars, len(a.co_consts)) == (
        b.co_code, b.co_names, b.co_varnames, b.co_freevars, len(b.co_consts)) and all(
        _same(p, q) if isinstance(p, types.CodeType) and isinstance(q, types.CodeType)
        else type(p) is type(q) and repr(p) == repr(q) for p, q in zip(a.co_consts, b.co_consts, strict=True)
    )  # fmt: skip


def _difference(old, new):
    lines = [line for line in difflib.ndiff(old.splitlines(), new.splitlines()) if line[:2] in ("- ", "+ ")]
    return " ".join(f"{line[0]} {line[2:].strip()}" for line in lines)


# --- running them --------------------------------------------------------------------------------------------------------------


LATE, FORKING = "late", threading.Lock()


def forked(work, seconds, patience=10):
    """What work() returns in a child process; None where it dies or takes more CPU time than that; LATE where it takes so many
    times as long: it sleeps, or the machine is busy."""
    with FORKING:  # a child of another thread would keep this pipe open
        out, into = os.pipe()
        pid = os.fork()
        if pid:
            os.close(into)
    if not pid:
        os.setpgid(0, 0)
        os.close(out)
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
        resource.setrlimit(resource.RLIMIT_CPU, (int(seconds) + 2,) * 2)
        try:
            answer = pickle.dumps(work())
            with os.fdopen(into, "wb") as pipe:
                pipe.write(answer)
        finally:
            os._exit(0)
    deadline, chunks = time.monotonic() + patience * seconds, []
    os.set_blocking(out, False)
    while True:
        try:
            chunk = os.read(out, 1 << 16)
            if not chunk:
                break
            chunks.append(chunk)
        except BlockingIOError:
            if time.monotonic() > deadline:
                os.kill(pid, signal.SIGKILL)
                chunks = [pickle.dumps(LATE)]
                break
            time.sleep(0.001)
    os.close(out)
    os.waitpid(pid, 0)
    try:
        return pickle.loads(b"".join(chunks))
    except (EOFError, pickle.UnpicklingError):
        return None


class Runner:
    """A pytest plugin that runs the collected tests in its own way."""

    def __init__(self, options):
        self.options, self.failed = options, False

    def pytest_runtest_logreport(self, report):
        self.failed |= report.failed

    def run(self, item):
        self.failed = False
        item.ihook.pytest_runtest_protocol(item=item, nextitem=None)
        return not self.failed

    def reach(self, item):
        """(seconds, the functions of the library that the test calls), or None where it fails as things stand"""
        package = str(ROOT / "sepmat")
        for cached in self.caches:  # what an earlier test computed would hide a call
            cached.cache_clear()

        profile, start = cProfile.Profile(builtins=False), time.process_time()
        with profile:
            passed = self.run(item)
        seconds = time.process_time() - start
        codes = [entry.code for entry in profile.getstats() if isinstance(entry.code, types.CodeType)]
        found = {(code.co_filename, code.co_firstlineno) for code in codes if code.co_filename.startswith(package)}
        return (seconds, found) if passed else None

    def pytest_runtestloop(self, session):
        items = [
            i
            for i in session.items
            if pathlib.Path(i.path).name not in SLOW and "strict" not in i.nodeid and not i.get_closest_marker("slow")
        ]
        self.caches = [thing for thing in gc.get_objects() if type(thing) is functools._lru_cache_wrapper]
        live = {}
        for thing in gc.get_objects():
            if type(thing) is types.FunctionType:  # isinstance would wake lazy attributes
                live.setdefault((thing.__code__.co_filename, thing.__code__.co_firstlineno), []).append(thing)
        gc.freeze()  # so that children share this memory
        by_name = {i.nodeid: i for i in items}
        reached = self.reached(items)
        every = self.every()
        chosen = sample(len(every), self.options.sample or len(every), self.options.seed)
        kind = "control" if self.options.control else "tried"
        log = self.options.reach.with_suffix(f".{self.options.seed}.{kind}") if self.options.reach else None
        known = dict(map(json.loads, log.read_text().splitlines())) if log and log.exists() else {}
        start = time.monotonic()
        done = {k for k, verdict in known.items() if verdict == "killed" or not self.options.again}
        jobs = [(k, every[k]) for k in chosen if str(k) not in done and (not self.options.again or str(k) in known)]
        parts = [jobs[i :: self.options.jobs] for i in range(self.options.jobs)]
        found = concurrently([lambda part=part: self.judged(part, by_name, reached, live, log) for part in parts])
        known |= {str(k): verdict for part in found for k, verdict in part.items()}
        self.summary(every, {int(k): verdict for k, verdict in known.items()}, time.monotonic() - start)
        return True

    def every(self):
        """(file, name, first line, code, what changed) of every mutant; kept beside the other file, since it takes minutes"""
        kept = self.options.reach.with_suffix(".mutants") if self.options.reach else None
        if kept and kept.exists():
            return marshal.loads(kept.read_bytes())
        found = [(str(path.relative_to(ROOT)), *mutant) for path in self.options.modules for mutant in mutants(path)]
        if kept:
            kept.write_bytes(marshal.dumps(found))
        return found

    def summary(self, every, verdicts, seconds):
        """Print it, and write it to the record where it is about the whole core."""
        modules = {}
        for k, mutant in enumerate(every):
            line = modules.setdefault(mutant[0], {"mutants": 0, "tried": 0, "killed": 0, "survivors": []})
            line["mutants"] += 1
            if k in verdicts:
                line["tried"] += 1
                line["killed"] += verdicts[k] == "killed"
                if verdicts[k] != "killed":
                    line["survivors"].append(f"{mutant[1]}: {mutant[4]}")
        if self.options.whole:
            from studies import _study

            record = json.loads(RECORD.read_text()) if RECORD.exists() else {"samples": {}}
            sample = {"made": _study.made(seconds), "budget": self.options.budget, "modules": modules}
            record["samples"][str(self.options.seed)] = sample
            RECORD.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n")
        for name, line in modules.items():
            print(
                name,
                {k: v for k, v in line.items() if k != "survivors"},
                *line["survivors"],
                sep="\n  ",
                file=sys.__stderr__,
            )

    def reached(self, items):
        """{(file, line of a function): [(seconds, test)]}; kept in a file, since it takes minutes"""
        cache = self.options.reach
        known = pickle.loads(cache.read_bytes()) if cache and cache.exists() else {}
        new = [item for item in items if item.nodeid not in known]
        parts, jobs = [new[k : k + 200] for k in range(0, len(new), 200)], self.options.jobs
        works = [lambda part=part: {i.nodeid: self.reach(i) for i in part} for part in parts]
        for k in range(0, len(works), jobs):
            for found in concurrently([lambda work=work: forked(work, 600) for work in works[k : k + jobs]]):
                known |= found if isinstance(found, dict) else {}  # not where it died or came late
            if cache:
                cache.write_bytes(pickle.dumps(known))
        table = {}
        for item in items:
            if known.get(item.nodeid) is not None:
                seconds, functions = known[item.nodeid]
                for key in functions:
                    table.setdefault(key, []).append((seconds, item.nodeid))
        return table

    def judged(self, jobs, by_name, reached, live, log):
        """{number: killed, survived or not reached}, also written to the log as they come; late ones once more at the end"""
        found, start = {}, time.monotonic()
        for patience in (10, 100):
            late = []
            for job in jobs:
                if time.monotonic() - start > self.options.seconds:
                    break
                k, (path, _, line, code, _) = job
                key = (str(ROOT / path), line)
                tests = spread(reached.get(key, []), self.options.budget)
                if not tests or key not in live:
                    verdict = "not reached"
                else:
                    items, functions = [by_name[name] for _, name in tests], live[key]
                    new = functions[0].__code__ if self.options.control else code
                    work = functools.partial(self.survives, functions, new, items)
                    answer = forked(work, 10 + 2 * sum(seconds for seconds, _ in tests), patience)
                    if answer == LATE and patience == 10:
                        late.append(job)
                        continue
                    verdict = "survived" if answer is True else "killed"  # None: it died, or runs for ever
                found[k] = verdict
                if log:
                    with log.open("a") as file:
                        file.write(json.dumps([str(k), verdict]) + "\n")
            jobs = late
        return found

    def survives(self, functions, code, items):
        for function in functions:
            if len(function.__code__.co_freevars) == len(code.co_freevars):
                function.__code__ = code
        return all(self.run(item) for item in items)


def spread(tests, budget):
    """(seconds, test) that take `budget` seconds in all: quick ones first, one of each kind before a second one."""
    rounds = {}
    for seconds, name in sorted(tests):
        rounds.setdefault("-".join(name.split("-")[:2]), []).append((seconds, name))  # a law on one backend
    queue = [(k, *test) for group in rounds.values() for k, test in enumerate(group)]
    chosen, total = [], 0.0
    for _, seconds, name in sorted(queue):
        total += seconds
        if chosen and total > budget:
            break
        chosen.append((seconds, name))
    return chosen


def sample(count, size, seed):
    """One number of each of `size` equal parts of range(count), in random order."""
    rng, size = random.Random(seed), min(size, count)
    chosen = [rng.randrange(count * i // size, count * (i + 1) // size) for i in range(size)]
    rng.shuffle(chosen)
    return chosen


def concurrently(works):
    """The results of functions that run in threads; the work itself is in the children that they fork."""
    if len(works) == 1:
        return [works[0]()]
    with concurrent.futures.ThreadPoolExecutor(len(works)) as pool:
        return list(pool.map(lambda work: work(), works))


# --- the score ------------------------------------------------------------------------------------------------------------------


def reasons():
    """{(module, survivor): reason} of tests/survivors.txt: a line [module], then a survivor and, indented, its reason"""
    found, module, survivor = {}, "", ""
    for line in REASONS.read_text(encoding="utf-8").splitlines() if REASONS.exists() else []:
        if line.startswith("["):
            module = line.strip("[]")
        elif line.startswith("    "):
            found[module, survivor] = line.strip()
        elif line and not line.startswith("#"):
            survivor = line
    return found


def score():
    """The table of what was measured, of all samples and of each; 1 where a survivor has no reason or nothing was measured."""
    samples, known = json.loads(RECORD.read_text())["samples"] if RECORD.exists() else {}, reasons()
    modules, open_ = {}, 0
    for seed, found in samples.items():
        total = collections.Counter()
        for module, line in found["modules"].items():
            judged = [known.get((module, s), "") for s in line["survivors"]]
            open_ += judged.count("")
            row = collections.Counter({key: line[key] for key in ("tried", "killed")})
            row["equivalent"] = sum(reason.startswith("equivalent") for reason in judged)
            row["since"] = sum(reason.startswith("killed since") for reason in judged)
            total += row
            modules[module] = modules.get(module, collections.Counter()) + row
        of = total["tried"] - total["equivalent"]
        print(f"sample {seed}, commit {found['made']['commit']}: {dict(total)}")
        print("  killed by the tests of that run {:.1%}, 95 % interval {:.1%} to {:.1%}".format(
            total["killed"] / max(1, of), *interval(total["killed"], of)))  # fmt: skip
        print(f"  with the tests written for it since {(total['killed'] + total['since']) / max(1, of):.1%}")
    print(f"{'module':36s}" + "".join(f"{name:>12s}" for name in ("tried", "killed", "since", "equivalent", "score")))
    for module, row in modules.items():
        share = (row["killed"] + row["since"]) / max(1, row["tried"] - row["equivalent"])
        cells = [row[key] for key in ("tried", "killed", "since", "equivalent")]
        print(f"{module:36s}" + "".join(f"{cell:12d}" for cell in cells) + f"{share:12.1%}")
    print(f"{open_} survivors without a reason in {REASONS.relative_to(ROOT)}")
    return 1 if open_ or not samples else 0


def interval(hits, of, z=1.96):
    """Wilson's 95 % interval of a share; strata make it narrower, if anything."""
    share, of = hits / max(1, of), max(1, of)
    centre, half = share + z * z / (2 * of), z * math.sqrt(share * (1 - share) / of + z * z / (4 * of * of))
    return (centre - half) / (1 + z * z / of), (centre + half) / (1 + z * z / of)


def main():
    parser = argparse.ArgumentParser(description="Mutation testing of modules of the library.")
    parser.add_argument(
        "modules", nargs="*", type=pathlib.Path, help="files of sepmat (default: the core, for the record)"
    )
    parser.add_argument("--score", action="store_true", help="print the score of what was measured so far")
    parser.add_argument("--budget", type=float, default=20.0, help="seconds of tests for each mutant (default 20)")
    parser.add_argument("--sample", type=int, help="so many mutants of them all (default: every one)")
    parser.add_argument("--seed", type=int, default=0, help="of the sample")
    parser.add_argument("--jobs", type=int, default=1, help="mutants at a time")
    parser.add_argument(
        "--seconds", type=float, default=math.inf, help="stop after this time; the same command goes on"
    )
    parser.add_argument(
        "--again", action="store_true", help="only those that survived, with another budget or better tests"
    )
    parser.add_argument("--control", action="store_true", help="change nothing: what is killed then is killed falsely")
    parser.add_argument("--reach", type=pathlib.Path, help="file that keeps which test calls which function")
    parser.add_argument("--tests", nargs="+", default=["tests", "sepmat"], help="tests to choose from (default: all)")
    options = parser.parse_args()
    if options.score:
        return score()
    options.whole = not options.modules and not options.control
    core = [path for path in sorted((ROOT / "sepmat").rglob("*.py")) if not APART & set(path.parts[len(ROOT.parts) :])]
    options.modules = [path.resolve() for path in options.modules] or core
    flags = ["-p", "no:cacheprovider", "-p", "no:terminal", "-W", "error", "-o", "addopts=", "--strict-markers"]
    flags += ["--doctest-modules", *(f"--ignore=sepmat/{name}" for name in APART)]
    return int(pytest.main([*flags, "--hypothesis-profile=mutation", *options.tests], plugins=[Runner(options)]))


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.exit(main())
