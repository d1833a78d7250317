"""From a recipe to a video: load the experts, check that they fit, walk the chain, decode.

`play` is a generator: whoever runs it sees every step and every finished piece of video, and stops it by not asking
for the next. Nothing is kept that is finished, so a long video needs no more memory than its chain's windows.
"""

import hashlib
import resource
import sys
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, fields, is_dataclass, replace
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from torch import Tensor

from dovetail import recipe as recipes
from dovetail.core import chain
from dovetail.core.chain import Segment, Sequel, Stage
from dovetail.core.denoiser import Condition, Denoiser, Expert, Network, Prompted, timeline
from dovetail.core.noise import Noise
from dovetail.core.path import Split
from dovetail.core.sampler import Walk
from dovetail.core.schedules import Flow, Schedule, VariancePreserving, schedule_of
from dovetail.core.tree import walk
from dovetail.errors import NetworkError, PromptWarning, RecipeError, ShapeWarning, WeightsError
from dovetail.recipe import Recipe, models
from dovetail.recipe.build import Count, Known, Ledger, Plan, build, parts
from dovetail.recipe.build import plan as planned
from dovetail.video import Frames, Video, read

if TYPE_CHECKING:
    from dovetail.experts import LatentSpace

Overrides = Iterable[str] | Mapping[str, Any]


@dataclass(frozen=True)
class Step:
    """A step that has just been taken: its stage, its number there (from 1), the share of all network work that is
    done, in (0, 1], and the first and last latent frame that it worked on."""

    stage: str
    step: int
    steps: int
    share: float
    frames: tuple[int, int] = (0, 0)


@dataclass(frozen=True, eq=False)
class Piece:
    """Frames that are finished: uint8 "f h w c", how many came before them, and their latent "1 c f h w"."""

    frames: Frames
    first: int
    latent: Tensor


@dataclass(frozen=True)
class End:
    """A run's end, and what a manifest says of it."""

    settings: Mapping[str, Any]


class Codec(Protocol):
    """Pixels "b f c h w" in [-1, 1] <-> latents "b c f h w". `factor`: pixels per latent cell."""

    @property
    def channels(self) -> int: ...
    @property
    def factor(self) -> int: ...
    @property
    def space(self) -> "LatentSpace": ...
    def encode(self, frames: Tensor, /) -> Tensor: ...
    def decode(self, latent: Tensor, /) -> Tensor: ...


@dataclass(frozen=True, eq=False)
class Cast:
    """A recipe's experts and codec, loaded. One cast plays any number of runs of its recipe."""

    experts: Mapping[str, Expert]
    codec: Codec


# --- the public verbs --------------------------------------------------------------------------------------------


def generate(
    prompt: str | None = None,
    recipe: str | Path | Recipe = "sprites",
    *,
    seed: int | None = None,
    frames: int | None = None,
    overrides: Overrides = (),
) -> Video:
    """Make a video. Without a prompt, the recipe's own example.

    recipe: a shipped recipe's name, a path, or a Recipe. overrides: "path=value" texts, or a mapping.
    Raises RecipeError, WeightsError, SpaceError, NetworkError.

    >>> generate("a red circle moving left", "sprites-exact", frames=4).frames.shape
    (4, 64, 64, 3)
    """
    return finished(play(resolved(prompt, recipe, seed=seed, frames=frames, overrides=overrides)))


def stream(
    prompt: str | None = None,
    recipe: str | Path | Recipe = "sprites-long",
    *,
    seed: int | None = None,
    frames: int | None = None,
    overrides: Overrides = (),
) -> Iterator[Frames]:
    """The frames that `generate` would make, uint8 "f h w c", some at a time, as soon as they are finished.

    How many come at once is the recipe's: its last stage's window. Raises what `generate` raises.

    >>> pieces = stream("a red circle moving left", "sprites-long-exact", frames=600)
    >>> next(pieces).shape
    (8, 64, 64, 3)
    """
    asked = resolved(prompt, recipe, seed=seed, frames=frames, overrides=overrides)
    return (event.frames for event in play(asked) if isinstance(event, Piece))


