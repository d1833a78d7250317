"""FlowBlending on sprites: where two experts differ, and what boundaries found from that are worth.

    python benchmarks/flowblending.py run --experts trained --budget 90 --part 0/2 --threads 1
    python benchmarks/flowblending.py report --experts trained

`run` first measures the experts' divergence over prompts of its own, with two solvers and in several kinds of scenes,
and chooses boundaries (dovetail.calibrate); the folder benchmarks/results/flowblending-EXPERTS then holds the curves as
a picture. Then it makes videos of other prompts: one JSON line per way of taking the steps, prompt and seed in
flowblending-EXPERTS.jsonl. Nothing is made twice, so it may be killed and started again; changed recipes or weights are
new lines. Parts share files. `report` writes tables and answers beside them as text. Prompts are captions of scenes that
training never draws; noise is the same for all ways of a prompt and seed. Seconds are of this process alone on its
core (and, beside them, by the clock), without reading texts and without decoding.
"""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from math import hypot
from pathlib import Path
from statistics import fmean
from time import perf_counter, process_time
from typing import Any

import torch
from confiner_tables import Cell, scores
from flowblending_report import LEFT, Study, report
from flowblending_rows import BRIEF, BUDGET, MAIN, SECOND, Way, rows
from harness import HELD, add, arguments, mend, mine, must_be_rows, part_of, read, weights_of
from harness import key as digest_of
from machine import machine
from torch import Tensor

from dovetail import recipe as recipes
from dovetail import run
from dovetail.calibrate import Calibration, calibrate
from dovetail.calibrate.candidates import Case, Ready, cost, in_steps, latent_shape, ready
from dovetail.calibrate.comparing import film, frames_of
from dovetail.calibrate.judging import oracle, psnr, similarity
from dovetail.calibrate.report import kept
from dovetail.calibrate.running import Settings, small_of
from dovetail.core.noise import Noise
from dovetail.core.sampler import last, sample
from dovetail.core.stages import Stage
from dovetail.errors import PromptWarning
from dovetail.recipe import Recipe
from dovetail.recipe.build import build
from dovetail.run import Cast
from dovetail.sprites.oracle import judge
from dovetail.sprites.world import Ask, caption, imagine

DISTILLED = "sprites-flowblending-ldl"
RECIPES = {"trained": "sprites-flowblending", "exact": "sprites-flowblending-exact"}
OWN = HELD + 50_000
"""Scenes of these seeds and up are for calibrating alone."""
FIRST = 48
"""Of the prompts that videos are made of. Those before it told that gains are best followed in one look (docs/log.md), so
no table is of them."""
SWEPT = "oracle"
"""What the paper's sweep compares videos by, over the prompts to calibrate with."""
FOLLOW = 1
"""Looks in which an error is followed to the video."""
ALSO = ("unguided", "halved", "shortened", "cached")
SHIFT = 5.0
"""Of the ladder on which boundaries are tried as well; that of the recipe has 3."""
MOVING = tuple(Ask(motion=way) for way in ("left", "right", "up", "down"))
SCENES: Mapping[str, tuple[Ask, ...]] = {
    "all": (Ask(),),
    "moving": MOVING,
    "pulsing in place": (Ask(motion="pulsing"),),
    "textured": (Ask(texture="dotted", pattern="striped"), Ask(texture="dotted", pattern="checkered")),
    "plain": (Ask(texture="solid", pattern="plain"),),
}
"""Kinds of scenes, over which boundaries are compared."""


@dataclass
class Purse:
    """Core-minutes to spend; a decision to stop is only ever made between two things that are whole."""

    minutes: float
    begun: float = field(default_factory=process_time)

    @property
    def empty(self) -> bool:
        return process_time() - self.begun >= 60 * self.minutes


def main(argv: Sequence[str] | None = None) -> None:
    parser = arguments(__doc__, RECIPES, 60, "core-minutes, after which nothing new is begun")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--calibrate", type=int, default=16, metavar="N", help="prompts to calibrate with")
    parser.add_argument("--set", action="append", default=[], metavar="PATH=VALUE", help="change the recipe")
    args = parser.parse_args(argv)
    part = part_of(args)
    warnings.simplefilter("ignore", PromptWarning)
    recipe = recipes.changed(recipes.load(RECIPES[args.experts]), args.set)
    folder = args.results / f"flowblending-{args.experts}"
    purse = Purse(args.budget if args.verb == "run" else 0)  # a report measures nothing
    found = calibrated(recipe, folder, args.calibrate, part, purse)
    if found is None:
        print("not calibrated yet: budget spent; run (again) to go on")
        return
    brief = in_brief(recipe, found[MAIN].ladder.steps, folder, args.calibrate, part, purse)
    own = ladders(recipe, found, brief, folder, args.calibrate, part, purse)
    scenes = list(kinds(recipe, folder, args.calibrate, part, purse))
    file, key = folder.with_suffix(".jsonl"), fingerprint(found, recipe)
    must_be_rows(parser, args.only, rows(found, FIRST, brief))
    if args.verb == "run":
        asked_ = range(FIRST, FIRST + args.prompts)
        cells = [Cell(p, s) for s in range(args.seeds) for p in asked_ if mine(p, part)]
        play(recipe, found, brief, cells, args.only, file, key, purse)
    lines = [line for line in read(file) if line["key"] == key and line["prompt"] >= FIRST]
    text = report(lines, found, own, scenes, args.experts, brief)
    folder.with_suffix(".txt").write_text(text, encoding="utf-8")
    print(text)


