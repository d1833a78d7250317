"""A network known by its configuration alone: its parameters, and what a look costs, counted on meta tensors.

A transformer is a stack of one block, so it is built with one block and with two, and the rest is arithmetic: a model
of any size is counted in moments. That the whole stack says the same is tested.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

import torch
from torch import nn

from dovetail.errors import RecipeError, WeightsError
from dovetail.experts.adapter import Embedding
from dovetail.experts.assembling import patch_of, places_of
from dovetail.experts.checkpoint import Checkpoint, Location, at_hand, config_at, here, must_be, quietly
from dovetail.experts.codec import CHUNK, KINDS, codec_class, codec_of, seen, space_at
from dovetail.experts.decoders import WFVAE, reach_of
from dovetail.experts.flops import Operations, operations
from dovetail.experts.loading import CPU, FAMILIES, OURS, check_network, network_class, network_part, published_of
from dovetail.experts.opensora import facts as opensora
from dovetail.experts.placement import dtype_of
from dovetail.experts.published import (
    COGVIDEOX_CODEC,
    IMAGE_CODEC,
    LTX_CODEC,
    MT5,
    T5,
    UMT5,
    USUAL_WORDS,
    WAN_CODEC,
    Words,
    known_codec,
    over_time,
)
from dovetail.experts.remembered import remembered
from dovetail.experts.single_file import SingleFile
from dovetail.experts.space import LatentSpace, space_of
from dovetail.experts.tensors import is_file
from dovetail.experts.wfvae.facts import CODEC as WFVAE_CODEC

Shape = tuple[int, int, int, int]
"""Channels, frames, height and width of a latent."""


@dataclass(frozen=True, eq=False)
class Outline:
    """A network without its weights. kind: its class in diffusers; size: bytes per number.

    `skipped` blocks, here and below, are as in a recipe's `skip`.
    """

    family: str
    kind: str
    config: Mapping[str, Any] = field(repr=False)
    words: Words = field(repr=False)
    size: int

    @property
    def parameters(self) -> int:
        """How many numbers the network has learned."""
        return self._told(lambda config: (_parameters(self.kind, config),))[0]

    @property
    def bytes(self) -> int:
        """What its weights weigh in the precision that it is used in."""
        return self.parameters * self.size

    def look(self, shape: Shape, skipped: tuple[int, ...] = ()) -> Operations:
        """Operations for one row: a latent of this shape, one text, no guidance. The text model's are not counted."""
        words = (self.words.limit, self.words.width, self.words.masked)
        return Operations(*self._told(lambda config: _looked(self.family, self.kind, config, words, shape), skipped))

    def _told(self, tell: Callable[[str], tuple[int, ...]], skipped: tuple[int, ...] = ()) -> tuple[int, ...]:
        """What `tell` says of the whole network, made of what it says of one and of two blocks; Open-Sora Plan's third is
        the first of those in which tokens meet but a part of the others."""
        layers = self.config.get("num_layers")
        if not isinstance(layers, int):
            if skipped:
                raise RecipeError(f"a {self.kind} is no stack of blocks of one size, so none can be skipped")
            return tell(written(self.config))
        one, two = (tell(written({**self.config, "num_layers": n})) for n in (1, 2))
        kept = [block for block in range(layers) if block not in skipped]
        sparse = sum(self.kind == opensora.KIND and opensora.sparse(self.config, block) for block in kept)
        three = tell(written({**self.config, "num_layers": 3})) if sparse else two
        more = len(kept) - sparse - 1
        return tuple(a + (b - a) * more + (c - b) * sparse for a, b, c in zip(one, two, three, strict=True))


def written(config: Mapping[str, Any]) -> str:
    """A config as text, to know it by."""
    return json.dumps(dict(config), sort_keys=True)


@cache
def hollow_of(kind: str, config: str) -> nn.Module:
    """A network of diffusers or of ours, or a text model of transformers, on the meta device."""
    import diffusers

    with quietly(), torch.device("meta"):
        if kind in KINDS:
            module: nn.Module = codec_class(kind).from_config(json.loads(config))
        elif kind in OURS or hasattr(diffusers, kind):
            module = network_class(kind).from_config(json.loads(config))
        else:
            import transformers

            found = getattr(transformers, kind)
            module = found(found.config_class.from_dict(json.loads(config)))
    return module.eval()


@remembered
def _parameters(kind: str, config: str) -> int:
    return sum(part.numel() for part in hollow_of(kind, config).parameters())


@remembered
def _looked(family: str, kind: str, config: str, words: tuple[int, int, bool], shape: Shape) -> tuple[int, int]:
    """Operations of a look: in linear layers, in attention."""
    limit, width, masked = words
    with torch.device("meta"):
        row, time, hidden = torch.zeros(1, *shape), torch.full((1,), 500.0), torch.zeros(1, limit, width)
        text: Embedding = (hidden, torch.ones(1, limit, dtype=torch.bool)) if masked else (hidden,)
    found = operations(lambda: FAMILIES[family].convention(hollow_of(kind, config), row, time, text))
    return found.linear, found.attention


