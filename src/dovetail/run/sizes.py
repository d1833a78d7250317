"""How large a run's networks are, and what they are shown: from their configurations, without weights. What is asked
for on another device than most is not counted."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import TYPE_CHECKING

import torch

from dovetail.errors import WeightsError
from dovetail.recipe import Recipe, models
from dovetail.recipe.planning import Look, Plan
from dovetail.run.bridging import carried, codec_names, codecs_of
from dovetail.run.outlook import space_foreseen, working_in

if TYPE_CHECKING:
    from dovetail.experts.outline import Outline


@dataclass(frozen=True)
class Sizes:
    """What is known of a run's networks. weights: bytes by expert; grouped: of those that come in blocks; looks: what
    an expert is shown, in latents of its own shape, and rows of it at once at most; text: weights of the largest text
    model, and what it works in; codecs: their weights, by name; decoders: what they are given at once."""

    outlines: Mapping[str, "Outline"]
    weights: Mapping[str, int]
    grouped: Mapping[str, int]
    looks: Mapping[str, Mapping[tuple[int, int, int, int], int]]
    batches: Mapping[str, int]
    text: tuple[int, int]
    codecs: Mapping[str, int]
    decoders: Mapping[str, "Decoder"]

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


def filled(recipe: Recipe) -> str | None:
    """The device whose memory is counted: the first CUDA one that an expert is on, or else the first expert's; None
    without experts that have weights."""
    names = [place(spec.device) for spec in recipe.experts.values() if isinstance(spec, models.Pretrained)]
    return next((name for name in names if name.startswith("cuda")), names[0] if names else None)


def place(device: str) -> str:
    """A device's name, one for each.

    >>> place("cuda:0"), place("cuda:1")
    ('cuda', 'cuda:1')
    """
    name = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    return name.removesuffix(":0")


def outlines(recipe: Recipe, notes: list[str], names: Collection[str] | None = None) -> dict[str, "Outline"]:
    """What is known of a recipe's networks, or of the named ones, without their weights; adds a note for each of which
    nothing is known."""
    found = {}
    for name, spec in recipe.experts.items():
        if not isinstance(spec, models.Pretrained) or (names is not None and name not in names):
            continue
        try:
            found[name] = _outline(name, spec)
        except WeightsError as error:
            notes.append(f"{error}; its operations and its memory are not counted")
    return found


def check_configs(recipe: Recipe, names: Collection[str]) -> None:
    """Raise WeightsError, before weights are loaded, if the configs in a user's own folder, of one of these experts or of
    a codec, make no model that works: text models, networks and autoencoders are tried once, without weights."""
    from dovetail.experts.checkpoint import own_folder
    from dovetail.experts.outline import codec_outline

    for name, spec in recipe.experts.items():
        if name in names and isinstance(spec, models.Pretrained) and own_folder(spec.weights):
            _outline(name, spec)
    for codec in codecs_of(recipe).values():
        if isinstance(codec, models.Autoencoder) and own_folder(codec.weights):
            codec_outline(codec.location)


def _outline(name: str, spec: models.Pretrained) -> "Outline":
    from dovetail.experts.outline import outline

    return outline(name, spec.family, spec.location, dtype=spec.dtype, adapter=spec.adapter)


def bring_configs(recipe: Recipe, names: Collection[str]) -> None:
    """Bring the configurations alone of those experts and of the codecs whose weights are on the hub, where nothing
    tells yet how large they are: what cannot fit is then refused before its gigabytes come. Raises WeightsError where
    the hub does not give them, and what `published_of` raises."""
    from dovetail.experts.checkpoint import at_hand, here
    from dovetail.experts.codec import folders, seen
    from dovetail.experts.loading import FAMILIES, published_of
    from dovetail.experts.published import known_codec

    for name, spec in recipe.experts.items():
        if name not in names or not isinstance(spec, models.Pretrained) or here(spec.weights):
            continue
        family = FAMILIES[spec.family]
        part = family.folder(spec.subfolder)
        if published_of(name, spec.family, spec.location, spec.adapter) is None:
            found = at_hand(spec.location, [part])
            planned = family.scheduler is not None or (found is not None and found.has("scheduler"))
            if found is None or not (found.has(part) and planned):
                _bring(spec, [part, "scheduler", "text_encoder", "vae"], f"Weights of this family: {family.where}")
    for codec in codecs_of(recipe).values():
        if not isinstance(codec, models.Autoencoder) or here(codec.weights):
            continue
        told = seen(codec.location)
        if known_codec(codec.weights) is None and (told is None or not told[0].has(told[1])):
            _bring(codec, folders(codec.subfolder))


def _bring(spec: models.Pretrained | models.Autoencoder, parts: Sequence[str], where: str = "") -> None:
    """Of one file, its base has the configurations; what it holds alone is not known before it is here."""
    from dovetail.experts.checkpoint import bring_configs
    from dovetail.experts.tensors import is_file

    repo, revision = (spec.base, None) if is_file(spec.weights) else (spec.weights, spec.revision)
    if repo is not None:
        bring_configs(repo, revision, parts, where)


def latent_at(plan: Plan, stage: str) -> tuple[int, int, int, int]:
    """Channels, frames, height and width of a plan's latent in a stage."""
    if stage in plan.rooms:
        return (plan.rooms[stage].channels, *plan.rooms[stage].latent)
    assert plan.latent is not None
    return (space_foreseen(plan.recipe, []).channels, *plan.latent)