def refine(
    video: str | Path,
    prompt: str | None = None,
    recipe: str | Path | Recipe = "sprites",
    *,
    strength: int | None = None,
    seed: int | None = None,
    frames: int | None = None,
    overrides: Overrides = (),
) -> Video:
    """Take a given video as the structure, and refine it with the recipe's stages after the first.

    strength: the timestep T_e up to which noise is added; more changes more. frames: only the first so many.
    Raises OutputError for a video that cannot be read, and all that `generate` raises.
    """
    asked = resolved(prompt, recipe, seed=seed, overrides=overrides)
    return finished(play(refining(asked, video, strength, frames)))


def finished(events: Iterable[Step | Piece | End]) -> Video:
    """The whole video that a run makes, once it has ended."""
    pieces = []
    for event in events:
        if isinstance(event, Piece):
            pieces.append(event)
        elif isinstance(event, End):
            frames, latent = np.concatenate([piece.frames for piece in pieces]), [piece.latent for piece in pieces]
            return Video(frames, event.settings["recipe"]["video"]["fps"], event.settings, torch.cat(latent, 2))
    raise ValueError("this run has no end, so its video is not whole")


def resolved(
    prompt: str | None,
    recipe: str | Path | Recipe,
    *,
    seed: int | None = None,
    frames: int | None = None,
    overrides: Overrides = (),
) -> Recipe:
    """The recipe with the prompt, the seed and the frames in it. Raises RecipeError."""
    asked = recipe if isinstance(recipe, Recipe) else recipes.load(recipe)
    asked = recipes.changed(asked, overrides)
    given = {"prompt": prompt, "video.seed": seed, "video.frames": frames}
    return recipes.changed(asked, {path: value for path, value in given.items() if value is not None})


def refining(recipe: Recipe, video: str | Path, strength: int | None = None, frames: int | None = None) -> Recipe:
    """The recipe that refines a video: its stages after the first (all, if it already starts from one)."""
    stages = recipe.chain if recipe.start is not None else recipe.chain[1:]
    if not stages:
        raise RecipeError("this recipe has one stage only, so nothing of it is left to refine with; take `sprites`")
    given = read(video)
    if frames is not None and not 1 <= frames <= len(given.frames):
        raise RecipeError(f"{frames} frames are asked for, but {video} has {len(given.frames)}")
    changes: dict[str, Any] = {
        "chain": [stage.model_dump(mode="json") for stage in stages],
        "start": {"video": str(Path(video).absolute()), "digest": digest(given)},
        "video.frames": frames or len(given.frames),
        "video.fps": given.fps,
    }
    if strength is not None:
        if not isinstance(stages[0].ladder, models.Below):
            raise RecipeError(
                f"strength is a timestep of the ladder `below`; stage '{stages[0].stage}' walks another ladder"
            )
        changes["chain.0.ladder.below.timestep"] = strength
    return recipes.changed(recipe, changes)


def play(recipe: Recipe, cast: Cast | None = None) -> Iterator[Step | Piece | End]:
    """Run a recipe: every step as it is taken, every piece of video as soon as it is finished, then the end.

    Before the first step everything is checked that can be: weights, latent spaces, frames, size.
    Warns with PromptWarning about words that the experts do not know, with ShapeWarning about a stretched video.
    """
    yield from (event for _, event in together([recipe], cast))


TOGETHER = 16
"""Runs that are walked together at most: each keeps a latent and its solver's memory meanwhile."""


def together(asked: Sequence[Recipe], cast: Cast | None = None) -> Iterator[tuple[int, Step | Piece | End]]:
    """Several runs with one cast, each event with the place of its run; what each makes is what `play` makes of it.

    They run one after another. But where experts take turns on the device (`residency`), each stretch of steps that asks
    the same experts is walked by all runs before the next, so that experts change no more often than for one run. Such
    runs ask the same experts at the same steps, as those of one recipe with other prompts and seeds; else RecipeError.
    """
    cast = load(asked[0]) if cast is None else cast
    if asked[0].residency == "all":
        for run, recipe in enumerate(asked):
            yield from ((run, event) for event in _ready(recipe, cast)[1])
        return
    for first in range(0, len(asked), TOGETHER):
        ready = [_ready(recipe, cast) for recipe in asked[first : first + TOGETHER]]
        yield from ((first + run, event) for run, event in _by_turns(ready, cast, asked[0].residency))