def fingerprint(found: Mapping[str, Calibration], recipe: Recipe) -> str:
    """What a way's results depend on, beside itself: the recipe, who the candidates are, the weights."""
    others = [] if is_exact(recipe) else [weights_of(recipes.load(DISTILLED))]
    return digest_of(*(result.case.digest for result in found.values()), weights_of(recipe), *others)


def is_exact(recipe: Recipe) -> bool:
    return any(spec.family == "exact" for spec in recipe.experts.values())


# --- calibrating -------------------------------------------------------------------------------------------------


def asked(kind: str, count: int) -> tuple[str, ...]:
    """The captions of this many scenes of a kind."""
    asks = SCENES[kind]
    return tuple(caption(imagine(asks[i % len(asks)], OWN + i).ask) for i in range(count))


def shared(kind: str, count: int, part: tuple[int, int]) -> tuple[str, ...]:
    """The same captions, those that are a part's own first."""
    prompts, first = asked(kind, count), part[0] * count // part[1]
    return prompts[first:] + prompts[:first]


def calibrated(
    recipe: Recipe, folder: Path, count: int, part: tuple[int, int], purse: Purse
) -> dict[str, Calibration] | None:
    """Boundaries for each solver, from all prompts together; None where the purse is empty before.

    A part begins with its own share of the prompts, and finds what others have measured by then.
    """
    found = {}
    prompts = shared("all", count, part)
    # The sweep comes with a comparison on unseen prompts. That is made here, over many, and of one prompt there.
    sweep = {"features": SWEPT, "unseen": asked("all", 1)}
    for solver, more in ((MAIN, {"also": ALSO, **sweep}), (SECOND, {})):
        settings = Settings(prompts, by="budget", budget=BUDGET, follow=FOLLOW, **more)
        changed = recipes.changed(recipe, {"chain.0.solver": solver})
        result = finished(changed, folder if solver == MAIN else folder / solver, settings, purse)
        if result is None:
            return None
        found[solver] = result
    return found


def in_brief(
    recipe: Recipe, steps: int, folder: Path, count: int, part: tuple[int, int], purse: Purse
) -> Calibration | None:
    """Boundaries on the same ladder in fewer steps, for the same operations; None where the purse is empty before."""
    few = round(BRIEF * steps)
    changed = in_steps(recipes.changed(recipe, {"chain.0.solver": MAIN}), 0, few)
    assert changed is not None
    settings = Settings(shared("all", count, part), also=ALSO, by="budget", budget=BUDGET * steps / few, follow=FOLLOW)
    return finished(changed, folder / f"{few}-steps", settings, purse)


def ladders(
    recipe: Recipe,
    found: Mapping[str, Calibration],
    brief: Calibration | None,
    folder: Path,
    count: int,
    part: tuple[int, int],
    purse: Purse,
) -> dict[str, Study]:
    """What was measured on each ladder, and on one of another shift; as far as the purse reaches."""
    places = {MAIN: (found[MAIN], folder), SECOND: (found[SECOND], folder / SECOND)}
    if brief is not None:
        places[f"{MAIN}, {brief.ladder.steps} steps"] = brief, folder / f"{brief.ladder.steps}-steps"
    changed = recipes.changed(recipe, {"chain.0.solver": MAIN, "chain.0.ladder.shifted.shift": SHIFT})
    out = folder / f"shift-{SHIFT:g}"
    result = finished(changed, out, Settings(shared("all", count, part), by="fit", follow=FOLLOW), purse)
    if result is not None:
        places[f"{MAIN}, shift {SHIFT:g}"] = result, out
    return {name: study(result, "all", place, FOLLOW, count) for name, (result, place) in places.items()}


def finished(recipe: Recipe, out: Path, settings: Settings, purse: Purse) -> Calibration | None:
    for event in calibrate(recipe, out, settings, run.load(recipe)):
        if isinstance(event, Calibration):
            return event
        if purse.empty:
            return None
    return None


