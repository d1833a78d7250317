"""Who could take a step of a recipe's blended stage, what each costs, and where the stage begins."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from dovetail import recipe as recipes
from dovetail.core import chain
from dovetail.core.denoiser import Condition, Denoiser, Expert, timeline
from dovetail.core.noise import Noise
from dovetail.core.stages import Done, Stage, entered
from dovetail.core.tree import rewrite
from dovetail.costs import costs
from dovetail.errors import RecipeError, nearest
from dovetail.experts.adapter import Adapter
from dovetail.experts.blocks import Reusing, blocks_of, inner, middle
from dovetail.experts.flops import flops
from dovetail.experts.pairs import same_text
from dovetail.methods.flowblending import Blended
from dovetail.recipe import Recipe, models
from dovetail.recipe.build import blends, build, leaves
from dovetail.run import Cast, latent_of, plan
from dovetail.run.manifest import weights_of

Part = Any
"""A denoiser of a recipe, as a model."""

KINDS = ("unguided", "halved", "shortened", "cached")
"""What else can be made of each expert: without its guidance, at half its height and width, without some blocks, with
what its middle did in a step before that it took in full."""


@dataclass(frozen=True)
class Candidate:
    """A denoiser of the recipe by name, and the floating point operations of one of its steps."""

    name: str
    part: Part = field(repr=False)
    cost: float


@dataclass(frozen=True)
class Case:
    """A recipe, which of its stages is blended, and who could take its steps: the dearest first.

    weights: a digest of what each network has learned, by name.
    """

    recipe: Recipe
    place: int
    candidates: tuple[Candidate, ...]
    notes: tuple[str, ...] = ()
    weights: Mapping[str, str] = field(default_factory=dict)

    @property
    def stage(self) -> models.Stage:
        return self.recipe.chain[self.place]

    @property
    def history(self) -> str:
        """Whether a solver keeps, where candidates change, what it saw above."""
        return self.stage.denoise.history if isinstance(self.stage.denoise, models.Blended) else "kept"

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(candidate.name for candidate in self.candidates)

    @property
    def costs(self) -> tuple[float, ...]:
        return tuple(candidate.cost for candidate in self.candidates)

    @property
    def follows(self) -> dict[int, int]:
        """Candidates that reuse what the step before them left, by their places: who, and who must have taken it."""
        parts = [candidate.part for candidate in self.candidates]
        return {i: parts.index(whole_of(part)) for i, part in enumerate(parts) if reuses(part)}

    @cached_property
    def digest(self) -> str:
        """A digest of all that measurements depend on, except prompt and seed. Fields that are not set are left out, so that
        a field which is new in recipes makes no measurement stale until it is set."""
        whole = recipes.plain(recipes.changed(self.recipe, {"about": "", "prompt": "", "video.seed": 0}))
        whole["chain"] = [*whole["chain"][: self.place], {**whole["chain"][self.place], "denoise": self.names}]
        parts = [candidate.part.model_dump(mode="json") for candidate in self.candidates]
        told = json.dumps([recipes.said(whole), recipes.said(parts), dict(self.weights)], sort_keys=True)
        return hashlib.sha256(told.encode()).hexdigest()[:12]


@dataclass(frozen=True, eq=False)
class Ready:
    """A case for one prompt and seed: the stage, a denoiser per candidate, the latent that the stage begins with.

    denoisers: each by itself, with no memory of another's looks; together: as in one run, where a cached candidate
    reuses what the whole one left; leaving: of the cached ones by themselves, what leaves them something to reuse;
    drops: whether a solver forgets, where candidates change, what it saw above.
    """

    stage: Stage
    denoisers: tuple[Denoiser, ...]
    together: tuple[Denoiser, ...]
    leaving: tuple[Denoiser, ...]
    frames: Tensor
    x: Tensor
    drops: bool = False


def case_of(recipe: Recipe, cast: Cast, also: Sequence[str] = ()) -> Case:
    """What there is to calibrate in a recipe. also: of `KINDS`, what else is made of each expert.

    Raises RecipeError where no stage is blended, or blends one expert with itself.
    """
    check_kinds(also)
    place, notes = place_of(recipe), list[str]()
    parts = _parts(recipe, place)
    experts = [cast.experts[name] for part in parts.values() for name in models.experts_in(part)]
    for a, b in pairwise(experts):
        same_text(a, b)
    _one_reference(recipe, place, {name: cost(recipe, place, part, cast) for name, part in parts.items()})
    shape = latent_shape(recipe, cast)
    _whole(recipe, place, shape[1], cast.codec.space.compression or 1)
    kept = {leaf.expert: leaf.reuse for part in parts.values() for leaf in leaves(part) if leaf.reuse}
    for name, part in list(parts.items()):
        for kind in also:
            made = variant(part, kind, cast, shape, kept)
            same = next((other for other, one in parts.items() if one == made), None)
            if isinstance(made, str) or same is not None:
                notes.append(f"{name}, {kind}: left out, {f'it is {same}' if same is not None else made}")
            else:
                parts[f"{name}, {kind}"] = made
    priced = [Candidate(name, part, cost(recipe, place, part, cast)) for name, part in parts.items()]
    dearest_first = tuple(sorted(priced, key=lambda candidate: -candidate.cost))
    return Case(recipe, place, dearest_first, tuple(notes), weights_of(cast))


def check_kinds(also: Sequence[str]) -> None:
    """Raises RecipeError for what is none of `KINDS`."""
    for kind in also:
        if kind not in KINDS:
            raise RecipeError(f"unknown kind of candidate '{kind}'; {nearest(kind, KINDS)}")


def place_of(recipe: Recipe) -> int:
    """Where in the chain the stage to calibrate is, as far as can be told without weights. Raises RecipeError."""
    places = [i for i, stage in enumerate(recipe.chain) if isinstance(stage.denoise, models.Blended)]
    if not places:
        _outermost(recipe)
    if not places or recipe.start is not None:
        raise RecipeError(
            "calibrate needs a recipe that starts from noise and has a stage that is blended, as in denoise: "
            "{blended: {above 0.5: large, else: small}}; the boundaries there are only a beginning"
        )
    place = places[0]
    parts = _parts(recipe, place)
    _whole_too(recipe, place, parts)
    alone = [name for name, part in parts.items() if not reuses(part)]
    if len(alone) < 2:
        raise RecipeError(
            f"chain.{recipe.chain[place].stage}.denoise.blended: one candidate only ({', '.join(alone)}); calibrate "
            "compares two or more that can take steps in a row, as in {above 0.5: large, else: small}"
        )
    _unspliced(recipe, place)
    return place


def _outermost(recipe: Recipe) -> None:
    """Raises RecipeError for a blended that stands inside another denoiser."""
    for stage in recipe.chain:
        for blended in blends(stage.denoise):
            own = json.dumps(blended.model_dump(mode="json", exclude_defaults=True))
            untold = "" if recipe.story is None else " --set story=null"
            raise RecipeError(
                f"chain.{stage.stage}.denoise: blended stands inside {stage.denoise.word}, and calibrate needs it to "
                "be the stage's own denoise. Calibrate that alone, on a video no longer than its experts see at once: "
                f"--set 'chain.{stage.stage}.denoise={own}' --set video.frames=N{untold}; then write the boundaries that "
                "are found into the one inside"
            )


def reuses(part: Part) -> bool:
    """Whether a denoiser goes on with what one before it left."""
    return any(leaf.reuse for leaf in leaves(part))


def whole_of(part: models.Leaf) -> models.Leaf:
    """The expert that leaves what this one reuses: the same one, in full."""
    return part.model_copy(update={"reuse": ()})


def _whole_too(recipe: Recipe, place: int, parts: Mapping[str, Part]) -> None:
    """Raises RecipeError for a denoiser that reuses what no other here leaves."""
    path = f"chain.{recipe.chain[place].stage}.denoise.blended"
    for part in filter(reuses, parts.values()):
        if not isinstance(part, models.Leaf):
            raise RecipeError(
                f"{path}: an expert inside {part.word} reuses blocks, and calibrate can place that only right after a "
                "look in full, so it must be an expert by itself; leave out reuse there, and ask for it by "
                "--also cached"
            )
        if whole_of(part) not in parts.values():
            whole = json.dumps(whole_of(part).model_dump(mode="json", exclude_defaults=True))
            raise RecipeError(
                f"{path}: expert '{part.expert}' reuses blocks {list(part.reuse)} after a look in full, and none here "
                f"looks in full as it does; give an interval to {whole} as well, or leave out reuse and ask for it by "
                "--also cached"
            )


def check_ahead(recipe: Recipe) -> None:
    """Raises RecipeError, before weights are loaded, where a recipe cannot be calibrated, as far as configurations tell:
    what else `case_of` finds is found when they are."""
    place = place_of(recipe)
    parts = _parts(recipe, place)
    # Of two none takes turns, and a stage that is not the first has no plan of its own.
    if len(parts) > 2 and place == 0:
        alone = costs(plan(recipes.changed(recipe, {"chain": recipes.plain(recipe)["chain"][:1]}))).alone
        _one_reference(recipe, place, {name: alone[name].total for name in parts if name in alone})


def _unspliced(recipe: Recipe, place: int) -> None:
    """Raises RecipeError for a ladder that is made for the very boundaries that are looked for."""
    stage = recipe.chain[place]
    if isinstance(stage.ladder, models.Spliced):
        whole = stage.ladder.ladder.model_dump(mode="json", exclude_none=True)
        raise RecipeError(
            f"chain.{stage.stage}.ladder is spliced at {stage.ladder.early:g} and {stage.ladder.late:g}: what is measured on "
            "such levels says nothing of other boundaries, and they would have to move in both places. Calibrate on the "
            f"large expert's ladder, --set 'chain.{stage.stage}.ladder={json.dumps(whole)}', and then write the two "
            "boundaries that are found into `blended` and into `spliced`, as early and late"
        )


def _whole(recipe: Recipe, place: int, length: int, compression: int) -> None:
    """Raises RecipeError for a stage that does not see its video whole, as it is shown here."""
    stage = recipe.chain[place]
    if stage.window is not None and stage.window < length:
        raise RecipeError(
            f"chain.{stage.stage}.window: calibrate shows the whole video at once, and this stage sees {stage.window} of its "
            f"{length} latent frames; calibrate on one window, as by --set video.frames={(stage.window - 1) * compression + 1}"
        )


def _one_reference(recipe: Recipe, place: int, spent: Mapping[str, float]) -> None:
    """Raises RecipeError where several large experts take turns, so that none of them is right at every level."""
    large = [name for name, each in spent.items() if each > 0.99 * max(spent.values())]
    if len(large) < 2 or len(large) == len(spent):
        return
    parts = _parts(recipe, place).items()
    said = {name: json.dumps(part.model_dump(mode="json", exclude_defaults=True)) for name, part in parts}
    stage, small = recipe.chain[place].stage, min(spent, key=lambda name: spent[name])
    turns = f"{{blended: {{above 0.875: {said[large[0]]}, else: {said[large[1]]}}}}}"
    raise RecipeError(
        f"chain.{stage}.denoise.blended: {' and '.join(large)} cost the same and take turns, so neither alone is what "
        f"{small} should be measured against. Join them to one denoiser, with the boundary where they change without {small} "
        f"(.875 for Wan 2.2), and calibrate that: --set 'chain.{stage}.denoise={{blended: {{above 0.95: {turns}, "
        f"above 0.764: {said[small]}, else: {turns}}}}}'"
    )


def _parts(recipe: Recipe, place: int) -> dict[str, Part]:
    """The denoisers of a recipe's blended stage by name."""
    blended = recipe.chain[place].denoise
    assert isinstance(blended, models.Blended)
    return named(tuple(blended.of.values()))


