"""A recipe's experts and codec, loaded, and whether they fit together."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from torch import Tensor

from dovetail import recipe as recipes
from dovetail.core.denoiser import Expert
from dovetail.core.schedules import Flow
from dovetail.errors import RecipeError
from dovetail.recipe import Recipe, models
from dovetail.recipe.build import blends
from dovetail.recipe.planning import Known
from dovetail.run.bridging import codec_names, codecs_of
from dovetail.run.budget import Fit, budget_of, fitted
from dovetail.run.given import Source
from dovetail.run.outlook import check_outlook
from dovetail.run.sizes import bring_configs, check_configs

if TYPE_CHECKING:
    from dovetail.experts import LatentSpace


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
    def stream(self, latent: Tensor, /) -> Iterator[Tensor]: ...


@dataclass(frozen=True, eq=False)
class Cast:
    """A recipe's experts and codec, loaded. One cast plays any number of runs of its recipe.

    fit: how they are made to fit on their device; None where nothing is known of its memory. codecs: by stage, where
    stages are joined through pixels; all others work in the latents of `codec`.
    """

    experts: Mapping[str, Expert]
    codec: Codec
    fit: Fit | None = None
    codecs: Mapping[str, Codec] = field(default_factory=dict)

    def codec_at(self, stage: str) -> Codec:
        """The codec in whose latents a stage works."""
        return self.codecs.get(stage, self.codec)

    def others(self, recipe: Recipe) -> dict[str, Codec]:
        """The codecs that are not the video's, by their names in a plan."""
        names = codec_names(recipe)
        return {names[stage]: codec for stage, codec in self.codecs.items() if codec is not self.codec}

    def moves(self, recipe: Recipe) -> bool:
        """Whether experts and codecs come to the device and go again."""
        return moving(recipe, self.fit)


def moving(recipe: Recipe, fit: Fit | None) -> bool:
    """Whether experts and codecs come to the device and go again, if the recipe is made to fit so."""
    return recipe.residency != "all" or (fit is not None and fit.here is not None)


def load(recipe: Recipe) -> Cast:
    """Load a recipe's codecs and experts. Raises WeightsError, and RoomError for a run that cannot fit on its device;
    where that is counted, what `check_outlook` raises before anything comes."""
    counted = budget_of(recipe) is not None
    if counted:
        check_outlook(recipe)
    check_nearby(recipe)
    check_configs(recipe, used(recipe))
    if counted:
        bring_configs(recipe, used(recipe))
    fit, names = fitted(recipe), codec_names(recipe)
    codecs = {name: _codec(recipe, spec, name, fit) for name, spec in codecs_of(recipe).items()}
    at = {stage: codecs[name] for stage, name in names.items()} if recipe.bridged else {}
    cast = Cast({}, codecs[names[recipe.chain[-1].stage]], fit, at)
    experts: dict[str, Expert] = {}
    for name in recipe.experts:
        if name in used(recipe):
            experts[name] = _expert(recipe, name, cast, experts)
    return replace(cast, experts=experts)


def check_nearby(recipe: Recipe) -> None:
    """Raise WeightsError for weights that a recipe has on this machine, if they are not there, and RecipeError for two
    revisions of one repository at once: before any come from the hub."""
    from dovetail.experts.nearby import check_codec, check_expert, check_files
    from dovetail.experts.pins import unpinned

    for codec in codecs_of(recipe).values():
        if isinstance(codec, models.Autoencoder):
            unpinned(codec.weights, codec.revision)
            check_codec(codec.location)
            check_files([codec.base] if codec.base is not None else [])
    for spec in (recipe.experts[name] for name in recipe.experts if name in used(recipe)):
        if isinstance(spec, models.Pretrained):
            unpinned(spec.weights, spec.revision)
            check_expert(spec.family, spec.location, spec.adapter)
            others = [place for place in (spec.base, spec.words) if place is not None]
            check_files([*others, *(lora.weights for lora in spec.loras)])


