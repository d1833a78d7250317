"""From a recipe to stages, given experts; and the dry run, which is the run with counting stand-ins."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from math import ceil
from typing import Any

import torch
from torch import Tensor

from dovetail.core import chain, ladders
from dovetail.core.combine import Framewise, Guided, Windowed
from dovetail.core.denoiser import Condition, Denoiser, Expert, Timeline, predicts_x0, timeline
from dovetail.core.ladders import Ladder, Mask
from dovetail.core.noise import Noise
from dovetail.core.sampler import Ancestral, DPMSolver2M, Euler, Forgetting, Solver, UniPC, Walk
from dovetail.core.schedules import Flow, Schedule, VariancePreserving
from dovetail.core.stages import Bridge, Event, Seen, Sequel, Stage
from dovetail.core.tree import rewrite
from dovetail.errors import RecipeError
from dovetail.methods.alternating import Alternating
from dovetail.methods.averaged import Averaged
from dovetail.methods.bridge import Clock, SameIndex, SameSNR
from dovetail.methods.coherent import Coherent
from dovetail.methods.confiner import Coordinated
from dovetail.methods.consistent import Consistent
from dovetail.methods.flowblending import Blended
from dovetail.methods.freenoise import rescheduled
from dovetail.methods.fused import Fused
from dovetail.methods.halved import Halved
from dovetail.methods.probing import Probing
from dovetail.methods.reinjected import Reinjected
from dovetail.methods.relayed import Relayed
from dovetail.methods.renoised import Renoised
from dovetail.methods.settling import Settling
from dovetail.methods.skipping import Skipping
from dovetail.methods.syncos import Coupled
from dovetail.methods.temporal_first import TemporalFirst
from dovetail.recipe import models
from dovetail.recipe.models import Recipe
from dovetail.recipe.rooms import Hollow, Room, hollow
from dovetail.recipe.story import frame, joined

Size = tuple[int, int, int]
"""Frames, height and width of a latent."""


def build(
    recipe: Recipe,
    experts: Mapping[str, Expert],
    latent: Size | None = None,
    rooms: Mapping[str, Room] | None = None,
    bridges: Mapping[str, Bridge] | None = None,
) -> tuple[Stage, ...]:
    """The recipe's stages, over these experts (by the recipe's names). Raises RecipeError.

    latent: the size of the video's; only ladders that depend on it miss it. rooms, bridges: by stage, for a recipe
    whose stages are joined through pixels.
    """
    rooms, bridges = rooms or {}, bridges or {}
    return tuple(_stage(recipe, one, experts, latent, rooms.get(one.stage), bridges) for one in recipe.chain)


def _stage(
    recipe: Recipe,
    stage: models.Stage,
    experts: Mapping[str, Expert],
    latent: Size | None,
    room: Room | None,
    bridges: Mapping[str, Bridge],
) -> Stage:
    if stage.bridge is not None and stage.stage not in bridges:
        raise RecipeError(f"chain.{stage.stage}.bridge: this works on one latent space; take a recipe without a bridge")
    latent = latent if room is None else room.latent
    noise = Noise(recipe.video.seed).of(stage.stage)
    try:
        ladder = _ladder(stage.ladder, experts, None if latent is None else _tokens(stage, latent))
    except (ValueError, IndexError) as error:
        raise RecipeError(f"chain.{stage.stage}.ladder: {error}") from None
    start = _begin(stage, noise)
    path = f"chain.{stage.stage}.denoise"
    frames = recipe.video.frames if room is None else room.frames
    told = told_over(recipe, frames if latent is None else latent[0], frames)
    place = _Place(path, recipe, experts, noise, ladder, start, _shared(path, stage.denoise, experts), told)
    windows = {key: getattr(stage, key) for key in ("window", "hop", "offset", "weights", "ends")}
    whole, solver, bridge = place.whole(stage.denoise), _solver(stage, noise), bridges.get(stage.stage)
    return Stage(stage.stage, whole, ladder, solver, **windows, start=start, bridge=bridge)


def told_over(recipe: Recipe, length: int, frames: int | None = None) -> Timeline:
    """What experts are told over so many latent frames: the prompt, or with a story each event's text behind it.

    frames: how many of the video they are, where they are not the recipe's. A latent frame takes the event at its
    centre, as a window does.
    """
    spans, video = recipe.spans(), recipe.video
    if recipe.story is None:
        return Timeline.of(recipe.prompt)
    # The first latent frame is one of the video, each later one as many as the codec takes together.
    frames = video.frames if frames is None else frames
    together = (frames - 1) / (length - 1) if length > 1 else frames
    starts = [0, *(1 + ceil((span.start - 1) / together - 0.5) for span in spans[1:])]
    keys = ((start, Condition(joined(recipe.prompt, span.text))) for start, span in zip(starts, spans, strict=True))
    fade = 0 if recipe.story.fade is None else frame(recipe.story.fade, video.frames, video.fps)
    return Timeline(tuple(keys), fade / together)


def _begin(stage: models.Stage, noise: Noise) -> Consistent | None:
    """The noise that a stage starts from, where that is not simply its own."""
    match stage.noise:
        case models.Consistent(strength=strength, turn=turn):
            assert stage.window is not None
            return Consistent(noise, stage.window, strength, turn)
        case models.Rescheduled(length=length, block=block):
            return rescheduled(noise, length, block)
    return None


def _solver(stage: models.Stage, noise: Noise) -> Solver:
    solvers = {"euler": Euler(), "ancestral": Ancestral(noise=noise), "dpm++2m": DPMSolver2M(), "unipc": UniPC()}
    forgets = [part.boundaries for part in parts(stage.denoise) if part.history == "dropped"]
    if not forgets:
        return solvers[stage.solver]
    return Forgetting(solvers[stage.solver], tuple(sorted(sum(forgets, ()), reverse=True)))


def parts(asked: Any) -> Iterator[models.Blended]:
    """Every `blended` in a recipe's denoiser."""
    if isinstance(asked, models.Blended):
        yield asked
    inner = asked.of.values() if isinstance(asked, models.Blended) else [part for _, part in asked]
    for part in inner:
        if isinstance(part, models.Part | models.Alone):
            yield from parts(part)


