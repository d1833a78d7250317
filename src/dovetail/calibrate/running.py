"""A recipe in, boundaries out: measure candidates over a handful of prompts, choose, compare, write it all down.

What has been measured of a prompt is kept in the output folder, so a run that was stopped goes on where it was.
"""

import math
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property, partial
from itertools import groupby
from pathlib import Path
from statistics import median
from typing import Any

from torch import Tensor

from dovetail import recipe as recipes
from dovetail.calibrate import choose, comparing
from dovetail.calibrate.ahead import check, check_steps, unminded
from dovetail.calibrate.candidates import Case, Part, Ready, case_of, in_steps, ready, stages_of
from dovetail.calibrate.choose import Schedule
from dovetail.calibrate.curves import Measured, measure
from dovetail.calibrate.judging import Features, oracle, pixels
from dovetail.calibrate.prompts import usual
from dovetail.calibrate.report import Kept, kept, written
from dovetail.calibrate.stability import Rule, Stability, stability
from dovetail.core.ladders import Ladder
from dovetail.errors import RecipeError
from dovetail.recipe import Recipe, models
from dovetail.run import Cast, load
from dovetail.run.cast import check_spaces
from dovetail.run.decoding import pixels_of
from dovetail.run.sealed import fingerprint
from dovetail.video.places import checked_folder

BUDGET = 0.55
"""The share of the large expert's cost that is allowed, unless another is said."""


@dataclass(frozen=True)
class Look:
    """Progress: what is being done, for which prompt (from 1) of how many, at which step of how many."""

    doing: str
    prompt: int
    prompts: int
    step: int = 0
    steps: int = 0


@dataclass(frozen=True)
class Settings:
    """How to calibrate.

    prompts, unseen: to measure with, and to compare on; the usual ones without. also: of `candidates.KINDS`. by: the
    rule whose boundaries the written recipe has. budget: share of the large expert's cost, `BUDGET` without. error:
    share of the small one's error; with it `budget` does not count: rule budget takes the cheapest interval that errs
    no more, and dp the schedule that errs least for what that costs. features: "pixels", "oracle" or an image encoder's
    weights; with them videos are made, for the sweeps and to compare the choices. follow: in how many looks of the
    large expert an error is followed to the video; see `curves.measure`.
    """

    prompts: tuple[str, ...] = ()
    unseen: tuple[str, ...] = ()
    also: tuple[str, ...] = ()
    by: str = "budget"
    budget: float | None = None
    error: float | None = None
    features: str | None = None
    follow: int = 1


@dataclass(frozen=True, eq=False)
class Calibration:
    """What was found. curves: candidate -> view -> measure -> median over prompts at each step; weighted: gain times
    state error; choices: by rule, over `case.candidates`; likeness: of the choices' videos, on unseen prompts;
    stability: by rule of two experts, over prompts drawn anew; none for one prompt."""

    case: Case
    ladder: Ladder
    curves: Mapping[str, Mapping[str, Mapping[str, Sequence[float]]]]
    gains: Mapping[str, Sequence[float]]
    weighted: Mapping[str, Sequence[float]]
    choices: Mapping[str, Schedule]
    recipe: Recipe
    files: tuple[Path, ...]
    likeness: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    stability: Mapping[str, Stability] = field(default_factory=dict)

    def boundaries(self, rule: str) -> tuple[float, ...]:
        """Noise shares at which a rule's schedule changes experts."""
        choice = self.choices[rule].choice
        return tuple(self.ladder.between(k) for k in range(1, len(choice)) if choice[k] != choice[k - 1])

    def placed(self, rule: str) -> str:
        """Who takes which steps by a rule's schedule, as `large above 0.833, small above 0.193, large below`."""
        who = [spelt(self.case.names[who]) for who, _ in groupby(self.choices[rule].choice)]
        if len(who) == 1:
            return f"{who[0]} at every step"
        above = [f"{name} above {bound:.3f}" for name, bound in zip(who, self.boundaries(rule), strict=False)]
        return ", ".join([*above, f"{who[-1]} below"])