def _ready(recipe: Recipe, cast: Cast) -> "_Ready":
    """A run before its first step: everything is checked, nothing is asked."""
    begun = perf_counter()
    _joined(cast)
    _read_alike(recipe, cast)
    start = _start(recipe)
    recipe = settled(recipe, cast, start)
    latent = latent_of(recipe, cast.codec.space, max(getattr(it.network, "patch", 1) for it in cast.experts.values()))
    ahead = planned(recipe, known_of(cast), latent=latent)
    given = None if start is None else _encoded(start, recipe, cast.codec)
    warn_about(recipe)
    ledger = Ledger(Count)
    experts = {
        name: replace(expert, network=_Timed(name, expert.network, ledger)) for name, expert in cast.experts.items()
    }
    stages = tuple(_watched_stage(stage) for stage in build(recipe, experts, latent))
    shape = (cast.codec.channels, *latent[1:])
    events = _quietly(chain.run(stages, Noise(recipe.video.seed), timeline(latent[0]), shape, given))

    def told() -> Iterator[Step | Piece | End]:
        clock = _Clock()
        yield from _decoded(_told(events, ahead), cast.codec, clock)
        yield End(_settings(recipe, ledger, clock.seconds, begun))

    return ahead, told()


_Ready = tuple[Plan, Iterator[Step | Piece | End]]


def _by_turns(ready: Sequence[_Ready], cast: Cast, residency: str) -> Iterator[tuple[int, Step | Piece | End]]:
    """Runs walked together, their experts on the device only when they are asked."""
    from dovetail.experts.residency import Platform, interleaved, passengers

    asked = ready[0][0].asked
    if any(plan.asked != asked for plan, _ in ready):
        raise RecipeError(
            "these runs ask different experts at the same step, so their experts cannot take turns together; run them "
            "one by one, or take residency: all"
        )
    _read_ahead([plan for plan, _ in ready], cast)
    order, aboard = list(interleaved(asked, len(ready))), passengers(cast.experts)
    turns = [asked[step] & aboard.keys() for _, step in order]
    with closing(Platform(aboard).during(turns, residency)) as steps:
        for (run, _), _ in zip(order, steps, strict=True):
            for event in ready[run][1]:
                yield run, event
                if isinstance(event, Step):
                    break
    for run, (_, events) in enumerate(ready):
        yield from ((run, event) for event in events)


def _read_ahead(plans: Sequence[Plan], cast: Cast) -> None:
    """Show the texts of all runs to the text models, each on its device for that long."""
    from dovetail.experts.residency import read

    said: dict[str, list[str]] = {}
    for stage in (stage for plan in plans for stage in plan.stages):
        for part in walk(stage.denoise):
            if isinstance(part, Prompted):
                said.setdefault(part.expert.name, []).extend(condition.text for _, condition in part.prompt.keys)
    read(cast.experts, said)


def _told(events: Iterator[chain.Event], ahead: Plan) -> Iterator[Step | chain.Done]:
    """The chain's events, its steps numbered and weighed as the plan foresees them."""
    marks: dict[str, list[int]] = {stage.name: [] for stage in ahead.stages}
    for name, _, seen in ahead.steps:
        marks[name].append(seen)
    taken = dict.fromkeys(marks, 0)
    for event in events:
        if isinstance(event, chain.Done):
            yield event
            continue
        name, shown = event.stage.name, event.frames[0]
        taken[name] += 1
        share = marks[name][taken[name] - 1] / ahead.steps[-1][2]
        yield Step(name, taken[name], len(marks[name]), share, (int(shown[0]), int(shown[-1])))


def plan(
    recipe: str | Path | Recipe,
    prompt: str | None = None,
    *,
    seed: int | None = None,
    frames: int | None = None,
    overrides: Overrides = (),
) -> Plan:
    """What a run of this recipe will do, without loading weights."""
    asked = resolved(prompt, recipe, seed=seed, frames=frames, overrides=overrides)
    notes: list[str] = []
    cast = {name: _outlook(name, spec, notes) for name, spec in asked.experts.items()}
    return planned(asked, cast, notes, latent_of(asked, space_foreseen(asked, notes)))


# --- what a run needs --------------------------------------------------------------------------------------------


def load(recipe: Recipe) -> Cast:
    """Load a recipe's codec and experts. Raises WeightsError."""
    codec: Codec
    match recipe.codec:
        case models.Pixels(pixels=factor):
            from dovetail.sprites.exact import PixelCodec

            codec = PixelCodec(factor)
        case models.Autoencoder() as spec:
            from dovetail.experts import load_codec

            options = spec.model_dump(exclude={"weights", "device"})
            codec = load_codec(spec.weights, device=_device(spec.device), **options)
    experts: dict[str, Expert] = {}
    for name in recipe.experts:
        if name in _used(recipe):
            experts[name] = _expert(recipe, name, codec, experts)
    return Cast(experts, codec)


