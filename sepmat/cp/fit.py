"""The fit of a core by r terms under a bound on κ: which starts, how λ falls, what is returned."""

import dataclasses
import math
from typing import Any

from .. import _array
from .._array import Array
from .cores import Core, Factors, balanced, scales, terms_norm, unit
from .optimise import Point, alternate, descend, point
from .starts import grown, pencil_start, random_start

# λ where the random starts begin: from a large one all come to the same minimiser, which need not be the best for small λ
FIRST = (1e-2, 1e-6, 1e-4, 1e-6, 1e-6)
STEP, LEAP = 1e-1, 1e-8  # what λ is multiplied with, also when the fit is good
SPENT = 1e-5  # share of J below which the penalty has no say in the error
GAIN = 1e-5  # of the objective, below which a step is not worth taking on the way to smaller λ
MOST = 1e2  # the largest λ that is tried
MANY = 1e7  # multiplications of one step beyond which starts are few
UNKNOWNS = 600  # up to which steps of Levenberg–Marquardt are affordable; beyond, alternating least squares alone
CLOSE = 0.97  # how near to the bound a condition number is brought


@dataclasses.dataclass(frozen=True)
class Result:
    """Σ_l weights_l f_1^l ∘ … ∘ f_d^l, unit columns, largest weight first."""

    weights: Array
    factors: Factors
    residual: float  # ‖Ĉ − C‖ / ‖target‖, without what the caller left out
    converged: bool
    iterations: int


@dataclasses.dataclass(frozen=True)
class Problem:
    """A core scaled so that the whole target has norm 1, and what is asked of its fits."""

    core: Core
    rest: float  # the share of the target outside the core: no fit does better
    goal: float  # the residual that is enough
    cap: float
    floor: float  # λ
    fixed: bool  # λ is what the caller asked for
    rng: Any

    def condition(self, p: Point) -> float:
        norm = terms_norm(p.factors)
        return p.size / norm if norm else math.inf

    def feasible(self, p: Point) -> bool:
        return self.condition(p) <= self.cap

    def good(self, p: Point) -> bool:
        """Nothing better is worth a search: enough, or the error is that of the target outside the core, or round-off."""
        return p.residual <= max(self.goal, 0.03 * self.rest, 300 * math.sqrt(self.smallest))

    def value(self, p: Point) -> float:
        """What is to be small: the error, or J where λ is what the caller asked for."""
        return p.objective if self.fixed else stretched(self, p).residual

    @property
    def smallest(self) -> float:
        return _array.unit_roundoff(_array.array_namespace(self.core.like), self.core.like.dtype) ** 2

    def starts(self, terms: int) -> list[tuple[Factors, float]]:
        """Random factors and the λ they begin with; two for each rank that a tolerance tries, and where they take long."""
        few = self.goal or self.core.flops(terms) > MANY
        return [(random_start(self.core, terms, self.rng), penalty) for penalty in FIRST[: 2 if few else None]]

    def second_order(self, p: Point) -> bool:
        return sum(self.core.sizes) * p.factors[0].shape[1] <= UNKNOWNS

    def improve(self, p: Point, penalty: float, steps: int, gain: float) -> Point:
        """By second-order steps where they are affordable, else by sweeps."""
        if self.second_order(p):
            found = descend(self.core, p, penalty, steps, gain)
        else:
            found = alternate(self.core, p.factors, penalty, steps, 10 * gain)
        return dataclasses.replace(found, steps=p.steps + found.steps)


