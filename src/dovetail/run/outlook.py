"""What is known of experts and latents before weights are loaded."""

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from dovetail.core.schedules import Flow, Schedule, VariancePreserving, schedule_of
from dovetail.errors import RecipeError, WeightsError
from dovetail.recipe import Recipe, models
from dovetail.recipe.planning import Known

if TYPE_CHECKING:
    from dovetail.experts import LatentSpace


USUAL: dict[str, Schedule] = {
    "stable-diffusion": VariancePreserving.betas("scaled_linear", 0.00085, 0.012),
    "animatediff": VariancePreserving.betas("linear", 0.00085, 0.012),
    "text-to-video-sd": VariancePreserving.betas("scaled_linear", 0.00085, 0.012),
    "lavie": VariancePreserving.betas("linear", 1e-4, 0.02),
    "wan": Flow(whole=True),
    "ltx": Flow(),
    "cogvideox": VariancePreserving.betas("scaled_linear", 0.00085, 0.012, snr_shift_scale=3.0, zero_terminal_snr=True),
    "open-sora-plan": VariancePreserving.betas("linear", 1e-4, 0.02, zero_terminal_snr=True),
}
"""Each family's published schedule (Stable Diffusion 1.5, AnimateDiff, ModelScope, LaVie, Wan, LTX-Video, CogVideoX
2B, Open-Sora Plan): what a plan supposes of weights that are not on this machine."""


def outlook(name: str, spec: models.ExpertSpec, notes: list[str]) -> Known:
    """What is known of an expert without its weights; adds a note where that is a guess. Raises what
    `published_of` raises."""
    if isinstance(spec, models.Exact):
        from dovetail.sprites.exact import SCHEDULES

        return Known(
            SCHEDULES[spec.kind] if spec.schedule == "own" else Flow(), longest=1 if spec.kind == "spatial" else None
        )
    from dovetail.experts.checkpoint import here
    from dovetail.experts.loading import FAMILIES, published_of, scheduler_config
    from dovetail.experts.outline import sides_ahead

    family = FAMILIES[spec.family]
    # An adapter's motion modules have places of their own, which are known once it is loaded.
    places, patch = (None, 1) if spec.adapter else sides_ahead(name, spec.family, spec.location)
    longest = places or family.max_frames
    known = partial(Known, longest=longest, even=family.even, by_frame=family.by_frame, patch=patch)
    told = published_of(name, spec.family, spec.location, spec.adapter)
    try:
        if told is not None and not here(spec.weights):
            raise WeightsError(f"'{spec.weights}' is not on this machine")
        config = scheduler_config(name, spec.family, spec.location, spec.adapter)
    except WeightsError as error:
        if told is not None:
            notes.append(f"expert '{name}': {error}; planned by its published configuration")
            return known(schedule_of(told.scheduler), told.scheduler)
        notes.append(f"expert '{name}': {error}; levels are those of the family's usual schedule")
        return Known(USUAL[spec.family], longest=longest, by_frame=family.by_frame, patch=patch)
    return known(schedule_of(config), config)


def check_outlook(recipe: Recipe) -> None:
    """Raise SpaceError, before weights are loaded, where what is known of a stage's experts and of its codec differs;
    RecipeError for weights of another family, WeightsError for a path where nothing lies. What is not known is checked
    when it is loaded."""
    from dovetail.experts.space import same_space, with_weights

    for stage in recipe.chain:
        codec = recipe.codec_of(stage.stage)
        whose = f"the codec of stage '{stage.stage}'" if recipe.bridged else "the codec"
        spaces, there = _spaces_of(recipe, codec), _known_space(codec)
        first = next(iter(spaces), None)
        for name in (name for name in models.experts_in(stage) if name in spaces):
            spec = recipe.experts[name]
            who, trusted = with_weights(f"expert '{name}'", spec), getattr(spec, "trust_space", False)
            if there is not None:
                same_space(spaces[name], there, (who, with_weights(whose, codec)), trusted)
            elif first is not None:
                other = with_weights(f"expert '{first}'", recipe.experts[first])
                either = trusted or getattr(recipe.experts[first], "trust_space", False)
                same_space(spaces[name], spaces[first], (who, other), either)


def _spaces_of(recipe: Recipe, codec: models.Codec) -> "dict[str, LatentSpace]":
    """What is known of the latents of the experts that work in a codec's."""
    from dovetail.experts.outline import space_ahead

    found: dict[str, LatentSpace] = {}
    for name, spec in working_in(recipe, codec).items():
        if (space := space_ahead(name, spec.family, spec.location, spec.adapter)) is not None:
            found[name] = space
    return found


def working_in(recipe: Recipe, codec: models.Codec) -> dict[str, models.Pretrained]:
    """The experts that work in a codec's latents, those of its own weights first."""
    stages = [stage for stage in recipe.chain if recipe.codec_of(stage.stage) == codec]
    names = dict.fromkeys(name for stage in stages for name in models.experts_in(stage))
    found = {name: spec for name in names if isinstance(spec := recipe.experts[name], models.Pretrained)}
    weights = getattr(codec, "weights", None)
    return dict(sorted(found.items(), key=lambda item: item[1].weights != weights))


def _known_space(codec: models.Codec) -> "LatentSpace | None":
    """The latents of a codec, as far as they are known without its weights."""
    if isinstance(codec, models.Pixels):
        from dovetail.sprites.exact import PixelCodec

        return PixelCodec(codec.pixels).space
    from dovetail.experts.outline import codec_space

    return codec_space(codec.location)


def spaces_foreseen(recipe: Recipe, notes: list[str]) -> dict[str, "LatentSpace"]:
    """The latents of each stage, as `space_foreseen`."""
    return {stage.stage: space_foreseen(recipe, notes, recipe.codec_of(stage.stage)) for stage in recipe.chain}


def space_foreseen(recipe: Recipe, notes: list[str], codec: models.Codec | None = None) -> "LatentSpace":
    """The latents of a recipe's codec, or of another, without its weights; adds a note where that is a guess. Raises
    what `check_outlook` raises."""
    codec = recipe.codec if codec is None else codec
    known = _known_space(codec)
    if isinstance(codec, models.Autoencoder):
        _note_codec(recipe, codec, known is not None, notes)
    if known is not None:
        return known
    from dovetail.experts.loading import FAMILIES, IMAGES

    experts = working_in(recipe, codec)
    spaces = _spaces_of(recipe, codec)
    if (name := next(iter(spaces), next(iter(experts), None))) is None:
        return IMAGES
    usual = FAMILIES[experts[name].family].space
    told = spaces.get(name, usual)
    # Without its autoencoder an expert is known by its channels alone.
    return replace(usual, channels=told.channels) if told.factor is None else told


def _note_codec(recipe: Recipe, codec: models.Autoencoder, known: bool, notes: list[str]) -> None:
    """Say whence a codec's latents are known, unless they are here, or one of the experts has said it."""
    from dovetail.experts.checkpoint import here
    from dovetail.experts.published import known_codec

    published = known_codec(codec.weights) is not None
    if here(codec.weights) or (known and not published):
        return
    if codec.weights not in [getattr(spec, "weights", None) for spec in recipe.experts.values()]:
        how = (
            "planned by its published configuration"
            if published
            else "its latents are supposed to be of the experts' usual size"
        )
        notes.append(f"codec: '{codec.weights}' is not on this machine; {how}")


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