def _used(recipe: Recipe) -> set[str]:
    return {name for stage in recipe.chain for _, name in models.named(stage, "")}


def _expert(recipe: Recipe, name: str, codec: Codec, before: Mapping[str, Expert]) -> Expert:
    """An expert; `before` it these were loaded."""
    spec = recipe.experts[name]
    if isinstance(spec, models.Exact):
        from dovetail.sprites import exact

        schedule = None if spec.schedule == "own" else Flow()
        return exact.load(name, spec.kind, candidates=spec.candidates, seed=spec.seed, codec=codec, schedule=schedule)
    from dovetail import experts

    return experts.load(
        name,
        spec.family,
        spec.weights,
        revision=spec.revision,
        variant=spec.variant,
        dtype=spec.dtype,
        device=_device(spec.device),
        batch=spec.batch,
        adapter=spec.adapter,
        subfolder=spec.subfolder,
        fps=recipe.video.fps,
        text=next((_words(before[other]) for other in before if _same_words(recipe.experts[other], spec)), None),
        waiting=recipe.residency != "all",
    )


def _words(expert: Expert) -> Any:
    return expert.network.text  # type: ignore[attr-defined]


def _same_words(a: models.ExpertSpec, b: models.ExpertSpec) -> bool:
    """Whether one text model serves two experts: they come from one repository, or it is known that theirs have the
    same. Wan's is as large as a network."""
    if not isinstance(a, models.Pretrained) or not isinstance(b, models.Pretrained):
        return False
    from dovetail.experts.published import known

    one, two = (known(spec.weights, spec.subfolder or "transformer") for spec in (a, b))
    told = one is not None and two is not None and one.words is two.words and a.revision is b.revision is None
    keys = ("family", "dtype", "device") if told else ("family", "weights", "revision", "variant", "dtype", "device")
    return all(getattr(a, key) == getattr(b, key) for key in keys)


def _device(name: str) -> str:
    return name if name != "auto" else "cuda" if torch.cuda.is_available() else "cpu"


def _joined(cast: Cast) -> None:
    """Raise SpaceError unless all experts and the codec live in one latent space."""
    from dovetail.experts import same_space

    for name, expert in cast.experts.items():
        same_space(expert.network.space, cast.codec.space, (f"expert '{name}'", "the codec"))  # type: ignore[attr-defined]


def _read_alike(recipe: Recipe, cast: Cast) -> None:
    """Raise SpaceError unless experts that take turns within a walk have one text encoder."""
    from dovetail.experts.pairs import same_text

    for denoise in (stage.denoise for stage in recipe.chain):
        turns = [*parts(denoise), *([denoise] if isinstance(denoise, models.Probing) else [])]
        for part in turns:
            names = [name for _, name in models.named(part, "")]
            for a, b in pairwise(names):
                same_text(cast.experts[a], cast.experts[b])


def known_of(cast: Cast) -> dict[str, Known]:
    """What a plan needs to know, of loaded experts."""
    return {
        name: Known(
            expert.schedule,
            getattr(expert.network, "scheduler", None),
            getattr(expert.network, "max_frames", None),
            getattr(expert.network, "even", False),
        )
        for name, expert in cast.experts.items()
    }


def settled(recipe: Recipe, cast: Cast, start: Video | None) -> Recipe:
    """The recipe with all that a run finds out, so that it makes the same video again from anywhere: the
    micro-batch sizes that the experts really use, whole paths, and which video it started from."""
    found: dict[str, Any] = {
        f"experts.{name}.batch": cast.experts[name].network.batch  # type: ignore[attr-defined]
        for name, spec in recipe.experts.items()
        if isinstance(spec, models.Pretrained) and name in cast.experts
    }
    for path, place in recipes.weights_in(recipe).items():
        if not place.startswith("sprites/") and Path(place).expanduser().exists():
            found[path] = str(Path(place).expanduser().absolute())
    if recipe.start is not None and start is not None:
        found |= {"start.video": str(Path(recipe.start.video).absolute()), "start.digest": digest(start)}
    return recipes.changed(recipe, found)