def fit_core(
    core: Core,
    rank: int | None = None,
    tol: float | None = None,
    max_condition: float | None = None,
    penalty: float | None = None,
    rng: Any = None,
    rest: float = 0.0,
    start: Factors | None = None,
    least: int = 1,
    most: int | None = None,
) -> Result:
    """The best r terms that are found for a core.

    rank, or the smallest one with √(‖Ĉ − C‖² + rest²) <= tol ‖target‖, where rest is the norm of what the target has
    outside the core, from `least` to `most`. κ <= max_condition in what is returned, always; penalty fixes λ / ‖target‖²
    instead. start: factors to begin with beside those that are found here.
    """
    order, xp = core.order(), _array.array_namespace(core.like)
    if not core.norm:
        none = [xp.zeros((n, 0), dtype=core.like.dtype, device=_array.device(core.like)) for n in core.sizes]
        return Result(scales(none), none, 0.0, True, 0)
    scale = math.hypot(core.norm, rest)
    target = core.arranged(order, 1 / scale)
    cap = math.inf if max_condition is None else max_condition * (1 - 1e-9)
    smallest = _array.unit_roundoff(xp, target.like.dtype) ** 2
    floor = smallest if penalty is None else max(penalty, smallest)
    goal = 0.0 if tol is None else math.sqrt(max(0.0, tol**2 - (rest / scale) ** 2))
    problem = Problem(target, rest / scale, goal, cap, floor, penalty is not None, rng)
    warm = None if start is None else [start[k] for k in order]
    found = smallest_rank(problem, least, most, warm) if rank is None else best_of_rank(problem, rank, warm)
    factors = balanced(found.factors)
    weights = scales(factors) * scale
    ranked = xp.argsort(weights, descending=True)[: int(xp.sum(xp.astype(weights > 0, xp.int64)))]
    columns = [xp.take(unit(U), ranked, axis=1) for U in factors]
    placed = [columns[order.index(k)] for k in range(len(order))]
    return Result(
        xp.take(weights, ranked), placed, found.residual, found.settled or found.residual <= goal, found.steps
    )


def best_of_rank(problem: Problem, terms: int, warm: Factors | None = None) -> Point:
    """The best of several starts, and the first that cannot be improved on. A matrix has its singular triplets."""
    if sum(n > 1 for n in problem.core.sizes) <= 2 and not problem.fixed:
        return safe(problem, terms)
    steps, paths = 0, []
    starts = problem.starts(terms)
    algebraic = pencil_start(problem.core, terms, problem.rng)
    if algebraic is not None:
        p = alternate(problem.core, algebraic, problem.floor, 3)
        p = problem.improve(p, problem.floor, 30, 1e-6)
        steps += p.steps
        if problem.good(p) and problem.feasible(p):
            return dataclasses.replace(p, steps=steps)
        starts[0] = (algebraic, FIRST[0])
    if warm is not None:
        starts = [(warm, FIRST[1]), *starts[:-1]]
    for start, penalty in starts:
        paths.append(anneal(problem, start, penalty))
        steps += paths[-1][-1].steps
        if problem.good(paths[-1][-1]):
            break
    if problem.cap < math.inf:
        paths.append([safe(problem, terms)])
    path = min(paths, key=lambda path: problem.value(path[-1]))
    if problem.goal and path[-1].residual <= problem.goal:
        return dataclasses.replace(path[-1], steps=steps, settled=True)
    polished = problem.improve(dataclasses.replace(path[-1], steps=0), path[-1].penalty, 300, 1e-8)
    steps += polished.steps
    if problem.feasible(polished):
        best = polished
    else:  # the last minimiser was not one yet
        near = approach(problem, next((p for p in reversed(path) if p.settled), path[0]), polished)
        best = min(path[-1], near, key=problem.value)
    bound = problem.condition(best) >= CLOSE * problem.cap  # more accuracy would cost more κ than is allowed
    return dataclasses.replace(stretched(problem, best), steps=steps, settled=best.settled or bound)