def load_codec(recipe: Recipe) -> Codec:
    """Load a recipe's codec alone. Raises WeightsError."""
    return _codec(recipe, recipe.codec, "", None)


def _codec(recipe: Recipe, codec: models.Codec, name: str, fit: Fit | None) -> Codec:
    match codec:
        case models.Pixels(pixels=factor):
            from dovetail.sprites.exact import PixelCodec

            return PixelCodec(factor)
        case models.Autoencoder() as spec:
            from dovetail import experts

            options = spec.model_dump(exclude={"weights", *experts.Tuning.__dataclass_fields__})
            if fit is not None:
                # An image autoencoder alone is given a number of frames.
                options |= {"tiles": fit.tiles.get(name, spec.tiles), "chunk": fit.chunks.get(name, spec.chunk)}
            tuning = experts.tuning_of(spec.model_dump())
            found: Codec = experts.load_codec(spec.weights, tuning=tuning, waiting=moving(recipe, fit), **options)
            return found


def used(recipe: Recipe) -> set[str]:
    """The experts that its stages name."""
    return {name for stage in recipe.chain for name in models.experts_in(stage)}


def _expert(recipe: Recipe, name: str, cast: Cast, before: Mapping[str, Expert]) -> Expert:
    """An expert of a cast; `before` it these were loaded."""
    spec, fit = recipe.experts[name], cast.fit
    if isinstance(spec, models.Exact):
        from dovetail.sprites import exact

        schedule = None if spec.schedule == "own" else Flow()
        codec = cast.codec_at(next(stage.stage for stage in recipe.chain if name in models.experts_in(stage)))
        return exact.load(name, spec.kind, candidates=spec.candidates, seed=spec.seed, codec=codec, schedule=schedule)
    from dovetail import experts

    tuning = experts.tuning_of(spec.model_dump())
    return experts.load(
        name,
        spec.family,
        spec.weights,
        revision=spec.revision,
        variant=spec.variant,
        dtype=spec.dtype,
        device=spec.device,
        batch=spec.batch if fit is None else fit.batches.get(name, spec.batch),
        adapter=spec.adapter,
        subfolder=spec.subfolder,
        base=spec.base,
        words=spec.words,
        loras=[experts.Lora(lora.weights, lora.scale) for lora in spec.loras],
        fps=recipe.video.fps,
        text=next((_words(before[other]) for other in before if same_words(recipe.experts[other], spec)), None),
        waiting=cast.moves(recipe),
        words_wait=True,
        tuning=replace(tuning, offload=tuning.offload or (fit is not None and name in fit.grouped)),
    )


def _words(expert: Expert) -> Any:
    return expert.network.text  # type: ignore[attr-defined]


def reads_with_clip(family: str) -> bool:
    """Whether a family's text model is CLIP's alone, which its LoRA weights may change as well."""
    from dovetail.experts.loading import FAMILIES

    return FAMILIES[family].texts == ("CLIPTextModel",)


def same_words(a: models.ExpertSpec, b: models.ExpertSpec) -> bool:
    """Whether one text model serves two experts: they come from one repository, or it is known that theirs have the
    same, a file's being its base's unless it may hold one itself. Wan's is as large as a network."""
    if not isinstance(a, models.Pretrained) or not isinstance(b, models.Pretrained):
        return False
    from dovetail.experts.pins import unpinned
    from dovetail.experts.published import known

    ids = [(unpinned(spec.weights, spec.revision), unpinned(spec.base or "")) for spec in (a, b)]
    one, two = (known(_reads_by(spec), spec.subfolder or "transformer") for spec in (a, b))
    told = (
        one is not None
        and two is not None
        and one.words is two.words
        and all(pin is None for place in ids for _, pin in place)
    )
    changed = ("loras",) if reads_with_clip(a.family) else ()
    keys = ("family", "dtype", "device", "words", *changed, *(() if told else ("variant",)))
    return (told or ids[0] == ids[1]) and all(getattr(a, key) == getattr(b, key) for key in keys)


