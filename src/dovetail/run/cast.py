"""A recipe's experts and codec, loaded, and whether they fit together."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from dovetail import recipe as recipes
from dovetail.core.denoiser import Expert
from dovetail.core.schedules import Flow
from dovetail.recipe import Recipe, models
from dovetail.recipe.build import Known, parts
from dovetail.run.given import digest
from dovetail.video import Video

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

    codecs: by stage, where stages are joined through pixels; all others work in the latents of `codec`.
    """

    experts: Mapping[str, Expert]
    codec: Codec
    codecs: Mapping[str, Codec] = field(default_factory=dict)

    def codec_at(self, stage: str) -> Codec:
        """The codec in whose latents a stage works."""
        return self.codecs.get(stage, self.codec)


def load(recipe: Recipe) -> Cast:
    """Load a recipe's codec and experts. Raises WeightsError."""
    codec = load_codec(recipe)
    codecs = _codecs(recipe, codec)
    experts: dict[str, Expert] = {}
    for name in recipe.experts:
        if name in _used(recipe):
            first = next(stage.stage for stage in recipe.chain if name in _named(stage))
            experts[name] = _expert(recipe, name, codecs.get(first, codec), experts)
    return Cast(experts, codec, codecs)


def _codecs(recipe: Recipe, last: Codec) -> dict[str, Codec]:
    """The codec of each stage's latents, each loaded once; nothing for a recipe without a bridge."""
    if not recipe.bridged:
        return {}
    known: list[tuple[models.Codec, Codec]] = [(recipe.codec, last)]
    found = {}
    for stage in recipe.chain:
        spec = recipe.room(stage.stage).codec or recipe.codec
        if spec not in [one for one, _ in known]:
            known.append((spec, load_codec(recipe, spec)))
        found[stage.stage] = next(codec for one, codec in known if one == spec)
    return found


def load_codec(recipe: Recipe, spec: models.Codec | None = None) -> Codec:
    """Load a recipe's codec alone, or another. Raises WeightsError."""
    match recipe.codec if spec is None else spec:
        case models.Pixels(pixels=factor):
            from dovetail.sprites.exact import PixelCodec

            return PixelCodec(factor)
        case models.Autoencoder() as spec:
            from dovetail import experts

            options = spec.model_dump(exclude={"weights", "device"})
            codec: Codec = experts.load_codec(spec.weights, device=_device(spec.device), **options)
            return codec


def _used(recipe: Recipe) -> set[str]:
    return {name for stage in recipe.chain for name in _named(stage)}


def _named(stage: models.Stage) -> list[str]:
    return [name for _, name in models.named(stage, "")]


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
        base=spec.base,
        loras=[experts.Lora(lora.weights, lora.scale) for lora in spec.loras],
        fps=recipe.video.fps,
        text=next((_words(before[other]) for other in before if _same_words(recipe.experts[other], spec)), None),
        waiting=recipe.residency != "all",
    )


def _words(expert: Expert) -> Any:
    return expert.network.text  # type: ignore[attr-defined]


READ_WITH_CLIP = ("stable-diffusion", "animatediff", "text-to-video-sd")
"""Families whose LoRA weights may change their text model as well."""


def _same_words(a: models.ExpertSpec, b: models.ExpertSpec) -> bool:
    """Whether one text model serves two experts: they come from one repository, or it is known that theirs have the
    same. Wan's is as large as a network."""
    if not isinstance(a, models.Pretrained) or not isinstance(b, models.Pretrained):
        return False
    from dovetail.experts.published import known

    one, two = (known(spec.weights, spec.subfolder or "transformer") for spec in (a, b))
    told = one is not None and two is not None and one.words is two.words and a.revision is b.revision is None
    whole = ("weights", "revision", "variant", "base", *(["loras"] if a.family in READ_WITH_CLIP else []))
    keys = ("family", "dtype", "device", *(() if told else whole))
    return all(getattr(a, key) == getattr(b, key) for key in keys)


def _device(name: str) -> str:
    return name if name != "auto" else "cuda" if torch.cuda.is_available() else "cpu"


def check_spaces(recipe: Recipe, cast: Cast) -> None:
    """Raise SpaceError unless the experts of each stage, and the codec of its latents, live in one latent space."""
    from dovetail.experts import same_space

    for stage in recipe.chain:
        codec, whose = cast.codec_at(stage.stage), f"the codec of stage '{stage.stage}'" if cast.codecs else "the codec"
        for name in dict.fromkeys(_named(stage)):
            space, trusted = cast.experts[name].network.space, getattr(recipe.experts[name], "trust_space", False)  # type: ignore[attr-defined]
            same_space(space, codec.space, (f"expert '{name}'", whose), trusted)


def check_words(recipe: Recipe, cast: Cast) -> None:
    """Raise SpaceError unless experts that take turns within a walk have one text encoder."""
    from dovetail.experts.pairs import same_text

    for denoise in (stage.denoise for stage in recipe.chain):
        turns = [*parts(denoise), *([denoise] if isinstance(denoise, models.Probing) else [])]
        for part in turns:
            names = [name for _, name in models.named(part, "")]
            for a, b in pairwise(names):
                same_text(cast.experts[a], cast.experts[b])


def patches_of(recipe: Recipe, cast: Cast) -> dict[str, int]:
    """Latent cells along each side of what the networks of each stage take for one token."""
    return {
        stage.stage: max((getattr(cast.experts[name].network, "patch", 1) for name in _named(stage)), default=1)
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