def shape_of(plan: Plan, look: Look) -> tuple[int, int, int, int]:
    """Channels, frames, height and width of what a look shows of it."""
    channels, _, height, width = latent_at(plan, look.stage)
    # A plan is made on latents of 2x2 cells.
    return channels, look.frames, height * look.height // 2, width * look.width // 2


def weights_of(recipe: Recipe, name: str, it: "Outline") -> int:
    """Bytes of an expert's weights, as they are kept."""
    spec = recipe.experts[name]
    assert isinstance(spec, models.Pretrained)
    if spec.store is not None or (spec.quantize or "").endswith(("int8", "float8")):
        return it.parameters
    return it.parameters // 2 if spec.quantize is not None else it.bytes


def codec_weights(recipe: Recipe, codec: models.Codec) -> int:
    """Bytes of a codec's weights, as far as they are known."""
    from dovetail.experts.outline import parameters_of
    from dovetail.experts.placement import dtype_of

    if not isinstance(codec, models.Autoencoder) or (told := _autoencoder(recipe, codec)) is None:
        return 0
    return parameters_of(*told) * (1 if codec.store else dtype_of(codec.dtype).itemsize)


def _autoencoder(recipe: Recipe, codec: models.Codec) -> tuple[str, Mapping[str, object]] | None:
    """The class and config of a codec's autoencoder; None if it has none, or nobody knows."""
    from dovetail.experts.outline import codec_outline
    from dovetail.experts.space import space_of

    if not isinstance(codec, models.Autoencoder):
        return None
    family = next((spec.family for spec in working_in(recipe, codec).values()), None)
    try:
        found = codec_outline(codec.location, family)
    except WeightsError:
        return None
    if found is None:
        return None
    kind, config = found
    # Where the family's usual one is a guess, experts of other latents tell that it is none.
    fits = space_of({**config, "_class_name": kind}).channels == space_foreseen(recipe, [], codec).channels
    return found if fits else None