def outline(name: str, family: str, at: Location, *, dtype: str = "float32", adapter: str | None = None) -> Outline:
    """The outline of an expert: from its files if they are on this machine, else from what is published of it, else
    from the hub's cache.

    Arguments are those of `load`. Raises WeightsError where none of these has it, and what `check_network` raises.
    """
    part, size = FAMILIES[family].folder(at.subfolder), dtype_of(dtype).itemsize
    told = None if here(at.weights) else published_of(name, family, at, adapter)
    if told is not None:
        return Outline(family, told.kind, told.config, told.words, size)
    if (checkpoint := at_hand(at, [part])) is None:
        raise WeightsError(f"expert '{name}': '{at.weights}' is not on this machine, and its sizes are not known")
    part = network_part(checkpoint, part)
    config, place = checkpoint.config(part), f"{part}/ of '{at.weights}'"
    length = config.get("max_text_seq_length")
    with checkpoint.making(part, "network"):
        check_network(name, family, config, adapter, place, config_at(checkpoint, part))
        kind, config = _grown(family, config, adapter, f"expert '{name}': {place}")
    with checkpoint.making("text_encoder", "text model"):
        words = _words(family, checkpoint, length)
    found = Outline(family, kind, config, words, size)
    with checkpoint.making(part, kind):
        found.parameters  # noqa: B018 - what is built for this is kept
    if checkpoint.has("text_encoder"):
        _tried(found, checkpoint, part)
    return found


def _grown(family: str, config: dict[str, Any], adapter: str | None, place: str) -> tuple[str, dict[str, Any]]:
    """A network's class and config: its own, or of the video network that grows out of an image network."""
    kind = str(config["_class_name"])
    if kind == "UNet2DConditionModel" and family == "lavie":
        from dovetail.experts.lavie.weights import sizes

        return "LaVieUNet", sizes(config, place)
    if kind == "UNet2DConditionModel" and family == "animatediff" and adapter is not None:
        return "UNetMotionModel", over_time(config)
    return kind, config


def _tried(found: Outline, checkpoint: Checkpoint | SingleFile, part: str) -> None:
    """Let a text model read and its network look, once and little: some values are read only then. Raises WeightsError
    that names the config of the one that cannot."""
    from dovetail.experts.footprint import reading

    with checkpoint.making("text_encoder", found.words.kind):
        width = found.words.width
        text_parameters(found.words)
        reading(found)
    with checkpoint.making(part, f"{found.kind} for words of {width} numbers, as those of text_encoder/"):
        side = SIDE * patch_of(found.config)
        found.look((int(found.config["in_channels"]), 1, side, side))


SIDE = 8
"""Cells a side of the look that a network is tried with, in tokens: networks halve them up to three times."""


def space_ahead(name: str, family: str, at: Location, adapter: str | None = None) -> LatentSpace | None:
    """The latents of an expert, as far as configurations tell, from where `outline` has them; None where nothing does.

    Arguments are those of `load`. Raises WeightsError for a path where nothing lies, or nothing that can be loaded, and
    what `check_network` raises.
    """
    must_be(at.weights, f"Weights of this family: {FAMILIES[family].where}")
    told = None if here(at.weights) else published_of(name, family, at, adapter)
    if told is not None:
        return _published_space(told.codec)
    part = FAMILIES[family].folder(at.subfolder)
    try:
        if (checkpoint := at_hand(at, [part])) is None:
            return None
        part = network_part(checkpoint, part)
        config = checkpoint.config(part)
        told_space = checkpoint.config("vae") if checkpoint.has("vae") else None
        with checkpoint.making("vae", "autoencoder"):
            space = None if told_space is None else space_of(told_space)
    except WeightsError:
        if here(at.weights) and at.base is None:
            raise
        return None  # What the cache and a base lack may come yet.
    what, path = f"{part}/ of '{at.weights}'", config_at(checkpoint, part)
    with checkpoint.making(part, "network"):
        check_network(name, family, config, adapter, what, path)
    channels = config.get("in_channels")
    if space is not None and channels not in (None, space.channels):
        raise RecipeError(
            f"expert '{name}': {what} ({path}) takes {channels} channels and its autoencoder makes {space.channels}, so it "
            f"is shown more than a latent, as a mask or a picture, which dovetail has not. Weights of family '{family}': "
            f"{FAMILIES[family].where}"
        )
    return LatentSpace(channels=channels) if space is None and isinstance(channels, int) else space