def named(parts: Sequence[Part]) -> dict[str, Part]:
    """Different denoisers by short names: an expert's own, or the method's word, with a number where that is taken; for
    one that reuses, that of the expert in full, and ", cached"."""
    found: dict[str, Part] = {}
    for part in sorted(parts, key=_cached):
        if part in found.values():
            continue
        name = part.expert if isinstance(part, models.Leaf) else part.word
        if _cached(part):
            name = next((f"{other}, cached" for other, one in found.items() if one == whole_of(part)), name)
        taken = sum(known.partition(" ")[0] == name for known in found)
        found[f"{name} {taken + 1}" if taken else name] = part
    return found


def _cached(part: Part) -> bool:
    return isinstance(part, models.Leaf) and bool(part.reuse)


def variant(
    part: Part, kind: str, cast: Cast, shape: Sequence[int], kept: Mapping[str, tuple[int, ...]] | None = None
) -> Part | str:
    """Another candidate made of one, or why there is none. kept: by expert, the blocks that a recipe reuses already,
    since all of an expert's looks leave the same ones."""
    if reuses(part) and kind != "unguided":
        return "it reuses blocks already"
    if kind == "unguided":
        guided = isinstance(part, models.Leaf) and part.guidance != 1
        return part.model_copy(update={"guidance": 1.0}) if guided else "it is not guided"
    if kind in ("shortened", "cached"):
        count = blocks_in(part, cast)
        if count < 3:
            return "its network is no stack of three blocks or more"
        cached = (kept or {}).get(part.expert, inner(count))
        return part.model_copy(update={"skip": middle(count)} if kind == "shortened" else {"reuse": cached})
    if any(side % 4 for side in shape[2:]):
        return f"its latents are {shape[2]}x{shape[3]}, and half of that must be even"
    return models.Halved.model_validate({"halved": part.model_dump(mode="json")})