USUAL: dict[str, Schedule] = {
    "stable-diffusion": VariancePreserving.betas("scaled_linear", 0.00085, 0.012),
    "animatediff": VariancePreserving.betas("linear", 0.00085, 0.012),
    "text-to-video-sd": VariancePreserving.betas("scaled_linear", 0.00085, 0.012),
    "wan": Flow(whole=True),
    "ltx": Flow(),
}
"""Each family's published schedule (Stable Diffusion 1.5, AnimateDiff, ModelScope, Wan, LTX-Video): what a
plan supposes of weights that are not on this machine."""


def _outlook(name: str, spec: models.ExpertSpec, notes: list[str]) -> Known:
    """What is known of an expert without its weights; adds a note where that is a guess."""
    if isinstance(spec, models.Exact):
        from dovetail.sprites.exact import SCHEDULES

        return Known(
            SCHEDULES[spec.kind] if spec.schedule == "own" else Flow(), longest=1 if spec.kind == "spatial" else None
        )
    from dovetail.experts.loading import FAMILIES, scheduler_config
    from dovetail.experts.published import known

    family = FAMILIES[spec.family]
    try:
        if not spec.weights.startswith("sprites/") and not Path(spec.weights).expanduser().is_dir():
            raise WeightsError(f"'{spec.weights}' is not on this machine")
        config = scheduler_config(name, spec.family, spec.weights, spec.adapter)
    except WeightsError as error:
        if (told := known(spec.weights, spec.subfolder or family.part)) is not None:
            notes.append(f"expert '{name}': {error}; planned by its published configuration")
            return Known(schedule_of(told.scheduler), told.scheduler, family.max_frames, family.even)
        notes.append(f"expert '{name}': {error}; levels are those of the family's usual schedule")
        return Known(USUAL[spec.family], longest=family.max_frames)
    return Known(schedule_of(config), config, family.max_frames, family.even)


def space_foreseen(recipe: Recipe, notes: list[str]) -> "LatentSpace":
    """The latents of a recipe's codec, without its weights; adds a note where that is a guess."""
    if isinstance(recipe.codec, models.Pixels):
        from dovetail.sprites.exact import PixelCodec

        return PixelCodec(recipe.codec.pixels).space
    from dovetail.experts.codec import space_at
    from dovetail.experts.loading import FAMILIES, IMAGES

    weights = recipe.codec.weights
    try:
        if not weights.startswith("sprites/") and not Path(weights).expanduser().is_dir():
            raise WeightsError(f"'{weights}' is not on this machine")
        return space_at(weights, recipe.codec.subfolder)
    except WeightsError as error:
        experts = [spec for spec in recipe.experts.values() if isinstance(spec, models.Pretrained)]
        if weights not in [spec.weights for spec in experts]:  # else a note has said it
            notes.append(f"codec: {error}; its latents are supposed to be of the experts' usual size")
        return FAMILIES[experts[0].family].space if experts and not weights.startswith("sprites/") else IMAGES


# --- during a run ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Timed:
    """A network, counted and timed; its answer must be finite."""

    name: str
    network: Network
    ledger: Ledger

    def __call__(self, x: Tensor, time: float, conditions: Sequence[Condition], frames: Tensor) -> Tensor:
        begun = perf_counter()
        out = self.network(x, time, conditions, frames)
        if not bool(out.isfinite().all()):
            raise NetworkError(self.name, time)
        self.ledger[self.name] += Count(1, len(x) * x.shape[2], perf_counter() - begun)
        return out

    def without(self, skipped: tuple[int, ...]) -> "_Timed":
        from dovetail.experts.blocks import shortened

        return replace(self, network=shortened(self.network, skipped))

    @property
    def scheduler(self) -> Any:
        return getattr(self.network, "scheduler", None)

    @property
    def even(self) -> bool:
        return getattr(self.network, "even", False)


@dataclass(frozen=True)
class _Watched:
    """A stage's denoiser; when a network fails in it, the error says at which step."""

    stage: Stage = field(repr=False, compare=False)
    denoise: Denoiser

    def __call__(self, x: Tensor, t: float, frames: Tensor) -> Split:
        try:
            return self.denoise(x, t, frames)
        except NetworkError as error:
            raise error.at(self.stage.name, self.stage.ladder.levels.index(t) + 1) from None