def sizes(plan: Plan, known: Mapping[str, "Outline"]) -> Sizes:
    """What is known of the networks that a plan asks."""
    from dovetail.experts.footprint import blockwise, reading
    from dovetail.experts.loading import FAMILIES
    from dovetail.experts.outline import text_parameters

    recipe, specs = plan.recipe, dict[str, models.Pretrained]()
    for name, spec in recipe.experts.items():
        if name in known.keys() & plan.counts.keys() and isinstance(spec, models.Pretrained):
            specs |= {name: spec} if place(spec.device) == filled(recipe) else {}
    asked = {name: known[name] for name in specs}
    looks: dict[str, dict[tuple[int, int, int, int], int]] = {}
    for look, rows in plan.rows.items():
        if look.expert in asked:
            shapes, shape = looks.setdefault(look.expert, {}), shape_of(plan, look)
            shapes[shape] = max(rows, shapes.get(shape, 0))
    kept = {name: weights_of(recipe, name, it) for name, it in asked.items()}
    largest = max(asked.values(), key=lambda it: text_parameters(it.words) * it.size, default=None)
    return Sizes(
        asked,
        kept,
        {name: min(kept[name], blockwise(it) * kept[name] // it.bytes) for name, it in asked.items()},
        looks,
        {name: spec.batch or FAMILIES[spec.family].batch for name, spec in specs.items()},
        (0, 0) if largest is None else (text_parameters(largest.words) * largest.size, reading(largest)),
        {name: codec_weights(recipe, codec) for name, codec in codecs_of(recipe).items() if _counts(recipe, codec)},
        decoders(plan),
    )


def _counts(recipe: Recipe, codec: models.Codec) -> bool:
    return not isinstance(codec, models.Autoencoder) or filled(recipe) in (None, place(codec.device))


def decoders(plan: Plan) -> dict[str, "Decoder"]:
    """What codecs are given at once at most, by name, of those on the device that have weights that are known."""
    from dovetail.experts.codec import CHUNK
    from dovetail.experts.placement import dtype_of

    found, names, first = {}, codec_names(plan.recipe), plan.recipe.chain[0].stage
    given = [] if plan.recipe.start is None else [(first, latent_at(plan, first)[1], True)]
    for name, codec in codecs_of(plan.recipe).items():
        if not isinstance(codec, models.Autoencoder) or not _counts(plan.recipe, codec):
            continue
        if (told := _autoencoder(plan.recipe, codec)) is None:
            continue
        shapes: dict[bool, list[tuple[int, int, int, int]]] = {False: [], True: []}
        for stage, length, encodes in (*given, *carried(plan)):
            if names[stage] == name:
                channels, _, height, width = latent_at(plan, stage)
                shapes[encodes].append((channels, length, height, width))
        if name == names[plan.recipe.chain[-1].stage]:
            shapes[False].append(_last(plan, *told))
        decoded, encoded = (max(shapes[encodes], key=prod, default=None) for encodes in (False, True))
        assert decoded is not None
        size = dtype_of(codec.dtype).itemsize
        found[name] = Decoder(*told, decoded, size, codec.chunk or CHUNK, codec.tiles, encoded)
    return found


def _last(plan: Plan, kind: str, config: Mapping[str, object]) -> tuple[int, int, int, int]:
    """The largest latent that becomes frames of the video at once. A decoder that keeps what it saw last is shown the
    frames before one after another, and only when a run goes on; one that does not is shown them with each piece."""
    from dovetail.experts.decoders import LTX
    from dovetail.experts.outline import reach_ahead

    channels, frames, height, width = latent_at(plan, plan.recipe.chain[-1].stage)
    longest = max((length for _, length in plan.pieces), default=frames)
    if kind == LTX and len(plan.pieces) > 1:
        longest += sum(reach_ahead(kind, config))
    return channels, min(frames, longest), height, width


@dataclass(frozen=True)
class Decoder:
    """An autoencoder and what it is given at once. encoded: the shape of what it encodes, which it never does in tiles."""

    kind: str
    config: Mapping[str, object]
    shape: tuple[int, int, int, int]
    size: int
    chunk: int
    tiles: int | None
    encoded: tuple[int, int, int, int] | None = None

    @property
    def work(self) -> int:
        """What it works in; to encode is taken to need as much as to decode."""
        from dovetail.experts.footprint import decoding

        work = decoding(self.kind, self.config, self.shape, self.size, self.chunk, self.tiles)
        if self.encoded is None:
            return work
        return max(work, decoding(self.kind, self.config, self.encoded, self.size, self.chunk, None))

    @property
    def less(self) -> "Decoder | None":
        """The same with half as much at once; None if that is the least, or if it needs as much."""
        from dovetail.experts.halving import LEAST

        once = min(self.chunk, self.shape[1])
        side = min(max(self.shape[2:]), self.tiles or max(self.shape[2:]))
        if self.kind == "AutoencoderKL" and once > 1:
            found = replace(self, chunk=once // 2)
        elif side > LEAST:
            found = replace(self, tiles=max(LEAST, -(-side // 2)))
        else:
            return None
        return found if found.work < self.work else None