def spelt(name: str) -> str:
    """A candidate's name, to stand among others.

    >>> spelt("large, cached, unguided"), spelt("small")
    ('large (cached, unguided)', 'small')
    """
    own, _, made = name.partition(", ")
    return f"{own} ({made})" if made else own


def calibrate(
    recipe: Recipe, out: Path, settings: Settings | None = None, cast: Cast | None = None, name: str = "recipe"
) -> Iterator[Look | Calibration]:
    """Calibrate a recipe's first blended stage; the last event is the result, written to `out` by then.

    Raises RecipeError, WeightsError, OutputError, and SpaceError for experts that do not share their latents.
    """
    settings = Settings() if settings is None else settings
    check(recipe, out, settings, loaded=cast is not None)
    cast = load(recipe) if cast is None else cast
    check_spaces(recipe, cast)
    case = case_of(recipe, cast, settings.also)
    prompts, unseen = (
        given or own for given, own in zip((settings.prompts, settings.unseen), usual(recipe), strict=True)
    )
    ladder = stages_of(recipe, case.place, case.candidates[0].part, cast)[-1].ladder
    check_steps(case.stage.stage, ladder, settings)
    _affordable(case, ladder, settings)
    checked_folder(out)
    rows = []
    for i in range(len(prompts)):
        rows.append((yield from _measured(case, cast, prompts, i, out, settings.follow)))
    curves, gains, weighted = _medians(case, rows)
    choices, missing = _choices(case, ladder, curves, weighted, settings)
    stable, unsure = _stable(case, ladder, rows, settings, choices)
    case = replace(case, notes=(*case.notes, *missing, *unminded(settings), *unsure))
    likeness: dict[str, dict[str, float]] = {}
    if settings.features is not None:
        work = _Work(case, cast, _features(settings.features), settings.features, out)
        choices["sweep"] = yield from work.swept(prompts, weighted)
        fewer = work.fewer(choices[settings.by], ladder.steps)
        likeness = yield from work.compared(unseen, choices, fewer)
        case = replace(case, notes=(*case.notes, *_outdone(likeness, settings.by, fewer)))
    found = filled(case, ladder, choices[settings.by], settings.by)
    result = Calibration(case, ladder, curves, gains, weighted, choices, found, (), likeness, stable)
    files = written(result, out, name, prompts)
    yield replace(result, files=files)


# --- measuring ---------------------------------------------------------------------------------------------------


def _measured(
    case: Case, cast: Cast, prompts: Sequence[str], i: int, out: Path, follow: int
) -> Generator[Look, None, list[dict[str, Any]]]:
    """The steps of one prompt, as plain data: from the output folder, if they are there."""
    prompt, seed = prompts[i], case.recipe.video.seed
    file = kept(out, f"curves-{follow}", case.digest, prompt, seed)
    if file.read() is None:
        at = ready(case, cast, prompt, seed)
        others = dict(zip(case.names[1:], at.denoisers[1:], strict=True))
        steps = []
        walk = (at.x, at.frames, at.stage.ladder, at.stage.solver, follow, at.leaving)
        for look in measure(at.denoisers[0], others, *walk):
            steps.append(_plain(look))
            yield Look("measuring", i + 1, len(prompts), look.step + 1, at.stage.ladder.steps)
        file.write(steps)
    found = file.read()
    assert isinstance(found, list)
    return found


def _plain(look: Measured) -> dict[str, Any]:
    gaps = {name: {view: asdict(gap) for view, gap in seen.items()} for name, seen in look.gaps.items()}
    return {"t": look.t, "gaps": gaps, "gains": dict(look.gains)}


def _medians(case: Case, rows: Sequence[Sequence[Mapping[str, Any]]]) -> tuple[Any, Any, Any]:
    """Medians over prompts at each step: of each measure, of the gains, and of gain times state error. Near noise a push
    turns the videos of a few prompts into others, and their errors, as followed to the video, would sway a mean."""
    steps = list(zip(*rows, strict=True))
    curves, gains, weighted = {}, {}, {}
    for name in case.names[1:]:
        views = rows[0][0]["gaps"][name]
        curves[name] = {
            view: {m: [median(row["gaps"][name][view][m] for row in step) for step in steps] for m in views[view]}
            for view in views
        }
        gains[name] = [median(row["gains"][name] or 0.0 for row in step) for step in steps]
        weighted[name] = [
            median((row["gains"][name] or 0.0) * row["gaps"][name]["guided"]["state"] for row in step) for step in steps
        ]
    return curves, gains, weighted