def kinds(recipe: Recipe, folder: Path, count: int, part: tuple[int, int], purse: Purse) -> Iterator[Study]:
    """What the two experts alone show in each kind of scene, in shorter and in smaller videos; as far as the purse
    reaches."""
    video = recipe.video
    half = {"video.frames": (video.frames + 1) // 2}
    small = {"video.height": video.height * 3 // 4, "video.width": video.width * 3 // 4}
    changed = [("half as long", "all", half), ("three quarters as high and wide", "all", small)]
    for name, kind, change in [*((kind, kind, {}) for kind in SCENES), *changed]:
        settings = Settings(shared(kind, count, part), by="fit", follow=FOLLOW)
        out = folder / name.replace(" ", "-")
        result = finished(recipes.changed(recipe, change), out, settings, purse)
        if result is None:
            return
        found = study(result, name, out, FOLLOW, count, kind)
        yield found
        if name == "moving":
            yield from paced(found, result, out, asked(kind, count), purse)


def paced(whole: Study, found: Calibration, out: Path, prompts: Sequence[str], purse: Purse) -> Iterator[Study]:
    """The slower and the faster half of the scenes: the world has no word for speed, so by the large expert's videos."""
    case = found.case
    files = [kept(out, "speed", case.digest, prompt, case.recipe.video.seed) for prompt in prompts]
    if missing := [(file, prompt) for file, prompt in zip(files, prompts, strict=True) if file.read() is None]:
        if purse.empty:
            return
        cast = run.load(case.recipe)
        for file, prompt in missing:
            file.write(speed(case, cast, prompt))
    speeds = [file.read() for file in files]
    order = sorted(range(len(speeds)), key=lambda i: speeds[i])
    for pace, half in (("slower", order[: len(order) // 2]), ("faster", order[len(order) // 2 :])):
        name = f"moving, the {pace} half: {fmean(speeds[i] for i in half):.2f} px per frame"
        yield replace(whole, name=name, curves=tuple(whole.curves[i] for i in half))


@torch.no_grad()
def speed(case: Case, cast: Cast, prompt: str) -> float:
    """How far the object of the large expert's video goes from frame to frame, in pixels."""
    at = ready(case, cast, prompt, case.recipe.video.seed)
    whole = film(at, (0,) * at.stage.ladder.steps, _itself)
    return judge(frames_of(cast.codec.decode(whole)), prompt).speed


def study(found: Calibration, name: str, out: Path, follow: int, count: int, kind: str = "all") -> Study:
    """The curves of each prompt, as they were measured."""
    case, small = found.case, found.case.names[small_of(found.case)]
    rows_ = [
        kept(out, f"curves-{follow}", case.digest, prompt, case.recipe.video.seed).read()
        for prompt in asked(kind, count)
    ]
    curves = []
    for steps in rows_:
        gaps = [step["gaps"][small]["guided"] for step in steps]
        own = {measure: [gap[measure] for gap in gaps] for measure in gaps[0]}
        # On the straight path an error of the video is t of the velocity's, and one of the noise 1 - t of it.
        levels = found.ladder.levels
        own["noise"] = [(1 - t) / t * gap for t, gap in zip(levels, own["video"], strict=False)]
        own["v"] = [hypot(t, 1 - t) / t * gap for t, gap in zip(levels, own["video"], strict=False)]
        own[LEFT] = [(s["gains"][small] or 0.0) * s["gaps"][small]["guided"]["state"] for s in steps]
        curves.append(own)
    costs = case.costs[0], case.costs[small_of(case)]
    return Study(name, follow, tuple(found.ladder.levels[:-1]), tuple(curves), costs)


# --- videos ------------------------------------------------------------------------------------------------------


def play(
    recipe: Recipe,
    found: Mapping[str, Calibration],
    brief: Calibration | None,
    cells: Sequence[Cell],
    only: Sequence[str] | None,
    file: Path,
    key: str,
    purse: Purse,
) -> None:
    """Make what is missing, until the purse is empty."""
    there = {(line["way"], line["key"], line["prompt"], line["seed"]) for line in read(file)}
    mend(file)
    cast, last = run.load(recipe), -1
    for done, cell in enumerate(cells):
        ways = {way.name: way for name, way in rows(found, cell.prompt, brief).items() if only is None or name in only}
        todo = [way for name, way in ways.items() if (name, key, cell.prompt, cell.seed) not in there]
        todo = [way for way in todo if way.distilled is None or not is_exact(recipe)]
        if todo and is_exact(recipe) and cell.prompt != last:
            # Exact experts keep the candidates of the prompts they were asked for last.
            cast, last = run.load(recipe), cell.prompt
        stages = {solver: Stand(result.case, cast, cell) for solver, result in found.items()}
        for way in todo:
            if purse.empty:
                print(f"budget spent: {done} of {len(cells)} prompts made; run again to go on", flush=True)
                return
            line = {"way": way.name, "key": key, "prompt": cell.prompt, "seed": cell.seed}
            line |= stages[way.solver].made(way) | {"machine": machine()}
            add(file, line)
        print(f"{done + 1}/{len(cells)}  {cell}", flush=True)


@dataclass(frozen=True, eq=False)
class Stand:
    """All that a solver's videos of a cell share."""

    case: Case
    cast: Cast
    cell: Cell

    @cached_property
    def at(self) -> Ready:
        return self.looked(self.case)

    def looked(self, case: Case) -> Ready:
        """Everyone has looked once by then, so that nobody's seconds hold the reading of texts."""
        at = ready(case, self.cast, caption(self.cell.scene.ask), self.cell.noise)
        with torch.no_grad():
            for denoise in at.together:
                denoise(at.x, at.stage.ladder.levels[0], at.frames)
        return at

    @cached_property
    def whole(self) -> Tensor:
        """The large expert's frames."""
        return self.decoded(film(self.at, (0,) * self.at.stage.ladder.steps, _itself))

    def decoded(self, latent: Tensor) -> Tensor:
        return frames_of(self.cast.codec.decode(latent))

    def start(self, how: str) -> Tensor:
        """The first latent: as it is, of another seed, or with its noise changed by 1 %."""
        x, stage = self.at.x, self.at.stage.name
        if not how:
            return x
        other = Noise(self.cell.noise + 1_000_000_000).of(stage).like(x, self.at.frames, "start")
        other = other * float(x.std() / other.std())
        return other if how == "other seed" else (x + 0.01 * other) / (1 + 0.01**2) ** 0.5

    @torch.no_grad()
    def made(self, way: Way) -> dict[str, Any]:
        at, x, whole = self.at, self.start(way.start), self.whole
        stage, flops = self.between(*way.distilled) if way.distilled else (None, self.spent(way.choice))
        if stage is None and len(way.choice) != at.stage.ladder.steps:
            at = self.in_steps(len(way.choice))
        clock, spent = perf_counter(), process_time()
        latent = made_by(stage, x, at.frames) if stage else film(at, way.choice, _itself, x)
        took = {"seconds": process_time() - spent, "clock": perf_counter() - clock}
        video = self.decoded(latent)
        likeness = {"psnr": psnr(video, whole), "agreement": similarity(oracle, video, whole)}
        return {"scores": scores(video, self.cell.scene) | likeness, "flops": flops, **took}

    def spent(self, choice: Sequence[int]) -> float:
        return sum(self.case.costs[who] for who in choice)

    def in_steps(self, steps: int) -> Ready:
        """The same on a ladder of so many steps."""
        recipe = in_steps(self.case.recipe, self.case.place, steps)
        assert recipe is not None
        return self.looked(replace(self.case, recipe=recipe))

    def between(self, early: int, late: int) -> tuple[Stage, float]:
        """LDL with this many large steps, which has looked once too, and its operations."""
        levels, cast = self.at.stage.ladder.levels, distilled()
        bounds = [(levels[k - 1] + levels[k]) / 2 for k in (early, len(levels) - 1 - late)]
        recipe = parted(recipes.load(DISTILLED), *bounds)
        video = recipes.plain(self.case.recipe)["video"] | {"seed": self.cell.noise}
        recipe = recipes.changed(recipe, {"prompt": caption(self.cell.scene.ask), "video": video})
        (stage,) = build(recipe, cast.experts, latent_shape(recipe, cast)[1:])
        own = stage.ladder.steps - early - late
        for level in (1.0, sum(bounds) / 2):
            stage.denoise(self.at.x, level, self.at.frames)
        small = recipe.chain[0].denoise.of[parts_of(bounds)[1]]
        return stage, (early + late) * self.case.costs[0] + own * cost(recipe, 0, small, cast)


@cache
def distilled() -> Cast:
    return run.load(recipes.load(DISTILLED))


def parts_of(bounds: Sequence[float]) -> tuple[str, ...]:
    """Names of a blend's three intervals."""
    return (*(f"above {bound:.6f}" for bound in bounds), "else")


def parted(recipe: Recipe, early: float, late: float) -> Recipe:
    """LDL with other boundaries."""
    stage = recipes.plain(recipe)["chain"][0]
    blended = stage["denoise"]["blended"]
    who = [blended.pop(name) for name in list(blended) if name == "else" or name.startswith("above")]
    blended |= dict(zip(parts_of((early, late)), who, strict=True))
    stage["ladder"]["spliced"] |= {"early": early, "late": late}
    return recipes.checked({**recipes.plain(recipe), "chain": [stage]})


def made_by(stage: Stage, x: Tensor, frames: Tensor) -> Tensor:
    """A stage's frames, from this latent."""
    return last(sample(stage.denoise, x, frames, stage.ladder.levels, stage.solver)).seen.x0


def _itself(latent: Tensor) -> Tensor:
    return latent


if __name__ == "__main__":
    main()