def sides_ahead(name: str, family: str, at: Location) -> tuple[int | None, int]:
    """For how many latent frames at once an expert without an adapter was built, and the latent cells along each side
    of what it takes for one token, from where `outline` has it; None and 1 where its config does not tell, or is
    nowhere. Arguments are those of `load`."""
    told = None if here(at.weights) else published_of(name, family, at)
    if told is not None:
        return places_of(told.config), patch_of(told.config)
    part = FAMILIES[family].folder(at.subfolder)
    try:
        if (checkpoint := at_hand(at, [part])) is None:
            return None, 1
        with checkpoint.making(part := network_part(checkpoint, part), "network"):
            config = checkpoint.config(part)
            return places_of(config), patch_of(config)
    except WeightsError:
        return None, 1  # Told by whoever needs more of it.


def codec_space(at: Location) -> LatentSpace | None:
    """The latents of a codec, as `space_ahead` of an expert. Raises WeightsError as `load_codec` does."""
    must_be(
        at.weights, "The codec's weights are a folder with an autoencoder, a file of one, or a hub id (codec.weights)"
    )
    told = None if here(at.weights) else known_codec(_told_by(at))
    if told is not None:
        return _published_space(told)
    try:
        return space_at(at)
    except WeightsError:
        if here(at.weights) and at.base is None:
            raise
        return None


def _published_space(codec: tuple[str, Mapping[str, Any]]) -> LatentSpace:
    kind, config = codec
    return space_of({**config, "_class_name": kind})


def _words(family: str, checkpoint: Checkpoint | SingleFile, length: int | None) -> Words:
    """A checkpoint's text model; the family's usual one where it has none, as beside an expert whose text model serves
    both. length: how many words the network takes, where it fixes that, as CogVideoX's does."""
    if not checkpoint.has("text_encoder"):
        usual = USUAL_WORDS[family]
        return usual if length is None else replace(usual, limit=length)
    config = checkpoint.config("text_encoder")
    kind = str(next(iter(config.get("architectures") or ["CLIPTextModel"])))
    if length is not None:
        return Words(kind, config, length)
    usual_of = {words.kind: words for words in (UMT5, T5, MT5)}
    if kind in usual_of:
        return Words(kind, config, usual_of[kind].limit, usual_of[kind].masked)
    return Words(kind, config, int(config["max_position_embeddings"]))


def text_parameters(words: Words) -> int:
    """How many numbers a text model has learned, its word embeddings among them."""
    if not words.kind.endswith("T5EncoderModel"):
        return _parameters(words.kind, written(words.config))
    one, two = (_parameters(words.kind, written({**words.config, "num_layers": n})) for n in (1, 2))
    return one + (two - one) * (int(words.config["num_layers"]) - 1)


def parameters_of(kind: str, config: Mapping[str, Any]) -> int:
    """How many numbers a network of diffusers has learned."""
    return _parameters(kind, written(config))


@remembered
def _reach(kind: str, config: str) -> tuple[int, int]:
    reach = reach_of(hollow_of(kind, config))
    return reach.back, reach.ahead


def reach_ahead(kind: str, config: Mapping[str, Any]) -> tuple[int, int]:
    """How many latent frames back and ahead the decoder of a video autoencoder looks."""
    return _reach(kind, written(config))


def codec_outline(at: Location, family: str | None = None) -> tuple[str, Mapping[str, Any]] | None:
    """An autoencoder's class and config: from its files if they are on this machine, else as it is published, else from
    the hub's cache; of weights that nothing is known of, the autoencoder that experts of this family usually have. None
    if that is not known. Raises WeightsError for one that cannot decode."""
    if not here(at.weights) and (told := known_codec(_told_by(at))) is not None:
        return told
    found = seen(at)
    if found is not None and (here(at.weights) or found[0].has(found[1])):
        checkpoint, part = found
        config = checkpoint.config(part)
        told = str(config.get("_class_name")), {key: value for key, value in config.items() if key[0] != "_"}
        if told[0] == WFVAE:
            from dovetail.experts.wfvae.weights import sizes

            told = WFVAE, sizes(config, f"{part or 'the folder'} of '{at.weights}'")
        with checkpoint.making(part, told[0]):
            _decoded(*told)
        return told
    kind = FAMILIES[family].space.vae if family is not None else None
    return next(
        (codec for codec in (IMAGE_CODEC, WAN_CODEC, LTX_CODEC, COGVIDEOX_CODEC, WFVAE_CODEC) if codec[0] == kind), None
    )


def _told_by(at: Location) -> str:
    """The weights by which a codec is told: of one file, those of its base."""
    return at.base if at.base is not None and is_file(at.weights) else at.weights


def _decoded(kind: str, config: Mapping[str, Any]) -> None:
    """Let an autoencoder decode a small latent: some values are read only then."""
    from dovetail.experts.footprint import decoding

    space = space_of({**config, "_class_name": kind})
    _made(kind, written(config))
    decoding(kind, config, (space.channels, 1, SIDE, SIDE), 4, CHUNK, None)


@remembered
def _made(kind: str, config: str) -> int:
    """One codec, if it can be made."""
    codec_of(hollow_of(kind, config), space_of({**json.loads(config), "_class_name": kind}), CPU, torch.float32)
    return 1