# --- choosing ----------------------------------------------------------------------------------------------------


def _choices(
    case: Case, ladder: Ladder, curves: Any, weighted: Any, settings: Settings
) -> tuple[dict[str, Schedule], list[str]]:
    """What the rules choose that need no video, and why those that are missing cannot. Rules of two experts take the
    cheapest of the recipe's own."""
    small, errors = small_of(case), errors_of(case, weighted)
    two = curves[case.names[small]]["guided"]["velocity"], errors[small]
    rules = _rules(case, ladder, settings)

    def any_() -> Schedule:
        budget = _budget(case, ladder, settings)
        if settings.error is not None:
            budget = Schedule.of(rules["budget"](*two), case.costs, errors).cost
        return choose.mixture(case.costs, errors, budget=budget, follows=case.follows)

    def of(rule: Rule) -> Callable[[], Schedule]:
        return lambda: Schedule.of(rule(*two), case.costs, errors)

    found, notes = {}, []
    for rule, choice in (*((rule, of(made)) for rule, made in rules.items()), ("dp", any_)):
        try:
            found[rule] = choice()
        except ValueError as problem:
            said = f"rule {rule}: {problem}; the large expert at all steps costs {case.costs[0] * ladder.steps:g}"
            if rule == settings.by:
                raise RecipeError(said) from None
            notes.append(said)
    return found, notes


def _rules(case: Case, ladder: Ladder, settings: Settings) -> dict[str, Rule]:
    """Rules of two experts, over the curves of the small one."""
    small, steps = small_of(case), ladder.steps

    def fit(velocity: Sequence[float], left: Sequence[float]) -> tuple[int, ...]:
        i, j = choose.two_knots(ladder.levels[:-1], velocity)
        return choose.sandwich(steps, i, steps - j, small)

    def budget(velocity: Sequence[float], left: Sequence[float]) -> tuple[int, ...]:
        costs, errors = (case.costs[0], case.costs[small]), ([0.0] * steps, left)
        if settings.error is None:
            found = choose.interval(costs, errors, budget=_budget(case, ladder, settings))
        else:
            found = choose.interval(costs, errors, error=settings.error * sum(left))
        return tuple(small if who else 0 for who in found.choice)

    return {"fit": fit, "budget": budget}


def _budget(case: Case, ladder: Ladder, settings: Settings) -> float:
    return _share(settings) * case.costs[0] * ladder.steps


def _share(settings: Settings) -> float:
    return BUDGET if settings.budget is None else settings.budget


def _affordable(case: Case, ladder: Ladder, settings: Settings) -> None:
    """Raises RecipeError where the rule to write cannot keep within the budget, whatever is measured."""
    if settings.by not in ("budget", "dp") or settings.error is not None:
        return
    least = case.costs[small_of(case)] * ladder.steps
    if settings.by == "dp":
        nothing = [[0.0] * ladder.steps for _ in case.costs]
        least = choose.cheapest(case.costs, nothing, 0.0, follows=case.follows).cost
    if least > _budget(case, ladder, settings) * (1 + 1e-9):
        share = least / case.costs[0] / ladder.steps
        other = ", or --by fit, which minds no cost" if ladder.steps >= choose.FEWEST else ""
        more = min(math.ceil(100 * share + 5), 100) / 100
        raise RecipeError(
            f"rule {settings.by}: no schedule costs {_share(settings):.0%} of {case.names[0]} at every step, or less; "
            f"the least is {share:.1%}: give a larger --budget, as in --budget {more:g}{other}"
        )