@dataclass(frozen=True)
class _WatchedSequel:
    """A stage's sequel; what it makes each window with is watched."""

    stage: Stage = field(repr=False, compare=False)
    denoise: Sequel

    def after(self, before: Segment | None) -> Denoiser | Walk:
        return _watched(self.stage, self.denoise.after(before))


def _watched(stage: Stage, whole: Denoiser | Walk) -> Denoiser | Walk:
    """What a stage does, watched; of a walk, the denoisers that it is made of."""
    if not isinstance(whole, Walk):
        return _Watched(stage, whole)
    assert is_dataclass(whole)
    assert not isinstance(whole, type)
    inner = {part.name: getattr(whole, part.name) for part in fields(whole)}
    return replace(whole, **{name: _Watched(stage, part) for name, part in inner.items() if callable(part)})


def _watched_stage(stage: Stage) -> Stage:
    whole = stage.denoise
    watched = _WatchedSequel(stage, whole) if isinstance(whole, Sequel) else _watched(stage, whole)
    return replace(stage, denoise=watched)


def _quietly(events: Iterator[chain.Event]) -> Iterator[chain.Event]:
    """The same events, without the experts' own warnings about words: the run has warned already."""
    while True:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="expert '.*' does not know", category=PromptWarning)
            event = next(events, None)
        if event is None:
            return
        yield event


def warn_about(recipe: Recipe) -> None:
    """Warn with PromptWarning about words that sprite experts do not know, if they are asked."""
    sprites = [
        spec
        for spec in recipe.experts.values()
        if isinstance(spec, models.Exact) or spec.weights.startswith("sprites/")
    ]
    if not sprites:
        return
    from dovetail.sprites.world import GRAMMAR, ask

    _, strange = ask(recipe.prompt)
    if strange:
        message = f"words that sprite experts do not know: {', '.join(strange)}. They know:\n{GRAMMAR}"
        warnings.warn(message, PromptWarning, stacklevel=3)


def latent_of(recipe: Recipe, space: "LatentSpace", patch: int = 1) -> tuple[int, int, int]:
    """Frames, height and width of the video's latent. Raises RecipeError for frames and sizes that do not fit.

    patch: latent cells along each side of what a network takes for one token.
    """
    size, factor, compression = recipe.video, (space.factor or 1) * patch, space.compression or 1
    if (size.frames - 1) % compression:
        below = (size.frames - 1) // compression * compression + 1
        raise RecipeError(
            f"video.frames: the codec makes {compression}k + 1 frames, the first and then {compression} at a time, "
            f"not {size.frames}; --frames {below} or --frames {below + compression} fits"
        )
    if size.height % factor or size.width % factor:
        near = [max(factor, round(side / factor) * factor) for side in (size.height, size.width)]
        what = "the codec's pixels per latent cell" if patch == 1 else "the pixels of an expert's token"
        raise RecipeError(
            f"video.height and video.width must be multiples of {factor}, {what}, "
            f"not {size.height}x{size.width}; {near[0]}x{near[1]} is near"
        )
    cell = space.factor or 1
    return space.latent_frames(size.frames), size.height // cell, size.width // cell


def _start(recipe: Recipe) -> Video | None:
    """The video that the recipe starts from, if it starts from one."""
    if recipe.start is None:
        return None
    video = read(recipe.start.video)
    if recipe.start.digest not in (None, digest(video)):
        raise RecipeError(f"start.video: {recipe.start.video} is not the video it was when this recipe was made")
    if len(video.frames) < recipe.video.frames:
        raise RecipeError(
            f"video.frames: {recipe.video.frames} frames are asked for, but {recipe.start.video} has {len(video.frames)}"
        )
    return video


def _encoded(video: Video, recipe: Recipe, codec: Codec) -> Tensor:
    """The latent of the frames that the recipe takes of a video, at its size."""
    (old_height, old_width), (height, width) = video.size, (recipe.video.height, recipe.video.width)
    if abs(old_height * width / (old_width * height) - 1) > 0.02:  # beyond an odd line that H.264 adds
        message = (
            f"the given video is {old_width}x{old_height} and is stretched to {width}x{height}; to keep its shape, "
            "change video.height and video.width, as far as the experts go along"
        )
        warnings.warn(message, ShapeWarning, stacklevel=3)
    return codec.encode(Video(video.frames[: recipe.video.frames], video.fps).resized(height, width).pixels)


