"""What is known of experts and latents before weights are loaded."""

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
}
"""Each family's published schedule (Stable Diffusion 1.5, AnimateDiff, ModelScope, LaVie, Wan, LTX-Video, CogVideoX
2B): what a plan supposes of weights that are not on this machine."""


def outlook(name: str, spec: models.ExpertSpec, notes: list[str]) -> Known:
    """What is known of an expert without its weights; adds a note where that is a guess."""
    if isinstance(spec, models.Exact):
        from dovetail.sprites.exact import SCHEDULES

        return Known(
            SCHEDULES[spec.kind] if spec.schedule == "own" else Flow(), longest=1 if spec.kind == "spatial" else None
        )
    from dovetail.experts.checkpoint import here
    from dovetail.experts.loading import FAMILIES, published_of, scheduler_config

    family = FAMILIES[spec.family]
    told = published_of(spec.family, spec.weights, spec.subfolder, spec.adapter, spec.base)
    try:
        if told is not None and not here(spec.weights):
            raise WeightsError(f"'{spec.weights}' is not on this machine")
        config = scheduler_config(name, spec.family, spec.weights, spec.adapter, spec.revision, spec.base)
    except WeightsError as error:
        if told is not None:
            notes.append(f"expert '{name}': {error}; planned by its published configuration")
            return Known(schedule_of(told.scheduler), told.scheduler, family.max_frames, family.even)
        notes.append(f"expert '{name}': {error}; levels are those of the family's usual schedule")
        return Known(USUAL[spec.family], longest=family.max_frames)
    return Known(schedule_of(config), config, family.max_frames, family.even)


def spaces_foreseen(recipe: Recipe, notes: list[str]) -> dict[str, "LatentSpace"]:
    """The latents of each stage, as `space_foreseen`."""
    return {
        stage.stage: space_foreseen(recipe, notes, recipe.room(stage.stage).codec or recipe.codec)
        for stage in recipe.chain
    }


def space_foreseen(recipe: Recipe, notes: list[str], codec: models.Codec | None = None) -> "LatentSpace":
    """The latents of a recipe's codec, or of another, without its weights; adds a note where that is a guess."""
    codec = recipe.codec if codec is None else codec
    if isinstance(codec, models.Pixels):
        from dovetail.sprites.exact import PixelCodec

        return PixelCodec(codec.pixels).space
    from dovetail.experts.checkpoint import here
    from dovetail.experts.codec import space_at
    from dovetail.experts.loading import FAMILIES, IMAGES
    from dovetail.experts.published import PUBLISHED

    weights = codec.weights
    try:
        if not here(weights) and weights in {name for name, _ in PUBLISHED}:
            raise WeightsError(f"'{weights}' is not on this machine")
        return space_at(weights, codec.subfolder, codec.base, codec.revision, codec.variant)
    except WeightsError as error:
        experts = [spec for spec in recipe.experts.values() if isinstance(spec, models.Pretrained)]
        if weights not in [spec.weights for spec in experts]:  # else a note has said it
            notes.append(f"codec: {error}; its latents are supposed to be of the experts' usual size")
        experts.sort(key=lambda spec: spec.weights != weights)
        return FAMILIES[experts[0].family].space if experts and not weights.startswith("sprites/") else IMAGES


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