def _stable(
    case: Case, ladder: Ladder, rows: Sequence[Sequence[Mapping[str, Any]]], settings: Settings, rules: Iterable[str]
) -> tuple[dict[str, Stability], list[str]]:
    """How stable the rules of two experts are over prompts drawn anew, and a note where the one that is written is not."""
    name, known = case.names[small_of(case)], _rules(case, ladder, settings)
    curves = [
        (
            [step["gaps"][name]["guided"]["velocity"] for step in row],
            [(step["gains"][name] or 0.0) * step["gaps"][name]["guided"]["state"] for step in row],
        )
        for row in rows
    ]
    more = "measure over more prompts (--prompts FILE, one a line)"
    if len(rows) < 2:
        alone = f"rule {settings.by}: one prompt says nothing of others; {more}"
        return {}, [alone] if settings.by in known else []
    found = {rule: stability(known[rule], ladder, curves) for rule in rules if rule in known}
    it = found.get(settings.by)
    if it is None or it.firm:
        return found, []
    said = ", ".join(f"{pattern} {share:.0%}" for pattern, share in it.shares.items())
    drawn = f"{len(rows)} prompts drawn anew from these {len(rows)} give {said}"
    return found, [f"rule {settings.by}: {drawn}; with {it.letters}, boundaries lie in {it.where}: {more}"]


def small_of(case: Case) -> int:
    """The place of the cheapest candidate that the recipe itself names."""
    return max(i for i, name in enumerate(case.names) if ", " not in name)


def errors_of(case: Case, weighted: Mapping[str, Sequence[float]]) -> list[Sequence[float]]:
    """Gain times state error per candidate and step; the large expert's is 0."""
    return [[0.0] * len(weighted[case.names[1]]), *(weighted[name] for name in case.names[1:])]


def filled(case: Case, ladder: Ladder, schedule: Schedule, rule: str) -> Recipe:
    """The recipe with a schedule's boundaries in it."""
    choice, of = schedule.choice, list[tuple[float, Any]]()
    for k, who in enumerate(choice):
        if choice[k + 1 : k + 2] != (who,):
            above = of[-1][0] if of else 1.0
            of += _parts(case.candidates[who].part, above, ladder.between(k + 1) if k + 1 < len(choice) else 0.0)
    *most, (_, last) = of
    plain = {f"above {bound:.6f}": part.model_dump(mode="json") for bound, part in most}
    denoise = last.model_dump(mode="json")
    if plain:
        denoise = {"blended": {**plain, "else": denoise, "history": case.history}}
    about = f"{case.recipe.about} Boundaries found by dovetail calibrate, rule {rule}.".strip()
    return recipes.changed(case.recipe, {f"chain.{case.place}.denoise": denoise, "about": about[:2000]})


def _parts(part: Part, above: float, below: float) -> list[tuple[float, Part]]:
    """A candidate between two noise shares, and where it ends; for one that is blended itself, those in it."""
    if not isinstance(part, models.Blended):
        return [(below, part)]
    found = list[tuple[float, Part]]()
    for end, inner in zip((*part.boundaries, 0.0), part.of.values(), strict=True):
        if end < above and (not found or found[-1][0] > below):
            found.append((max(end, below), inner))
    return found


def _outdone(likeness: Mapping[str, Mapping[str, float]], rule: str, fewer: Iterable[str]) -> list[str]:
    """A note where the large expert in fewer steps comes nearer to itself than the schedule that is written."""
    own = likeness[rule]["normalised"]
    return [
        f"rule {rule}: {name}, which cost no more, come nearer to the large expert's video in all of its steps than this "
        f"schedule does ({likeness[name]['normalised']:.2f} of the way, and {own:.2f}): try fewer steps first"
        for name in fewer
        if likeness[name]["normalised"] > own
    ]


# --- comparing videos --------------------------------------------------------------------------------------------


def _features(name: str) -> Features:
    if name in ("pixels", "oracle"):
        return {"pixels": pixels, "oracle": oracle}[name]
    from dovetail.experts.encoders import load_encoder

    return load_encoder(name, "auto")


