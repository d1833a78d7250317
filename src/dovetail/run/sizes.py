"""How large a run's networks are, and what they are shown: from their configurations, without weights."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from dovetail.errors import WeightsError
from dovetail.recipe import Recipe, models
from dovetail.recipe.build import Look, Plan
from dovetail.run.outlook import space_foreseen

if TYPE_CHECKING:
    from dovetail.experts.outline import Outline


@dataclass(frozen=True)
class Sizes:
    """What is known of a run's networks. weights: bytes by expert; grouped: of those that come in blocks; looks: what an
    expert is shown, in latents of its own shape, and rows of it at once at most; text: weights of the largest text model,
    and what it works in; codec: its weights."""

    outlines: Mapping[str, "Outline"]
    weights: Mapping[str, int]
    grouped: Mapping[str, int]
    looks: Mapping[str, Mapping[tuple[int, int, int, int], int]]
    batches: Mapping[str, int]
    text: tuple[int, int]
    codec: int

    def work(self, name: str, batch: int) -> tuple[int, int]:
        """What an expert works in, and what it is shown and answers, with so many rows at once."""
        from dovetail.experts.footprint import activations, latents

        it, found = self.outlines[name], (0, 0)
        for shape, rows in self.looks.get(name, {}).items():
            once = min(rows, batch)
            # Answers are joined on the device before they go back.
            each = activations(it, shape, once), latents(shape, once, it.size) + latents(shape, rows, 0)
            found = max(found, each, key=sum)
        return found


def outlines(recipe: Recipe, notes: list[str]) -> dict[str, "Outline"]:
    """What is known of a recipe's networks without their weights; adds a note for each that is not."""
    from dovetail.experts.outline import outline

    found = {}
    for name, spec in recipe.experts.items():
        if not isinstance(spec, models.Pretrained):
            continue
        try:
            if spec.adapter is not None:
                raise WeightsError(f"expert '{name}' is put together from two checkpoints")
            found[name] = outline(name, spec.family, spec.weights, subfolder=spec.subfolder, dtype=spec.dtype)
        except WeightsError as error:
            notes.append(f"{error}; its operations are not counted")
    return found


def shape_of(plan: Plan, look: Look | None = None) -> tuple[int, int, int, int]:
    """Channels, frames, height and width of a plan's latent, or of what a look shows of it."""
    assert plan.latent is not None
    channels, (frames, height, width) = space_foreseen(plan.recipe, []).channels, plan.latent
    if look is None:
        return channels, frames, height, width
    # A plan is made on latents of 2x2 cells.
    return channels, look.frames, height * look.height // 2, width * look.width // 2


def weights_of(recipe: Recipe, name: str, it: "Outline") -> int:
    """Bytes of an expert's weights, as they are kept."""
    spec = recipe.experts[name]
    assert isinstance(spec, models.Pretrained)
    if spec.store is not None or (spec.quantize or "").endswith(("int8", "float8")):
        return it.parameters
    return it.parameters // 2 if spec.quantize is not None else it.bytes


def codec_weights(recipe: Recipe) -> int:
    """Bytes of the codec's weights, as far as they are known."""
    from dovetail.experts.outline import parameters_of
    from dovetail.experts.placement import dtype_of

    if not isinstance(recipe.codec, models.Autoencoder) or (told := _autoencoder(recipe)) is None:
        return 0
    return parameters_of(*told) * (1 if recipe.codec.store else dtype_of(recipe.codec.dtype).itemsize)


def _autoencoder(recipe: Recipe) -> tuple[str, Mapping[str, object]] | None:
    """The class and config of the codec's autoencoder; None if it has none, or nobody knows."""
    from dovetail.experts.outline import codec_outline

    if not isinstance(recipe.codec, models.Autoencoder):
        return None
    families = [spec.family for spec in recipe.experts.values() if isinstance(spec, models.Pretrained)]
    try:
        return codec_outline(recipe.codec.weights, recipe.codec.subfolder, families[0] if families else None)
    except WeightsError:
        return None


def sizes(plan: Plan, known: Mapping[str, "Outline"]) -> Sizes:
    """What is known of the networks that a plan asks."""
    from dovetail.experts.footprint import blockwise, reading
    from dovetail.experts.loading import FAMILIES
    from dovetail.experts.outline import text_parameters

    recipe, asked = plan.recipe, {name: it for name, it in known.items() if name in plan.counts}
    looks: dict[str, dict[tuple[int, int, int, int], int]] = {}
    for look, rows in plan.rows.items():
        if look.expert in asked:
            looks.setdefault(look.expert, {})[shape_of(plan, look)] = rows
    specs = {name: spec for name in asked if isinstance(spec := recipe.experts[name], models.Pretrained)}
    kept = {name: weights_of(recipe, name, it) for name, it in asked.items()}
    texts = {(it.words.kind, it.size): text_parameters(it.words) * it.size for it in asked.values()}
    largest = max(asked.values(), key=lambda it: text_parameters(it.words) * it.size, default=None)
    return Sizes(
        asked,
        kept,
        {name: min(kept[name], blockwise(it) * kept[name] // it.bytes) for name, it in asked.items()},
        looks,
        {name: spec.batch or FAMILIES[spec.family].batch for name, spec in specs.items()},
        (max(texts.values(), default=0), 0 if largest is None else reading(largest)),
        codec_weights(recipe),
    )


def decoder(plan: Plan) -> "Decoder | None":
    """What the codec is given at once, if it has weights that are known."""
    from dovetail.experts.codec import CHUNK
    from dovetail.experts.placement import dtype_of
    from dovetail.run.decoding import CONTEXT

    codec, (channels, frames, height, width) = plan.recipe.codec, shape_of(plan)
    if not isinstance(codec, models.Autoencoder) or (told := _autoencoder(plan.recipe)) is None:
        return None
    longest = max((length for _, length in plan.pieces), default=frames)
    again = CONTEXT if told[0] != "AutoencoderKL" and len(plan.pieces) > 1 else 0
    shape = channels, min(frames, longest + again), height, width
    return Decoder(*told, shape, dtype_of(codec.dtype).itemsize, codec.chunk or CHUNK, codec.tiles)


@dataclass(frozen=True)
class Decoder:
    """An autoencoder and what it is given at once."""

    kind: str
    config: Mapping[str, object]
    shape: tuple[int, int, int, int]
    size: int
    chunk: int
    tiles: int | None

    @property
    def work(self) -> int:
        from dovetail.experts.footprint import decoding

        return decoding(self.kind, self.config, self.shape, self.size, self.chunk, self.tiles)

    @property
    def less(self) -> "Decoder | None":
        """The same with half as much at once; None if that is the least."""
        from dovetail.experts.halving import LEAST

        once = min(self.chunk, self.shape[1])
        if self.kind == "AutoencoderKL" and once > 1:
            return replace(self, chunk=once // 2)
        side = min(max(self.shape[2:]), self.tiles or max(self.shape[2:]))
        return replace(self, tiles=max(LEAST, -(-side // 2))) if side > LEAST else None
