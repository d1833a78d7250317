"""The dry run of a recipe: the run itself, with stand-ins that count in place of networks."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from dovetail.core import chain
from dovetail.core.combine import Framewise
from dovetail.core.denoiser import Asked, Expert, Prompted, parts_of, predicts_x0, timeline
from dovetail.core.noise import Noise
from dovetail.core.schedules import Schedule
from dovetail.core.stages import Event, Seen, Stage
from dovetail.core.tree import rewrite, walk
from dovetail.errors import RecipeError
from dovetail.methods.settling import Settling
from dovetail.methods.syncos import Coupled
from dovetail.recipe import models
from dovetail.recipe.build import Size, staged
from dovetail.recipe.models import Recipe
from dovetail.recipe.rooms import Hollow, Room, hollow


@dataclass(frozen=True)
class Count:
    """calls: how often a network was asked; frames: how many frames it saw in all, both branches of
    guidance counted; seconds: how long that took."""

    calls: int = 0
    frames: int = 0
    seconds: float = 0.0

    def __add__(self, other: "Count") -> "Count":
        return Count(self.calls + other.calls, self.frames + other.frames, self.seconds + other.seconds)


Ledger = defaultdict[str, Count]


@dataclass(frozen=True)
class Look:
    """What an expert is shown at once: so many frames, at `height` / 2 and `width` / 2 of the latent's size; `skipped`
    are blocks that its network leaves out; `stage` is said where stages have latents of their own."""

    expert: str
    frames: int
    height: int = 2
    width: int = 2
    skipped: tuple[int, ...] = ()
    stage: str = ""


@dataclass(frozen=True, eq=False)
class StandIn:
    """A network that sees nothing: it counts, and refuses videos that are too long for the real one.

    answer: what it says of every pixel; no two stand-ins agree, so methods that look again where experts disagree do.
    """

    name: str
    ledger: Ledger
    answer: float = 0.0
    longest: int | None = None
    scheduler: Mapping[str, Any] | None = None
    even: bool = False
    shown: Counter[Look] = field(default_factory=Counter)
    skipped: tuple[int, ...] = ()
    rows: dict[Look, int] = field(default_factory=dict)
    heard: set[tuple[str, int]] = field(default_factory=set)
    stage: str = ""
    patch: int = 1

    def __call__(self, x: Tensor, time: float, conditions: Sequence[Asked], frames: Tensor) -> Tensor:
        if self.longest is not None and x.shape[2] > self.longest:
            hint = (
                "wrap it in framewise"
                if self.longest == 1
                else f"use --frames {self.longest} or fewer, windowed, or window: {self.longest} on its stage"
            )
            raise RecipeError(
                f"expert '{self.name}' sees at most {self.longest} frames at once, not {x.shape[2]}; {hint}"
            )
        self.ledger[self.name] += Count(1, len(x) * x.shape[2])
        length, height, width = x.shape[2:]
        look = Look(self.name, length, height, width, self.skipped, self.stage)
        self.shown[look] += len(x)
        self.rows[look] = max(len(x), self.rows.get(look, 0))
        told = (condition for asked in conditions for condition, _ in parts_of(asked, length))
        self.heard.update((self.name, one.event) for one in told if one.event is not None)
        return torch.full_like(x, self.answer)

    def without(self, skipped: tuple[int, ...]) -> "StandIn":
        return replace(self, skipped=skipped)

    def parted(self, reused: tuple[int, ...], notes: Any) -> tuple["StandIn", "StandIn"]:
        return self, self.without(reused)


@dataclass(frozen=True)
class Plan:
    """What a run will do: its stages, what each expert is asked, and the frames seen up to each step.

    switches: for each stage, how often a step asks other experts than the step before it. asked: the experts that each
    step may ask, in the order of `steps`. shown: what experts see, and how many rows of it; rows: how many of them at
    once, at most. heard: experts and events, from 0, that they are asked for. pieces: how many steps are taken when each piece of
    the video is finished, and its latent frames. rooms: by stage, where stages are joined through pixels; crossings:
    how many steps are taken when a piece comes over such a bridge, the stage that it comes to, and its latent frames
    before.
    """

    recipe: Recipe
    stages: tuple[Stage, ...]
    counts: Mapping[str, Count]
    steps: tuple[tuple[str, int, int], ...] = field(repr=False)
    """(stage, step from 1, frames that networks have seen in all when it ends), in order."""
    notes: tuple[str, ...] = ()
    switches: Mapping[str, int] = field(default_factory=dict)
    latent: Size | None = None
    asked: tuple[frozenset[str], ...] = field(default=(), repr=False)
    shown: Mapping[Look, int] = field(default_factory=dict, repr=False)
    heard: frozenset[tuple[str, int]] = field(default=frozenset(), repr=False)
    rows: Mapping[Look, int] = field(default_factory=dict, repr=False)
    pieces: tuple[tuple[int, int], ...] = field(default=(), repr=False)
    rooms: Mapping[str, Room] = field(default_factory=dict)
    crossings: tuple[tuple[int, str, int], ...] = field(default=(), repr=False)

    def length(self, stage: str) -> int:
        """Latent frames of the video in a stage."""
        if stage in self.rooms:
            return self.rooms[stage].latent[0]
        return self.recipe.video.frames if self.latent is None else self.latent[0]

    @property
    def missed(self) -> tuple[tuple[str, int], ...]:
        """Experts, and the number (from 1) of an event of the story that they are never asked for."""
        spans = self.recipe.spans()
        # An event that only goes on with the one before is heard with it.
        first = [
            next(k for k in range(i + 1) if {one.text for one in spans[k : i + 1]} == {spans[i].text})
            for i in range(len(spans))
        ]
        heard = {(name, first[event]) for name, event in self.heard if spans}
        return tuple((name, i + 1) for name in self.counts for i in range(len(spans)) if (name, first[i]) not in heard)

    @property
    def by_window(self) -> tuple[str, ...]:
        """Experts that see several frames at once and can be told one text of them alone."""
        return tuple(dict.fromkeys(name for stage in self.stages for name in by_window(stage)))

    def passes(self, name: str) -> float:
        """Looks of an expert at the whole video, both branches of guidance counted."""
        asked = next(stage.stage for stage in self.recipe.chain if name in _named(stage))
        return self.counts[name].frames / self.length(asked)


def by_window(stage: Stage) -> tuple[str, ...]:
    """Those of a stage."""
    alone = [leaf for part in walk(stage.denoise) if isinstance(part, Framewise) for leaf in walk(part)]
    leaves = [leaf for leaf in walk(stage.denoise) if isinstance(leaf, Prompted) and not any(leaf is x for x in alone)]
    return tuple(dict.fromkeys(leaf.expert.name for leaf in leaves if not leaf.expert.by_frame))


@dataclass(frozen=True)
class Known:
    """What is known of an expert before its weights are: its schedule, its scheduler's config and how its
    pipeline uses that (see `Adapter.even`), the most frames that it sees at once, whether each can be told a text, and
    the latent cells along each side of its tokens."""

    schedule: Schedule
    scheduler: Mapping[str, Any] | None = None
    longest: int | None = None
    even: bool = False
    by_frame: bool = False
    patch: int = 1


def plan(
    recipe: Recipe,
    cast: Mapping[str, Known],
    notes: Sequence[str] = (),
    latent: Size | None = None,
    rooms: Mapping[str, Room] | None = None,
) -> Plan:
    """Run the recipe with stand-ins on 2x2 latents. Raises RecipeError where the run would.

    latent: the size of the video's; without it a latent frame is taken for a frame. rooms: by stage, of a recipe whose
    stages are joined through pixels.
    """
    rooms = rooms or {}
    ledger, shown, heard, rows = Ledger(Count), Counter[Look](), set[tuple[str, int]](), dict[Look, int]()
    experts = {
        name: Expert(
            name,
            known.schedule,
            predicts_x0,
            StandIn(
                *(name, ledger, (-10.0) ** i, known.longest, known.scheduler, known.even, shown, (), rows, heard),
                patch=known.patch,
            ),
            known.by_frame,
        )
        for i, (name, known) in enumerate(cast.items())
    }
    bridges = hollow(recipe, rooms)
    stages = tuple(
        staged(recipe, one, _tagged(experts, one, rooms), latent, rooms.get(one.stage), bridges) for one in recipe.chain
    )
    frames = timeline(recipe.video.frames if latent is None else latent[0])
    if rooms:
        frames = timeline(rooms[recipe.chain[0].stage].latent[0])
    given = None if recipe.start is None else torch.zeros(1, 1, frames.shape[1], 2, 2)
    patient = [replace(stage, denoise=rewrite(stage.denoise, _patient)) for stage in stages]
    events = chain.run(patient, Noise(recipe.video.seed), frames, (1, 2, 2), given)
    steps, asked, pieces, crossings = _walked(events, ledger, bridges)
    counts = {name: ledger[name] for name in recipe.experts if name in ledger}
    # A walk's steps ask whom they ask by what they saw, so each of them may ask anyone of its stage.
    free = {stage.stage: _named(stage) for stage in recipe.chain if _by_what_is_seen(stage.denoise)}
    may = tuple(free.get(name, names) for (name, *_), names in zip(steps, asked, strict=True))
    switches = _switches([name for name, *_ in steps], asked)
    told = (switches, latent, may, shown, frozenset(heard), rows, tuple(pieces), rooms, tuple(crossings))
    if not counts:
        raise RecipeError(
            "no step of this recipe asks an expert, so nothing would be made; let one be asked, at one level at least"
        )
    return Plan(recipe, stages, counts, tuple(steps), tuple(notes), *told)


def _walked(
    events: Iterator[Event], ledger: Ledger, bridges: Mapping[str, Hollow]
) -> tuple[list[tuple[str, int, int]], list[frozenset[str]], list[tuple[int, int]], list[tuple[int, str, int]]]:
    """Steps, whom each asks, pieces and crossings of a walk, as a plan has them."""
    steps, calls, pieces = list[tuple[str, int, int]](), list[dict[str, int]](), list[tuple[int, int]]()
    crossings: list[tuple[int, str, int]] = []

    def noted() -> Iterator[Event]:
        for event in events:
            if not isinstance(event, Seen):
                pieces.append((len(steps), event.video.shape[2]))
            yield event

    for stage, step in numbered(noted()):
        for name, bridge in bridges.items():
            crossings += [(len(steps), name, length) for length in bridge.came]
            bridge.came.clear()
        steps.append((stage.name, step, sum(count.frames for count in ledger.values())))
        calls.append({name: count.calls for name, count in ledger.items()})
    asked = [frozenset(name for name in now if now[name] > was.get(name, 0)) for was, now in pairwise([{}, *calls])]
    return steps, asked, pieces, crossings


def _tagged(experts: Mapping[str, Expert], stage: models.Stage, rooms: Mapping[str, Room]) -> Mapping[str, Expert]:
    """Stand-ins that say in which stage they are shown what, where that has latents of its own."""
    if not rooms:
        return experts
    tagged: dict[str, Any] = {name: replace(it.network, stage=stage.stage) for name, it in experts.items()}  # type: ignore[type-var]
    return {name: replace(it, network=tagged[name]) for name, it in experts.items()}


def _by_what_is_seen(asked: Any) -> bool:
    return isinstance(asked, models.Probing) or (isinstance(asked, models.Coupled) and asked.automatic)


def _patient(part: Any) -> Any:
    """Stand-ins agree sooner than experts, so what would end once windows agree is counted to its last iteration, at
    every level, with as many windows as there may be."""
    if isinstance(part, Settling):
        return replace(part, calm=None, strides=part.strides[-1:])
    return replace(part, tolerance=0.0) if isinstance(part, Coupled) and part.tolerance else part


def _named(stage: models.Stage) -> frozenset[str]:
    return frozenset(models.experts_in(stage.denoise))


def _switches(stages: Sequence[str], asked: Sequence[frozenset[str]]) -> dict[str, int]:
    """How often the experts asked change within each stage, steps that ask nobody left out."""
    calling = [(stage, who) for stage, who in zip(stages, asked, strict=True) if who]
    return {
        stage: sum(a != b and one == two == stage for (one, a), (two, b) in pairwise(calling))
        for stage in dict.fromkeys(stages)
    }


def numbered(events: Iterator[Event]) -> Iterator[tuple[Stage, int]]:
    """Each step of a run, with its number within the stage, from 1; windows count on."""
    steps: defaultdict[str, int] = defaultdict(int)
    for event in events:
        if isinstance(event, Seen):
            steps[event.stage.name] += 1
            yield event.stage, steps[event.stage.name]