def blocks_in(part: Part, cast: Cast) -> int:
    """How many blocks an expert's network is a stack of; 0 where it is none, or loses some already."""
    network = cast.experts[part.expert].network if isinstance(part, models.Leaf) and not part.skip else None
    name = blocks_of(network.module) if isinstance(network, Adapter) else None
    return len(getattr(network.module, name)) if isinstance(network, Adapter) and name is not None else 0


def latent_shape(recipe: Recipe, cast: Cast) -> tuple[int, int, int, int]:
    """Channels, frames, height and width of the recipe's latents."""
    patch = max(getattr(expert.network, "patch", 1) for expert in cast.experts.values())
    return (cast.codec.channels, *latent_of(recipe, cast.codec.space, patch))


def stages_of(recipe: Recipe, place: int, part: Part, cast: Cast) -> tuple[Stage, ...]:
    """The recipe's stages up to the blended one, with one candidate taking all of its steps."""
    alone = recipes.changed(recipe, {f"chain.{place}.denoise": part.model_dump(mode="json")})
    return build(alone, cast.experts, latent_shape(recipe, cast)[1:])[: place + 1]


def in_steps(recipe: Recipe, place: int, steps: int) -> Recipe | None:
    """The same with a stage's ladder walked in so many steps; None where that is a list, or has no room for them."""
    ((word, options),) = recipes.plain(recipe)["chain"][place]["ladder"].items()
    if not isinstance(options, dict) or "steps" not in options:
        return None
    try:
        return recipes.changed(recipe, {f"chain.{place}.ladder": {word: {**options, "steps": steps}}})
    except RecipeError:
        return None


