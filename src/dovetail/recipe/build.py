"""From a recipe to stages, given experts."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import ceil
from typing import Any

from dovetail.core import ladders
from dovetail.core.combine import Framewise, Guided, Windowed
from dovetail.core.denoiser import Condition, Denoiser, Expert, Timeline
from dovetail.core.hold import Hold
from dovetail.core.ladders import Ladder, Mask
from dovetail.core.noise import Noise
from dovetail.core.sampler import Ancestral, DPMSolver2M, Euler, Forgetting, Solver, UniPC, Walk
from dovetail.core.schedules import Flow, Schedule, VariancePreserving
from dovetail.core.stages import Bridge, Sequel, Stage
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
from dovetail.methods.onward import Onward
from dovetail.methods.probing import Probing
from dovetail.methods.reinjected import Reinjected
from dovetail.methods.relayed import Relayed
from dovetail.methods.renoised import Renoised
from dovetail.methods.settling import Settling
from dovetail.methods.skipping import Skipping
from dovetail.methods.syncos import Coupled
from dovetail.methods.temporal_first import TemporalFirst
from dovetail.recipe import models
from dovetail.recipe.denoisers import inside
from dovetail.recipe.models import Recipe
from dovetail.recipe.rooms import Room
from dovetail.recipe.story import frame, joined

Size = tuple[int, int, int]
"""Frames, height and width of a latent."""

SIDES = ("height", "width")
"""Of a video, as recipes name them."""


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
    return tuple(staged(recipe, one, experts, latent, rooms.get(one.stage), bridges) for one in recipe.chain)


def staged(
    recipe: Recipe,
    stage: models.Stage,
    experts: Mapping[str, Expert],
    latent: Size | None,
    room: Room | None,
    bridges: Mapping[str, Bridge],
) -> Stage:
    """One of the recipe's stages, in a room of its own or the video's. Raises RecipeError."""
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
    if latent is not None:
        _check_halves(recipe, stage, experts, latent)
    frames = recipe.video.frames if room is None else room.frames
    told = told_over(recipe, frames if latent is None else latent[0], frames)
    place = _Place(path, recipe, experts, noise, ladder, start, _shared(path, stage.denoise, experts), told)
    windows = {key: getattr(stage, key) for key in ("window", "hop", "offset", "weights", "ends")}
    whole, solver, bridge = place.whole(stage.denoise), _solver(stage, noise), bridges.get(stage.stage)
    return Stage(stage.stage, whole, ladder, solver, **windows, hold=_hold(stage.hold), start=start, bridge=bridge)


def _check_halves(recipe: Recipe, stage: models.Stage, experts: Mapping[str, Expert], latent: Size) -> None:
    """Raises RecipeError for latents that do not halve, or not to whole tokens of the expert that is shown the half."""
    room, path = recipe.room(stage.stage), f"chain.{stage.stage}.denoise"
    for part in (part for part in inside(stage.denoise) if isinstance(part, models.Halved)):
        if any(isinstance(one, models.Halved) for one in inside(part.root)):
            raise RecipeError(f"{path}: halved stands inside halved; an expert is halved once")
        cells = 2 * max((getattr(experts[leaf.expert].network, "patch", 1) for leaf in leaves(part)), default=1)
        if any(side % cells for side in latent[1:]):
            names = [f"chain.{room.stage}.{side}" if getattr(room, side) else f"video.{side}" for side in SIDES]
            pixels = [getattr(room, side) or getattr(recipe.video, side) for side in SIDES]
            unit = pixels[0] // latent[1] * cells
            near = [max(unit, round(side / unit) * unit) for side in pixels]
            sets = " ".join(f"--set {name}={size}" for name, size in zip(names, near, strict=True))
            raise RecipeError(
                f"{path}: halved shows half the height and width, so these must be multiples of {unit}, not "
                f"{pixels[0]}x{pixels[1]}; {sets} is near"
            )


def _hold(asked: models.Hold | None) -> Hold | None:
    """How windows are held; a share of 0 is not at all, unless frames are."""
    if asked is None or not asked.holds:
        return None
    return Hold(asked.share, asked.within, asked.below, objects=asked.objects or 0.0, frames=asked.frames or 0.0)


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
    texts = (joined(recipe.prompt, span.text) for span in spans)
    keys = ((start, Condition(text, i)) for i, (start, text) in enumerate(zip(starts, texts, strict=True)))
    fade = 0 if recipe.story.fade is None else frame(recipe.story.fade, video.frames, video.fps)
    return Timeline(tuple(keys), fade / together, by_frame=recipe.story.by == "frame")


def _begin(stage: models.Stage, noise: Noise) -> Consistent | None:
    """The noise that a stage starts from, where that is not simply its own."""
    match stage.noise:
        case models.Consistent() as begin:
            assert stage.window is not None
            return Consistent(noise, stage.window, begin.strength, begin.turn, begin.block, begin.shared or "frames")
        case models.Rescheduled(length=length, block=block):
            return rescheduled(noise, length, block)
    return None


def _solver(stage: models.Stage, noise: Noise) -> Solver:
    solvers = {"euler": Euler(), "ancestral": Ancestral(noise=noise), "dpm++2m": DPMSolver2M(), "unipc": UniPC()}
    forgets = [part.boundaries for part in blends(stage.denoise) if part.history == "dropped"]
    if not forgets:
        return solvers[stage.solver]
    return Forgetting(solvers[stage.solver], tuple(sorted(sum(forgets, ()), reverse=True)))


def blends(asked: Any) -> Iterator[models.Blended]:
    """Every `blended` in a recipe's denoiser."""
    return (part for part in inside(asked) if isinstance(part, models.Blended))