def _reads_by(spec: models.Pretrained) -> str:
    """The weights whose text model an expert reads with."""
    return spec.weights if spec.base is None or reads_with_clip(spec.family) else spec.base


def check_whole(recipe: Recipe, cast: Cast) -> None:
    """Raise RecipeError unless a cast has every expert that a recipe's stages ask."""
    if lacking := sorted(used(recipe) - cast.experts.keys()):
        names = ", ".join(f"'{name}'" for name in lacking)
        raise RecipeError(f"the cast has no expert {names}; dovetail.run.load(recipe) brings all that a recipe asks")


def check_spaces(recipe: Recipe, cast: Cast) -> None:
    """Raise SpaceError unless the experts of each stage, and the codec of its latents, live in one latent space."""
    from dovetail.experts.space import same_space, with_weights

    for stage in recipe.chain:
        codec, whose = cast.codec_at(stage.stage), f"the codec of stage '{stage.stage}'" if cast.codecs else "the codec"
        for name in dict.fromkeys(models.experts_in(stage)):
            network, trusted = cast.experts[name].network, getattr(recipe.experts[name], "trust_space", False)
            names = with_weights(f"expert '{name}'", network), with_weights(whose, codec)
            same_space(network.space, codec.space, names, trusted)  # type: ignore[attr-defined]


def check_words(recipe: Recipe, cast: Cast) -> None:
    """Raise SpaceError unless experts that take turns within a walk have one text encoder."""
    from dovetail.experts.pairs import same_text

    for denoise in (stage.denoise for stage in recipe.chain):
        turns = [*blends(denoise), *([denoise] if isinstance(denoise, models.Probing) else [])]
        for part in turns:
            names = models.experts_in(part)
            for a, b in pairwise(names):
                same_text(cast.experts[a], cast.experts[b])


def patches_of(recipe: Recipe, cast: Cast) -> dict[str, int]:
    """Latent cells along each side of what the networks of each stage take for one token."""
    return {
        stage.stage: max(
            (getattr(cast.experts[name].network, "patch", 1) for name in models.experts_in(stage)), default=1
        )
        for stage in recipe.chain
    }


def known_of(cast: Cast) -> dict[str, Known]:
    """What a plan needs to know, of loaded experts."""
    return {
        name: Known(
            expert.schedule,
            getattr(expert.network, "scheduler", None),
            getattr(expert.network, "max_frames", None),
            getattr(expert.network, "even", False),
            expert.by_frame,
            getattr(expert.network, "patch", 1),
        )
        for name, expert in cast.experts.items()
    }


def settled(recipe: Recipe, cast: Cast, start: Source | None) -> Recipe:
    """The recipe with all that a run finds out, so that it makes the same video again from anywhere: the numbers of
    rows, frames and cells that experts and codec see at once, whole paths, and which video it started from."""
    found: dict[str, Any] = {
        f"experts.{name}.batch": cast.experts[name].network.batch  # type: ignore[attr-defined]
        for name, spec in recipe.experts.items()
        if isinstance(spec, models.Pretrained) and name in cast.experts
    }
    if cast.fit is not None:
        names = codec_names(recipe)
        places = {f"chain.{one.stage}.codec": names[one.stage] for one in recipe.chain if one.codec is not None}
        for path, name in {**places, "codec": names[recipe.chain[-1].stage]}.items():
            fewer = {"tiles": cast.fit.tiles.get(name), "chunk": cast.fit.chunks.get(name)}
            found |= {f"{path}.{key}": value for key, value in fewer.items() if value is not None}
    for path, place in recipes.weights_in(recipe).items():
        if not place.startswith("sprites/") and Path(place).expanduser().exists():
            found[path] = str(Path(place).expanduser().absolute())
    if recipe.start is not None and start is not None:
        found |= {"start.video": str(Path(recipe.start.video).absolute()), "start.digest": start.digest}
    return recipes.changed(recipe, found)