def cost(recipe: Recipe, place: int, part: Part, cast: Cast) -> float:
    """Floating point operations of one step of a candidate, both branches of guidance and all windows counted."""
    spent: list[float] = []
    if isinstance(part, models.Leaf) and part.reuse:  # What is reused costs what it does to leave it out.
        part = part.model_copy(update={"skip": part.reuse, "reuse": ()})

    def counting(node: Any) -> Any:
        return replace(node, network=_Costing(node, recipe.prompt, spent)) if isinstance(node, Expert) else node

    stage = stages_of(recipe, place, part, cast)[-1]
    shape = latent_shape(recipe, cast)
    denoise: Callable[[Tensor, float, Tensor], Any] = rewrite(stage.denoise, counting)
    denoise(torch.zeros(1, *shape), stage.ladder.levels[0], timeline(shape[1]))
    return sum(spent)


@dataclass(frozen=True, eq=False)
class _Costing:
    """A network that writes down what its expert's would cost, and sees nothing."""

    expert: Expert
    text: str
    spent: list[float]

    def __call__(self, x: Tensor, time: float, conditions: Sequence[Condition], frames: Tensor) -> Tensor:
        channels, length, height, width = x.shape[1:]
        self.spent.append(len(x) * flops(self.expert, (channels, length, height, width), self.text))
        return torch.zeros_like(x)


def ready(case: Case, cast: Cast, prompt: str, seed: int) -> Ready:
    """The case for a prompt; stages before the blended one are run."""
    recipe = recipes.changed(case.recipe, {"prompt": prompt, "video.seed": seed})
    chains = [stages_of(recipe, case.place, candidate.part, cast) for candidate in case.candidates]
    together = stages_of(recipe, case.place, taking_turns(case.candidates), cast)[-1].denoise
    assert isinstance(together, Blended)
    shape = latent_shape(recipe, cast)
    noise, frames = Noise(seed), timeline(shape[1])
    *before, stage = chains[0]
    video: Tensor = torch.zeros(()).expand(1, *shape)
    if before:
        done = [e for e in chain.run(before, noise, frames, (shape[0], *shape[2:])) if isinstance(e, Done)]
        video = torch.cat([piece.video for piece in done], 2)
    x = entered(stage, noise.of(stage.name), Done(frames, video), fresh=not before)
    denoisers = []
    for *_, each in chains:
        assert callable(each.denoise)
        denoisers.append(each.denoise)
    leaving = tuple(in_full(denoisers[i]) for i in case.follows)
    return Ready(stage, tuple(denoisers), together.experts, leaving, frames, x, case.history == "dropped")


def taking_turns(candidates: Sequence[Candidate]) -> models.Blended:
    """All candidates in one denoiser, in whatever intervals."""
    *most, last = (candidate.part.model_dump(mode="json") for candidate in candidates)
    of = {f"above {1 - (i + 1) / (len(most) + 1):.6f}": part for i, part in enumerate(most)}
    return models.Blended.model_validate({"blended": {**of, "else": last}})


def in_full(denoise: Denoiser) -> Denoiser:
    """The same denoiser with no network reusing anything; what they leave is left to the same ones as before."""

    def change(node: Any) -> Any:
        if isinstance(node, Expert) and isinstance(node.network, Reusing):
            return replace(node, network=replace(node.network, reuses=False))
        return node

    found: Denoiser = rewrite(denoise, change)
    return found