def digest(video: Video) -> str:
    """A short sha256 of the frames."""
    return hashlib.sha256(video.frames.tobytes()).hexdigest()[:16]


CONTEXT = 4
"""Latent frames that a video autoencoder is shown again before a piece, so that what it makes joins the piece before."""


def _decoded(events: Iterator[Step | chain.Done], codec: Codec, clock: "_Clock") -> Iterator[Step | Piece]:
    """Latents to frames, piece by piece; a codec that looks back in time sees the end of the piece before again."""
    compression, tail, made = codec.space.compression or 1, None, 0
    for event in events:
        if isinstance(event, Step):
            yield event
            continue
        shown = event.video if tail is None else torch.cat([tail, event.video], 2)
        with clock:
            pixels = codec.decode(shown)
        if tail is not None:
            pixels = pixels[:, -event.video.shape[2] * compression :]
        tail = shown[:, :, -CONTEXT:] if compression > 1 else None
        frames = Video.of(pixels, 1.0).frames
        yield Piece(frames, made, event.video)
        made += len(frames)


@dataclass
class _Clock:
    """Seconds spent inside its blocks."""

    seconds: float = 0.0
    begun: float = 0.0

    def __enter__(self) -> None:
        self.begun = perf_counter()

    def __exit__(self, *_: object) -> None:
        self.seconds += perf_counter() - self.begun


def _settings(recipe: Recipe, ledger: Ledger, decoding: float, begun: float) -> dict[str, Any]:
    """What a manifest says of a run that took so many seconds to decode."""
    networks = sum(count.seconds for count in ledger.values()) + decoding
    return {
        "recipe": recipes.plain(recipe),
        "versions": {name: version(name) for name in ("dovetail-video", "torch", "diffusers")},
        "calls": {name: ledger[name].calls for name in recipe.experts if name in ledger},
        "seconds": round(perf_counter() - begun, 3),
        "seconds_in_networks": round(networks, 3),
        "peak_megabytes": round(peak_memory()),
    }


def peak_memory() -> float:
    """The most memory that this process has held, in megabytes, a GPU's included."""
    unit = 1 if sys.platform == "darwin" else 1024
    host = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    return (host + (torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0)) / 2**20


# --- what there is -----------------------------------------------------------------------------------------------

FAMILIES_SAID = {
    "stable-diffusion": "UNet2DConditionModel, one frame at a time: Stable Diffusion 1.x and 2.x",
    "animatediff": "UNetMotionModel: AnimateDiff and AnimateDiff-Lightning",
    "text-to-video-sd": "UNet3DConditionModel: ModelScope text-to-video",
    "wan": "WanTransformer3DModel: Wan 2.1 of both sizes, and each expert of Wan 2.2 A14B by its subfolder",
    "ltx": "LTXVideoTransformer3DModel: LTX-Video 2B and 13B",
    "exact": "closed-form denoisers of finite sets of sprite renders; no weights",
}
"""What each family of experts is."""


def weights_used() -> list[str]:
    """One line for each weights that a shipped recipe names: where they are, their size and licence, who uses them."""
    users: dict[tuple[str, str], list[str]] = {}
    for name in recipes.names():
        recipe = recipes.load(name)
        for spec in recipe.experts.values():
            if isinstance(spec, models.Pretrained):
                users.setdefault((spec.weights, spec.family), []).append(name)
        if isinstance(recipe.codec, models.Autoencoder):
            users.setdefault((recipe.codec.weights, "codec"), []).append(name)
    return [
        f"{weights} ({family}): {_whereabouts(weights)}; used by {', '.join(by)}"
        for (weights, family), by in sorted(users.items())
    ]


def _whereabouts(weights: str) -> str:
    from dovetail.experts.checkpoint import find
    from dovetail.experts.published import PUBLISHED

    local = weights.startswith("sprites/") or Path(weights).expanduser().is_dir()
    if not local:
        licences = {name: told.licence for (name, _), told in PUBLISHED.items()}
        return f"on the hub, {licences.get(weights, 'licence in its model card')}"
    try:
        folder = find(weights, None, None, []).path
    except WeightsError as error:
        return f"missing ({error})"
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) / 2**20
    return f"{size:.1f} MB, " + (
        "packaged, Apache-2.0" if weights.startswith("sprites/") else "licence in its model card"
    )