def leaves(asked: Any) -> Iterator[models.Leaf]:
    """Every expert in a recipe's denoiser, as it is asked there."""
    if isinstance(asked, models.Leaf):
        yield asked
        return
    inner = asked.of.values() if isinstance(asked, models.Blended) else [part for _, part in asked]
    for part in inner:
        if isinstance(part, models.Part | models.Alone):
            yield from leaves(part)


def _shared(path: str, asked: Any, experts: Mapping[str, Expert]) -> dict[str, Any]:
    """What looks in full leave to looks that reuse it, for each expert that is asked to reuse."""
    reused: dict[str, tuple[int, ...]] = {}
    for leaf in leaves(asked):
        if leaf.reuse and reused.setdefault(leaf.expert, leaf.reuse) != leaf.reuse:
            raise RecipeError(f"{path}: expert '{leaf.expert}' reuses other blocks in one place than in another")
    if not reused:
        return {}
    # Imports the experts' layer, as where blocks are skipped.
    from dovetail.experts.blocks import Shared

    return {name: Shared.of(experts[name].network, blocks) for name, blocks in reused.items()}


def _tokens(stage: models.Stage, latent: Size) -> int:
    """Cells of the latent that the stage works on at once."""
    frames, height, width = latent
    return min(stage.window or frames, frames) * height * width


def _ladder(asked: Any, experts: Mapping[str, Expert], tokens: int | None) -> Ladder:
    match asked:
        case models.Trailing(of=of, steps=steps):
            return ladders.trailing(experts[of].schedule, steps, ticks(experts[of].schedule))
        case models.Leading(of=of, steps=steps, offset=offset):
            return ladders.leading(experts[of].schedule, steps, ticks(experts[of].schedule), offset)
        case models.Own(of=of, steps=steps, shift=shift):
            return _own(experts[of], steps, shift, tokens)
        case models.Below(of=of, timestep=timestep, steps=steps):
            return ladders.below(experts[of].schedule, timestep, steps)
        case models.Times(of=of, times=times, unit=unit):
            return ladders.timesteps(experts[of].schedule, times, unit)
        case models.Even(steps=steps, start=start):
            return ladders.even(steps, start)
        case models.Shifted(steps=steps, shift=shift):
            return ladders.shifted(steps, shift)
        case models.Karras(steps=steps, sigma_min=low, sigma_max=high, rho=rho):
            return ladders.karras(steps, low, high, rho)
        case models.Levels(root=shares):
            return ladders.levels(shares)
        case models.Spliced(ladder=ladder, own=own, early=early, late=late):
            return ladders.spliced(_ladder(ladder, experts, tokens), _ladder(own, experts, tokens), early, late)
    raise TypeError(f"no ladder: {asked!r}")