@dataclass(frozen=True, eq=False)
class _Work:
    """What it takes to make videos and compare them."""

    case: Case
    cast: Cast
    features: Features
    name: str
    out: Path

    @cached_property
    def compares(self) -> list[str]:
        """By what videos are compared, for keys of what is kept: an encoder by what it has learned, too."""
        module = getattr(self.features, "module", None)
        return [self.name] if module is None else [self.name, fingerprint(module)]

    def decode(self, latent: Tensor) -> Tensor:
        return comparing.frames_of(pixels_of(self.cast.codec, latent))

    def swept(self, prompts: Sequence[str], weighted: Mapping[str, Sequence[float]]) -> Generator[Look, None, Schedule]:
        """The paper's sweeps: first the early share, then, with it, the late one."""
        case, small, steps = self.case, small_of(self.case), len(weighted[self.case.names[1]])
        seed = case.recipe.video.seed
        rows: list[list[float]] = []
        tails: list[list[Sequence[float]]] = []
        sweep = partial(comparing.early_sweep, small=small, features=self.features, decode=self.decode, seed=seed)
        for i, prompt in enumerate(prompts):
            what, more = f"early-{self.name}-{case.history}", self.compares[1:] or None
            file = kept(self.out, what, case.digest, prompt, seed, more)
            rows.append((yield from self.of(file, Look("early sweep", i + 1, len(prompts)), prompt, sweep)))
        early = comparing.early_share(steps, rows)
        ends = partial(comparing.late_sweep, small=small, early=early, decode=self.decode, seed=seed)
        for i, prompt in enumerate(prompts):
            file = kept(self.out, f"late-{early}-{case.history}", case.digest, prompt, seed)
            tails.append((yield from self.of(file, Look("late sweep", i + 1, len(prompts)), prompt, ends)))
        late = comparing.late_share(steps, early, tails)
        return Schedule.of(choose.sandwich(steps, early, late, small), case.costs, errors_of(case, weighted))

    def fewer(self, schedule: Schedule, steps: int) -> dict[str, Case]:
        """By name, the large expert alone in as few steps as cost no more than a schedule; none where it saves nothing,
        or where that does not pay a single step."""
        few = int(schedule.cost / self.case.costs[0] * (1 + 1e-9))
        found = in_steps(self.case.recipe, self.case.place, few) if 0 < few < steps else None
        return {} if found is None else {f"{self.case.names[0]}, {few} steps": replace(self.case, recipe=found)}

    def compared(
        self, prompts: Sequence[str], choices: Mapping[str, Schedule], fewer: Mapping[str, Case]
    ) -> Generator[Look, None, dict[str, dict[str, float]]]:
        """The choices, the small expert alone and the large one in fewer steps, on prompts that they were not chosen on."""
        small, seed = small_of(self.case), self.case.recipe.video.seed
        steps = len(next(iter(choices.values())).choice)
        all_ = {rule: schedule.choice for rule, schedule in choices.items()} | {"small alone": (small,) * steps}
        rows, key = [], [self.compares, self.case.history, all_, list(fewer)]

        def made(at: Ready, prompt: str) -> dict[str, dict[str, float]]:
            others = {name: ready(case, self.cast, prompt, seed) for name, case in fewer.items()}
            found = comparing.compared(at, all_, self.features, self.decode, seed, others)
            return {scheme: asdict(likeness) for scheme, likeness in found.items()}

        for i, prompt in enumerate(prompts):
            file = kept(self.out, "compared", self.case.digest, prompt, seed, key)
            look, its_own = Look("comparing", i + 1, len(prompts)), partial(made, prompt=prompt)
            rows.append((yield from self.of(file, look, prompt, its_own)))
        return comparing.averaged([{name: comparing.Likeness(**each) for name, each in row.items()} for row in rows])

    def of(self, file: Kept, look: Look, prompt: str, made: Callable[[Ready], Any]) -> Generator[Look, None, Any]:
        """What is made of a prompt, and kept; said only where it is not there yet."""
        if file.read() is None:
            yield look
        return file.made(lambda: made(self.at(prompt)))

    def at(self, prompt: str) -> Ready:
        return ready(self.case, self.cast, prompt, self.case.recipe.video.seed)