def anneal(problem: Problem, start: Factors, first: float) -> list[Point]:
    """Minimisers for falling λ, each the start of the next, down to the floor or to the bound on κ.

    Where the error no longer comes from the penalty λ stays: terms that cancel more would gain nothing.
    """
    penalty = max(first, problem.floor)
    path = [problem.improve(alternate(problem.core, start, penalty, 10), penalty, 60, GAIN)]
    if not problem.feasible(path[-1]):
        found = path[-1]
        while not problem.feasible(found):
            if penalty > MOST:
                return [safe(problem, start[0].shape[1])]
            outside, penalty = found, 10 * penalty
            found = problem.improve(outside, penalty, 60, GAIN)
        return [approach(problem, found, outside)]
    while penalty > problem.floor:
        last = path[-1]
        spent = penalty * last.size**2 <= SPENT * last.residual**2
        if not problem.fixed and (last.residual <= problem.goal or (spent and not problem.good(last))):
            break
        step = LEAP if problem.good(last) else STEP if problem.second_order(last) else STEP**2
        penalty = max(problem.floor, penalty * step)
        found = problem.improve(last, penalty, 60, GAIN)
        if not problem.feasible(found):
            return [*path, approach(problem, last, found)]
        path.append(found)
    return path


def approach(problem: Problem, inside: Point, outside: Point) -> Point:
    """λ between two values so that κ comes close to the bound from below: regula falsi for log κ over log λ."""
    aim = math.log(problem.cap * (1 + CLOSE) / 2)
    low, high = math.log(outside.penalty), math.log(inside.penalty)
    below, above = math.log(problem.condition(inside)), math.log(problem.condition(outside))
    for _ in range(15):
        if below >= math.log(CLOSE * problem.cap) or high - low < 1e-3:
            break
        share = min(0.9, max(0.1, (above - aim) / (above - below))) if above < math.inf else 0.5
        found = problem.improve(inside, math.exp(low + share * (high - low)), 60, 1e-5)
        if problem.feasible(found):
            inside, high, below = found, math.log(found.penalty), math.log(problem.condition(found))
        else:
            low, above = math.log(found.penalty), math.log(problem.condition(found))
    return inside


def stretched(problem: Problem, p: Point) -> Point:
    """The terms times 1 + λ κ², which undoes what the penalty took of their size: κ stays, the error falls.

    At a minimiser <A, Â> = ‖Â‖² + λ Σ s_l², so this is the best multiple of Â. Where the caller asked for λ it is J that
    counts, and nothing is stretched.
    """
    if problem.fixed or p.penalty == problem.floor:
        return p
    factor = 1 + p.penalty * problem.condition(p) ** 2
    return point(problem.core, [p.factors[0] * factor, *p.factors[1:]], p.penalty, p.steps, p.settled)


def safe(problem: Problem, terms: int) -> Point:
    """Orthonormal terms, so κ = 1, whatever the target."""
    core, found = problem.core, problem.core.orthonormal(terms)
    if found[0].shape[1] == 1:
        found = alternate(core, found, problem.floor, 50).factors
    missing = terms - found[0].shape[1]
    xp = _array.array_namespace(core.like)
    zeros = [xp.zeros((n, missing), dtype=core.like.dtype, device=_array.device(core.like)) for n in core.sizes]
    padded = [xp.concat((U, Z), axis=1) for U, Z in zip(found, zeros, strict=True)]
    return point(core, padded, problem.floor, settled=True)


def smallest_rank(problem: Problem, least: int, most: int | None, warm: Factors | None) -> Point:
    """The first of growing ranks that reaches the goal; from steps of more than one, halved back to the smallest."""
    sizes = problem.core.sizes
    possible = max(1, math.prod(sizes) // max(sizes))
    most = possible if most is None else min(most, possible)
    terms, failed = min(least, most), min(least, most) - 1
    best = best_of_rank(problem, terms, warm)
    steps = best.steps
    while best.residual > problem.goal and terms < most:
        failed, terms = terms, min(most, terms + max(1, terms // 4))
        best = best_of_rank(problem, terms, grown(problem.core, best.factors, terms, problem.rng))
        steps += best.steps
    while terms - failed > 1:
        middle = (terms + failed) // 2
        found = best_of_rank(problem, middle)
        steps += found.steps
        if found.residual <= problem.goal:
            best, terms = found, middle
        else:
            failed = middle
    return dataclasses.replace(best, steps=steps)