def _own(expert: Expert, steps: int, shift: float | None, tokens: int | None) -> Ladder:
    config = getattr(expert.network, "scheduler", None)
    if config is None:
        raise RecipeError(f"expert '{expert.name}' has no scheduler config to space steps by; take the ladder trailing")
    # Imports diffusers, whose schedulers know their plans; no other ladder needs it.
    from dovetail.experts.schedulers import ladder_of

    return ladder_of(config, steps, shift=shift, tokens=tokens, even=getattr(expert.network, "even", False))


def ticks(schedule: Schedule) -> int:
    """How many timesteps a schedule has."""
    match schedule:
        case VariancePreserving():
            return len(schedule.alphas_cumprod)
        case Flow():
            return int(schedule.ticks)
    raise RecipeError(f"{type(schedule).__name__} has no timesteps to space; take the ladder karras or levels")


LOWEST = 0.5
"""No floor that is found lies lower: there a video is decided, and moving it costs what it shows."""

COUPLED = (
    *("iterations", "rate", "optimiser", "kernel", "repulsion", "minibatch", "base", "stages", "tolerance"),
    *("wide", "anchor", "keyframes", "bandwidth"),
)
"""What a recipe's `coupled` says as the method does."""


def halvings(size: int) -> tuple[int, ...]:
    """Strides of windows of this size, from half of it to an eighth.

    >>> halvings(16), halvings(13), halvings(3)
    ((8, 4, 2), (6, 3, 1), (1,))
    """
    return tuple(dict.fromkeys(max(1, size // part) for part in (2, 4, 8)))


@dataclass(frozen=True)
class _Place:
    """Where in the recipe a denoiser is built, and what it may need there."""

    path: str
    recipe: Recipe
    experts: Mapping[str, Expert]
    noise: Noise
    ladder: Ladder
    start: Consistent | None = None
    shared: Mapping[str, Any] = field(default_factory=dict)
    told: Timeline = field(default_factory=lambda: Timeline.of(""))

    def whole(self, asked: Any) -> Denoiser | Walk | Sequel:
        """What a stage does at its steps."""
        if isinstance(asked, models.Coherent):
            return self._coherent(asked)
        if isinstance(asked, models.Reinjected):
            return Reinjected(self.denoiser(asked.root), self.noise)
        if isinstance(asked, models.Coupled) and asked.automatic:
            return self._settling(asked)
        if not isinstance(asked, models.Probing):
            return self.denoiser(asked)
        options = asked.model_dump(exclude={"large", "small"})[asked.word]
        try:
            return Probing(self.denoiser(asked.large), self.denoiser(asked.small), **options)
        except ValueError as error:
            raise RecipeError(f"{self.path}: {error}") from None

    def _coherent(self, asked: models.Coherent) -> Coherent:
        """Never at the last step, whose noise is not gone on with: there it would only change the video."""
        last = self.ladder.between(self.ladder.steps - 1)
        options = asked.model_dump(exclude={"of", "above"})[asked.word]
        return Coherent(self.denoiser(asked.of), start=self.start, above=max(asked.above, last), **options)

    def denoiser(self, asked: Any) -> Denoiser:
        match asked:
            case models.Leaf():
                return self._leaf(asked)
            case models.Blended(of=of, boundaries=boundaries):
                return Blended(tuple(self.denoiser(part) for part in of.values()), boundaries)
            case models.Halved(root=whole):
                return Halved(self.denoiser(whole))
            case models.Probing():
                raise RecipeError(
                    f"{self.path}: probing goes by what earlier steps showed, so it is a whole stage's denoiser and "
                    "stands inside no other; its large and small parts may be of any kind"
                )
            case models.Coherent() | models.Reinjected():
                raise RecipeError(
                    f"{self.path}: {asked.word} goes by the window before, so it is a whole stage's denoiser and stands "
                    "inside no other; what it is made of may be of any kind"
                )
            case models.Framewise(root=of):
                return Framewise(self.denoiser(of))
            case models.Coupled() if asked.automatic:
                raise RecipeError(
                    f"{self.path}: a floor or stride that is auto goes by what earlier steps showed, so this coupled is a whole "
                    "stage's denoiser and stands inside no other; say floor and stride as numbers, or take it out"
                )
            case models.Coupled(stride=int(stride)):
                return self._coupled(asked, stride)
            case models.Renoised(of=of, floor=floor):
                return Renoised(self.denoiser(of), self.noise, self._floor(asked.word, floor))
            case models.Windowed(of=of, size=size, stride=stride, weights=weights, first=first):
                return Windowed(self.denoiser(of), size, stride, weights, first)
            case models.Pair(spatial=spatial, temporal=temporal):
                try:
                    return self._pair(asked, self.denoiser(spatial), self.denoiser(temporal))
                except ValueError as error:
                    raise RecipeError(f"{self.path}: {error}") from None
        raise TypeError(f"no method: {asked!r}")

    def _coupled(self, asked: models.Coupled, stride: int) -> Coupled:
        windows = Windowed(self.denoiser(asked.of), asked.size, stride, asked.weights, asked.first)
        if asked.base == "video" and self.start is not None:
            raise RecipeError(
                f"{self.path}: base: video looks through the noise that a stage starts from by itself, and this one has "
                "another (noise); take base: step, or leave out noise"
            )
        try:
            steps = self._steps(asked.steps)
        except ValueError as error:
            raise RecipeError(f"{self.path}: {error}") from None
        return Coupled(
            windows,
            self.noise,
            LOWEST if asked.floor == "auto" else self._floor(asked.word, asked.floor),
            again=None if asked.again is None else self.denoiser(asked.again),
            levels=self.ladder.levels[:-1] if asked.timestep == "random" else (),
            steps=steps,
            **{option: getattr(asked, option) for option in COUPLED},
        )

    def _settling(self, asked: models.Coupled) -> Settling:
        strides = (asked.stride,) if isinstance(asked.stride, int) else halvings(asked.size)
        coupled = self._coupled(asked, strides[0])
        return Settling(coupled, asked.calm if asked.floor == "auto" else None, asked.gain, strides, asked.seam)

    def _floor(self, word: str, floor: float) -> float:
        """A floor above all levels would turn its method off in silence; 1 turns it off aloud."""
        highest = self.ladder.levels[0]
        if highest <= floor < 1:
            raise RecipeError(
                f"{self.path}: {word} acts above floor {floor:g}, and this ladder begins at noise share {highest:.3g}; take "
                f"a floor below that, as {ceil(highest * 10 - 2) / 10:g}, or floor: 1.0 to leave it out"
            )
        return floor

    def _pair(self, asked: models.Pair, spatial: Denoiser, temporal: Denoiser) -> Denoiser:
        fresh = isinstance(asked, models.Noisy) and asked.noise == "fresh"
        match asked:
            case models.Coordinated(steps=steps):
                return Coordinated(spatial, temporal, self.noise, self._clock(asked), fresh, self._steps(steps))
            case models.Alternating():
                return Alternating.of(spatial, temporal, self.ladder, self._schedule(asked.spatial))
            case models.Averaged(weight=weight):
                return Averaged(spatial, temporal, weight)
            case models.Fused(blur=blur):
                return Fused(spatial, temporal, blur)
            case models.Relayed(derived=derived):
                return Relayed(spatial, temporal, self.noise, self._clock(asked), fresh, derived)
            case models.TemporalFirst():
                return TemporalFirst(spatial, temporal, self.noise, fresh)
            case models.Skipping(tau=tau):
                return Skipping(spatial, temporal, self.noise, tau, self._clock(asked), fresh)
        raise TypeError(f"no method: {asked!r}")

    def _leaf(self, asked: models.Leaf) -> Denoiser:
        expert = self.experts[asked.expert]
        if asked.skip:
            # Imports the experts' layer, which most recipes need no part of before weights are loaded.
            from dovetail.experts.blocks import shortened

            blocks = ",".join(map(str, asked.skip))
            expert = replace(
                expert, name=f"{expert.name} without {blocks}", network=shortened(expert.network, asked.skip)
            )
        if asked.expert in self.shared and not asked.skip:
            from dovetail.experts.blocks import Reusing

            name = f"{expert.name} reusing {','.join(map(str, asked.reuse))}" if asked.reuse else expert.name
            expert = replace(expert, name=name, network=Reusing(self.shared[asked.expert], bool(asked.reuse)))
        positive = expert.given(self.told)
        if asked.guidance == 1.0:
            return positive
        return Guided(positive, expert.given(self.recipe.negative), asked.guidance, asked.joint)

    def _clock(self, asked: models.Bridged) -> Clock:
        if asked.clock == "snr":
            return SameSNR()
        spatial, temporal = self._schedule(asked.spatial), self._schedule(asked.temporal)
        if isinstance(spatial, VariancePreserving) and isinstance(temporal, VariancePreserving):
            return SameIndex(spatial, temporal)
        raise ValueError("clock 'index' needs experts with numbered timesteps; use 'snr'")

    def _schedule(self, asked: Any) -> Schedule:
        """The schedule of the expert at the bottom of a denoiser; of a pair, the spatial one's."""
        match asked:
            case models.Leaf(expert=name):
                return self.experts[name].schedule
            case models.Framewise(root=of) | models.Halved(root=of) | models.Pair(spatial=of):
                return self._schedule(of)
            case models.Windows(of=of) | models.Renoised(of=of):
                return self._schedule(of)
            case models.Blended(of=of):
                return self._schedule(next(iter(of.values())))
        raise TypeError(f"no method: {asked!r}")

    def _steps(self, asked: Sequence[int] | None) -> Mask | None:
        if asked is None:
            return None
        if max(asked) > self.ladder.steps:
            raise ValueError(f"step {max(asked)} is none of the ladder's {self.ladder.steps} steps")
        return Mask.of(self.ladder, [step in asked for step in range(1, self.ladder.steps + 1)])


# --- counting ----------------------------------------------------------------------------------------------------


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
    heard: set[tuple[str, str]] = field(default_factory=set)
    stage: str = ""

    def __call__(self, x: Tensor, time: float, conditions: Sequence[Condition], frames: Tensor) -> Tensor:
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
        self.heard.update((self.name, condition.text) for condition in conditions)
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
    once, at most. heard: experts and texts that they are asked for. pieces: how many steps are taken when each piece of
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
    heard: frozenset[tuple[str, str]] = field(default=frozenset(), repr=False)
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
        texts = [joined(self.recipe.prompt, span.text) for span in self.recipe.spans()]
        return tuple(
            (name, number)
            for name in self.counts
            for number, text in enumerate(texts, 1)
            if (name, text) not in self.heard
        )

    def passes(self, name: str) -> float:
        """Looks of an expert at the whole video, both branches of guidance counted."""
        asked = next(stage.stage for stage in self.recipe.chain if name in _named(stage))
        return self.counts[name].frames / self.length(asked)


@dataclass(frozen=True)
class Known:
    """What is known of an expert before its weights are: its schedule, its scheduler's config and how its
    pipeline uses that (see `Adapter.even`), and the most frames that it sees at once."""

    schedule: Schedule
    scheduler: Mapping[str, Any] | None = None
    longest: int | None = None
    even: bool = False


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
    ledger, shown, heard, rows = Ledger(Count), Counter[Look](), set[tuple[str, str]](), dict[Look, int]()
    experts = {
        name: Expert(
            name,
            known.schedule,
            predicts_x0,
            StandIn(name, ledger, (-10.0) ** i, known.longest, known.scheduler, known.even, shown, (), rows, heard),
        )
        for i, (name, known) in enumerate(cast.items())
    }
    bridges = hollow(recipe, rooms)
    stages = tuple(
        _stage(recipe, one, _tagged(experts, one, rooms), latent, rooms.get(one.stage), bridges) for one in recipe.chain
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
    return frozenset(name for _, name in models.named(stage.denoise, ""))


def _switches(stages: Sequence[str], asked: Sequence[frozenset[str]]) -> dict[str, int]:
    """How often the experts asked change within each stage."""
    return {
        stage: sum(a != b and one == two == stage for (one, a), (two, b) in pairwise(zip(stages, asked, strict=True)))
        for stage in dict.fromkeys(stages)
    }


def numbered(events: Iterator[Event]) -> Iterator[tuple[Stage, int]]:
    """Each step of a run, with its number within the stage, from 1; windows count on."""
    steps: defaultdict[str, int] = defaultdict(int)
    for event in events:
        if isinstance(event, Seen):
            steps[event.stage.name] += 1
            yield event.stage, steps[event.stage.name]