def leaves(asked: Any) -> Iterator[models.Leaf]:
    """Every expert in a recipe's denoiser, as it is asked there."""
    return (part for part in inside(asked) if isinstance(part, models.Leaf))


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
        if isinstance(asked, models.Onward):
            return self._onward(asked)
        if isinstance(asked, models.Coupled) and asked.automatic:
            return self._settling(asked)
        if not isinstance(asked, models.Probing):
            return self.denoiser(asked)
        options = asked.model_dump(exclude={"large", "small"})[asked.word]
        parts = self.denoiser(asked.large), self.denoiser(asked.small)
        try:
            return Probing(*parts, **options)
        except ValueError as error:
            raise RecipeError(f"{self.path}: {error}") from None

    def _coherent(self, asked: models.Coherent) -> Coherent:
        """Never at the last step, whose noise is not gone on with: there it would only change the video."""
        above = max(asked.above, self.ladder.between(self.ladder.steps - 1))
        options = asked.model_dump(exclude={"of", "above"})[asked.word]
        levels = self.ladder.levels[:-1]
        if asked.strength and not any(above < t <= asked.below for t in levels):
            raise RecipeError(
                f"{self.path}: no level lies above {above:.3g} and at or below {asked.below:g}, so no segment would be guided; "
                f"the levels but the last one, which is never guided, are {', '.join(f'{t:.3g}' for t in levels[:-1]) or 'none'}: "
                "take other above and below, more steps, or strength: 0 for none"
            )
        return Coherent(self.denoiser(asked.of), start=self.start, above=above, **options)

    def _onward(self, asked: models.Onward) -> Onward:
        if asked.below < (last := self.ladder.levels[-2]):
            raise RecipeError(
                f"{self.path}: below {asked.below:g} leaves out every level, so new frames would stand still; the last one "
                f"is {last:.3f}, take more"
            )
        if asked.below >= (first := self.ladder.levels[0]):
            raise RecipeError(
                f"{self.path}: no level lies above below {asked.below:g}, since the ladder begins at {first:.3f}, so nothing is "
                "left out; take less, or reinjected, which is that"
            )
        return Onward(self.denoiser(asked.of), self.noise, asked.below)

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
            case models.Coherent() | models.Reinjected() | models.Onward():
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
                return Renoised(self.denoiser(of), self.noise, self._floor(asked.word, floor), self.start)
            case models.Windowed(of=of, size=size, stride=stride, weights=weights, first=first, hold=hold):
                return Windowed(self.denoiser(of), size, stride, weights, first, _hold(hold))
            case models.Pair(spatial=spatial, temporal=temporal):
                parts = self.denoiser(spatial), self.denoiser(temporal)
                try:
                    return self._pair(asked, *parts)
                except ValueError as error:
                    raise RecipeError(f"{self.path}: {error}") from None
        raise TypeError(f"no method: {asked!r}")

    def _coupled(self, asked: models.Coupled, stride: int) -> Coupled:
        hold = _hold(asked.hold)
        windows = Windowed(self.denoiser(asked.of), asked.size, stride, asked.weights, asked.first, hold)
        floor = self._floor(asked.word, LOWEST if asked.floor == "auto" else asked.floor)
        return Coupled(
            windows,
            self.noise,
            floor,
            again=None if asked.again is None else self.denoiser(asked.again),
            levels=self.ladder.levels[:-1] if asked.timestep == "random" else (),
            steps=self._agreeing(asked.steps, floor),
            start=self.start,
            **{option: getattr(asked, option) for option in COUPLED},
        )

    def _agreeing(self, asked: Sequence[int] | None, floor: float) -> Mask | None:
        """The steps at which windows agree. None of them above the floor would leave that out in silence."""
        try:
            steps = self._steps(asked)
        except ValueError as error:
            raise RecipeError(f"{self.path}: {error}") from None
        above = [t for t in self.ladder.levels[:-1] if t > floor]
        if steps is not None and above and not any(map(steps, above)):
            raise RecipeError(
                f"{self.path}.steps: windows agree above the floor alone, at steps 1 to {len(above)}, and none of these is "
                "among them; leave steps out, or say floor: 1 to have no agreeing"
            )
        return steps

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
        noise = self.noise if fresh or self.start is None else self.start
        match asked:
            case models.Coordinated(steps=steps):
                return Coordinated(spatial, temporal, noise, self._clock(asked), fresh, self._steps(steps))
            case models.Alternating():
                return Alternating.of(spatial, temporal, self.ladder, self._schedule(asked.spatial))
            case models.Averaged(weight=weight):
                return Averaged(spatial, temporal, weight)
            case models.Fused(blur=blur):
                return Fused(spatial, temporal, blur)
            case models.Relayed(derived=derived):
                return Relayed(spatial, temporal, noise, self._clock(asked), fresh, derived)
            case models.TemporalFirst():
                return TemporalFirst(spatial, temporal, noise, fresh)
            case models.Skipping(tau=tau):
                return Skipping(spatial, temporal, noise, tau, self._clock(asked), fresh)
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
