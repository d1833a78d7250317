"""From a name and a family to an `Expert`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dovetail.core.denoiser import Expert
from dovetail.core.schedules import schedule_of
from dovetail.errors import RecipeError, WeightsError, nearest
from dovetail.experts.adapter import Convention, Packed, Text, frames_first, masked, motion, per_frame, volume
from dovetail.experts.assembling import TEXTS, assembled, reader, spoken
from dovetail.experts.checkpoint import Checkpoint, Location, at_hand, config_at, find, find_file, model
from dovetail.experts.lavie import facts as lavie
from dovetail.experts.loras import Lora, add, add_to_words
from dovetail.experts.motion import scheduler_of, with_motion
from dovetail.experts.opensora import facts as opensora
from dovetail.experts.pins import unpinned
from dovetail.experts.placement import device_of, dtype_of
from dovetail.experts.published import Published, known
from dovetail.experts.single_file import USUAL_BASE, SingleFile
from dovetail.experts.soundness import tied
from dovetail.experts.space import LatentSpace, space_of
from dovetail.experts.tensors import is_file
from dovetail.experts.tokenizing import tokenizer
from dovetail.experts.tuning import Tuning, quantization, tune

PARTS = ("text_encoder", "tokenizer", "scheduler", "vae")
"""What is taken of a checkpoint beside the network."""

USUAL_PARTS = ("unet", "transformer")
"""The folders in which networks lie."""

WORDS = ("text_encoder", "tokenizer")
"""What is not taken where the text model is an expert's that was loaded before."""

CPU = torch.device("cpu")

IMAGES = LatentSpace(channels=4, vae="AutoencoderKL", factor=8, scaling=0.18215, shift=0.0, compression=1)
"""The latents of Stable Diffusion 1 and of all that grew out of it."""


@dataclass(frozen=True)
class Family:
    """Networks that are called in one way. networks: the classes that fit it, of diffusers or ours. batch: rows
    per call, unless the recipe says otherwise. where: repositories that have such weights. part: the folder
    in which they lie there. texts: the text models that fit, by the names transformers has for them. even:
    see `Adapter`. by_frame: whether frames of one row can be told texts of their own (see `passages`). space: the latents
    of the published weights. words: the repository of the text model that they come
    without, and the files that are taken of it; scheduler: the config of the scheduler that they come without."""

    networks: tuple[str, ...]
    convention: Convention
    batch: int
    where: str
    max_frames: int | None = None
    part: str = "unet"
    texts: tuple[str, ...] = ("CLIPTextModel",)
    even: bool = False
    by_frame: bool = True
    space: LatentSpace = IMAGES
    words: tuple[str, tuple[str, ...]] | None = None
    scheduler: Mapping[str, Any] | None = None

    def folder(self, subfolder: str | None) -> str:
        """The folder of a network: the one that is asked for, or the family's."""
        return self.part if subfolder is None else subfolder


FAMILIES: dict[str, Family] = {
    "stable-diffusion": Family(
        ("UNet2DConditionModel",), per_frame, 16, "stable-diffusion-v1-5/stable-diffusion-v1-5", max_frames=1
    ),
    "animatediff": Family(
        ("UNetMotionModel", "UNet2DConditionModel"),
        motion,
        2,
        "stable-diffusion-v1-5/stable-diffusion-v1-5 with adapter guoyww/animatediff-motion-adapter-v1-5-2 "
        "(or -1-5, -1-5-3), guoyww/animatediff/v3_sd15_mm.ckpt, or "
        "ByteDance/AnimateDiff-Lightning/animatediff_lightning_4step_diffusers.safetensors",
    ),
    "text-to-video-sd": Family(
        ("UNet3DConditionModel",),
        volume,
        2,
        "damo-vilab/text-to-video-ms-1.7b, cerspense/zeroscope_v2_576w, cerspense/zeroscope_v2_XL",
    ),
    "lavie": Family(
        ("LaVieUNet", "UNet2DConditionModel"),
        volume,
        2,
        f"CompVis/stable-diffusion-v1-4 with adapter {lavie.FILE}",
    ),
    # Its pipeline asks for one branch of guidance at a time; these networks are large.
    "wan": Family(
        ("WanTransformer3DModel",),
        volume,
        1,
        "Wan-AI/Wan2.1-T2V-1.3B-Diffusers, Wan-AI/Wan2.1-T2V-14B-Diffusers or, with subfolder transformer_2 for the "
        "expert at low noise, Wan-AI/Wan2.2-T2V-A14B-Diffusers",
        part="transformer",
        texts=("UMT5EncoderModel", "CLIPTextModel"),
        space=LatentSpace(channels=16, vae="AutoencoderKLWan", factor=8, compression=4),
    ),
    "ltx": Family(
        ("LTXVideoTransformer3DModel",),
        Packed(),
        2,
        "Lightricks/LTX-Video-0.9.5, Lightricks/LTX-Video-0.9.7-dev",
        part="transformer",
        texts=("T5EncoderModel",),
        even=True,
        space=LatentSpace(channels=128, vae="AutoencoderKLLTXVideo", factor=32, scaling=1.0, compression=8),
    ),
    "cogvideox": Family(
        ("CogVideoXTransformer3DModel",),
        frames_first,
        2,
        "THUDM/CogVideoX-2b, THUDM/CogVideoX-5b (1.5 and image to video are others)",
        max_frames=13,
        part="transformer",
        texts=("T5EncoderModel",),
        by_frame=False,  # Words and tokens are one sequence there.
        space=LatentSpace(channels=16, vae="AutoencoderKLCogVideoX", factor=8, compression=4),
    ),
    "open-sora-plan": Family(
        (opensora.KIND,),
        masked,
        2,
        f"{opensora.REPO}, read with {opensora.WORDS} (v1.3 alone; {opensora.PART}_i2v is another network)",
        max_frames=opensora.FRAMES,
        part=opensora.PART,
        texts=("MT5EncoderModel",),
        space=LatentSpace(channels=8, vae="WFVAEModel", factor=8, scaling=0.18215, shift=0.0, compression=4),
        words=(opensora.WORDS, opensora.WORDS_FILES),
        scheduler=opensora.SCHEDULER,
    ),
}
"""The families of networks that dovetail can call."""


@dataclass(frozen=True)
class _Asked:
    """What `load` was asked for, checked. part: the network's folder; the rest is as there."""

    name: str
    family: str
    checkpoint: Checkpoint | SingleFile
    adapter: str | None
    part: str
    dtype: torch.dtype = torch.float32
    device: torch.device = CPU
    batch: int | None = None
    fps: float | None = None
    loras: Sequence[Lora] = ()
    tuning: Tuning = field(default_factory=Tuning)
    waiting: bool = False
    words: str | None = None


def load(
    name: str,
    family: str,
    weights: str,
    *,
    revision: str | None = None,
    variant: str | None = None,
    dtype: str = "float32",
    device: str = "cpu",
    batch: int | None = None,
    adapter: str | None = None,
    subfolder: str | None = None,
    base: str | None = None,
    loras: Sequence[Lora] = (),
    fps: float | None = None,
    text: Text | None = None,
    words: str | None = None,
    waiting: bool = False,
    words_wait: bool = False,
    tuning: Tuning | None = None,
) -> Expert:
    """An expert from weights on disk or on the hub. Its network is a `dovetail.experts.Adapter`.

    name: what the expert is called in recipes. family: a key of FAMILIES. weights: a folder in diffusers' layout (unet/
    or transformer/, text_encoder/ tokenizer/ scheduler/ and, to know the latent space, vae/), a hub id OWNER/REPO,
    "sprites/NAME" for weights that ship with the package, or one file (see `single_file`), for which `base` is a
    checkpoint that has what the file has not. batch: rows per call of the network; results do not depend on it.
    subfolder: the network's folder, where a repository has several, as Wan 2.2 has transformer_2. fps: frames per
    second, for networks that are told (ltx; 25 without). text: the text model of an expert loaded before, to share it.
    words: for weights that come without a text model (open-sora-plan), the folder or hub id that has it and its tokenizer,
    each in its part or both at the top; the family's published one without.
    waiting: the weights stay in the computer's memory until `residency` brings them to the device; words_wait: those of
    the text model do. tuning: how the network is kept and called. adapter: for animatediff over an image unet/, the
    motion modules: a MotionAdapter's folder or hub id, or one file of them (see `motion`); for lavie over an image
    unet/, LaVie's own file, which takes that network's place and leaves its weights unopened. loras: added to the
    weights, in order (see `loras`). `revision` and `variant` are those of `weights`; every other hub id may say its own
    revision (see `pins`). Pickles are opened if they hold tensors alone.

    Raises RecipeError for an unknown family, dtype or device, or weights of another family;
    WeightsError for weights that are missing or unsafe to open.
    """
    tuning = Tuning() if tuning is None else tuning
    _check(name, family, batch, loras, tuning, words)
    kind, placed, precision = FAMILIES[family], device_of(device), dtype_of(dtype)
    parts = parts_of(family, subfolder, adapter, text is not None)
    at = Location(weights, subfolder, base, revision, variant)
    checkpoint = find(at, parts, f"Weights of this family: {kind.where}")
    part = kind.folder(subfolder)
    asked = _Asked(
        name, family, checkpoint, adapter, part, precision, placed, batch, fps, tuple(loras), tuning, waiting, words
    )
    return _made(asked, text, CPU if waiting or words_wait else placed)


def _made(asked: _Asked, text: Text | None, reading: torch.device) -> Expert:
    """The expert, its parts loaded. text: another expert's text model, to share it; reading: where a new one goes."""
    tuning = asked.tuning
    module, config, space = _network(asked), _scheduler(asked), _space(asked)
    words: Any = text or _text(asked, module.config, reading)
    add(asked.name, asked.family, asked.loras, module, words.borrowed.network if text is None else None)
    tune(f"expert '{asked.name}'", module, tuning, asked.dtype, asked.device)
    module = module if asked.waiting or tuning.offload or tuning.stays else module.to(asked.device)
    with asked.checkpoint.making(network_part(asked.checkpoint, asked.part), "network"):
        return assembled(
            asked.name,
            asked.family,
            FAMILIES[asked.family],
            module,
            text=words,
            scheduler=config,
            space=space,
            device=asked.device,
            dtype=asked.dtype,
            batch=asked.batch,
            fps=asked.fps,
            weights=asked.checkpoint.weights,
            stays=tuning.stays,
            waits=asked.waiting and not (tuning.offload or tuning.stays),
        )


def _check(
    name: str, family: str, batch: int | None, loras: Sequence[Lora], tuning: Tuning, words: str | None = None
) -> None:
    """Raise RecipeError for what no expert can be."""
    if family not in FAMILIES:
        raise RecipeError(f"unknown family '{family}' of expert '{name}'; {nearest(family, FAMILIES)}")
    if batch is not None and batch < 1:
        raise RecipeError(f"batch of expert '{name}' is a number of rows, at least 1, not {batch}")
    if words is not None and FAMILIES[family].words is None:
        raise RecipeError(
            f"expert '{name}' asks for words '{words}', but weights of family '{family}' come with their text model; leave "
            "words out"
        )
    if loras and tuning.quantize is not None:
        raise RecipeError(
            f"expert '{name}': LoRA weights cannot be added to weights that are quantised as they are loaded; leave out "
            "loras or quantize (store: float8 takes both)"
        )


def parts_of(family: str, subfolder: str | None, adapter: str | None, shares_words: bool) -> list[str]:
    """What such an expert takes of its checkpoint: folders, or single .json files; arguments as for `load`.
    shares_words: whether its text model is another expert's. See `words_of` for one that lies elsewhere."""
    kind = FAMILIES[family]
    part = kind.folder(subfolder)
    # Where LaVie's network takes the place of an image network, only the sizes of that are looked at.
    network = part if family != "lavie" or adapter is None else f"{part}/config.json"
    without = {*(WORDS if shares_words or kind.words else ()), *(("scheduler",) if kind.scheduler else ())}
    return [network, *(other for other in PARTS if other not in without)]


def words_of(family: str, weights: str, words: str | None = None) -> tuple[str, tuple[str, ...]] | None:
    """Where the text model of an expert lies whose weights come without one, and what is taken of that; None where they
    come with it, as those of most families, or a folder that has it. Arguments as for `load`."""
    usual = FAMILIES[family].words
    if usual is None or (words is None and (Path(weights).expanduser() / "text_encoder").is_dir()):
        return None
    if words is None:
        return usual
    return words, usual[1] if unpinned(words)[0] == usual[0] else (*WORDS, *usual[1])


def published_of(name: str, family: str, at: Location, adapter: str | None = None) -> Published | None:
    """What is published of such an expert; arguments as for `load`, None where that is nothing. Of one file it is what
    is published of its base: without one, a file of Stable Diffusion 1 has the sizes of the usual one.

    Raises what `check_network` raises.
    """
    weights, kind = at.weights, FAMILIES[family]
    bare = at.base is None and is_file(weights)
    told_by = (at.base or USUAL_BASE) if is_file(weights) else weights
    part = kind.folder(at.subfolder)
    # As in `network_part`. A file whose base nobody named may be anything, so it is in no other folder of the usual one.
    others = () if at.subfolder is not None or bare else USUAL_PARTS
    for folder in (part, *others):
        found = known(told_by, folder)
        if found is not None and not (bare and found.kind not in kind.networks):
            what = f"{folder}/ of '{told_by}'" + (f", by which '{weights}' is told," if told_by != weights else "")
            check_network(name, family, {**found.config, "_class_name": found.kind}, adapter, what)
            break
    told = known(told_by, part, adapter)
    # Only the family says what an adapter is: LaVie's network under another name is no motion modules.
    return told if told is None or told.kind in kind.networks else None


def check_network(
    name: str, family: str, config: Mapping[str, Any], adapter: str | None, what: str, path: Path | None = None
) -> None:
    """Raise unless a network of this config is one that the family calls: RecipeError for another, and for an adapter
    that it does not take; WeightsError for one that lacks an adapter. what: whose it is, as "unet/ of 'WEIGHTS'"; path:
    of the config, where that is a file."""
    kind, found = FAMILIES[family], config.get("_class_name")
    if found not in kind.networks:
        fits = [other for other, one in FAMILIES.items() if found == one.networks[0]]
        said = f"is a {found}; its family: {fits[0]}" if fits else f"is a {found}, which no family calls"
        if not found:
            said = "is nothing that can be told: its config names no _class_name"
        raise RecipeError(
            f"expert '{name}' is of family '{family}', which calls a {' or '.join(kind.networks)}, but "
            f"{_at(what, path)} {said}. Weights of family '{family}': {kind.where}"
        )
    if family == "open-sora-plan" and (odd := opensora.odd(config)) is not None:
        raise RecipeError(
            f"expert '{name}': {what} is no network of Open-Sora Plan v1.3 that dovetail can call: {odd}. Weights of this "
            f"family: {kind.where}"
        )
    if family == "cogvideox" and config.get("patch_size_t") is not None:
        raise RecipeError(
            f"expert '{name}': {what} takes {config['patch_size_t']} latent frames for one token, as CogVideoX 1.5 does, "
            f"which dovetail cannot call. Weights of this family: {kind.where}"
        )
    takes = _takes_adapter(family, found)
    if adapter is not None and not takes:
        raise RecipeError(
            f"expert '{name}' asks for adapter '{adapter}', but a {found} in family '{family}' takes none"
        )
    if takes and adapter is None:
        lacks = (
            "is an image network; name LaVie's file"
            if family == "lavie"
            else "knows single images; name its motion modules"
        )
        raise WeightsError(f"expert '{name}': {what} {lacks} as adapter. Weights of this family: {kind.where}")


def _takes_adapter(family: str, network: object) -> bool:
    return family in ("animatediff", "lavie") and network == "UNet2DConditionModel"


def _at(what: str, path: Path | None) -> str:
    return what if path is None else f"{what} ({path})"


def scheduler_config(name: str, family: str, at: Location, adapter: str | None = None) -> dict[str, Any]:
    """The scheduler config that such an expert works by, without loading it, from this machine or the hub's cache;
    arguments as for `load`.

    Raises WeightsError where there is none.
    """
    if (checkpoint := at_hand(at, ["scheduler"])) is None:
        raise WeightsError(f"'{at.weights}' is not on this machine")
    return _scheduler(_Asked(name, family, checkpoint, adapter, FAMILIES[family].part))


def _network(asked: _Asked) -> Any:
    part, weights = network_part(asked.checkpoint, asked.part), asked.checkpoint.weights
    config, what = asked.checkpoint.config(part), f"{part}/ of '{weights}'"
    with asked.checkpoint.making(part, "network"):
        check_network(asked.name, asked.family, config, asked.adapter, what, config_at(asked.checkpoint, part))
    found = config["_class_name"]
    takes = _takes_adapter(asked.family, found)
    if takes and asked.tuning.quantize is not None:
        of = "LaVie's own file" if asked.family == "lavie" else "an image network and motion modules"
        raise RecipeError(f"expert '{asked.name}' is made of {of}, so it cannot be quantised as it is loaded")
    if takes and asked.family == "lavie":
        return _lavie(asked, config, f"expert '{asked.name}': {what}")
    smaller = quantization(f"expert '{asked.name}'", asked.tuning.quantize, asked.dtype)
    module = model(network_class(found), asked.checkpoint, part, asked.dtype, **smaller)
    if asked.adapter is not None:
        module = with_motion(module, asked.adapter, f"unet/ of '{weights}', expert '{asked.name}'", asked.dtype)
    return module


def network_class(kind: str) -> Any:
    """The class of a network by its name: one of diffusers, or one that diffusers has not."""
    if kind in OURS:
        return getattr(import_module(OURS[kind]), kind)
    import diffusers

    return getattr(diffusers, kind)


OURS = {
    "LaVieUNet": "dovetail.experts.lavie.unet",
    "OpenSoraT2V_v1_3": "dovetail.experts.opensora.transformer",
}
"""Networks that diffusers has not, and where they are."""


def _lavie(asked: _Asked, config: dict[str, Any], where: str) -> Any:
    """LaVie's network out of its own file, in the sizes of an image network's config."""
    from dovetail.experts.lavie.weights import network, sizes

    assert asked.adapter is not None
    return network(sizes(config, where), find_file(asked.adapter), asked.dtype)


def network_part(checkpoint: Checkpoint | SingleFile, part: str) -> str:
    """The folder of the network: the one asked for, or whichever of unet/ and transformer/ there is, so that weights
    of another family are told from weights that are not there."""
    if checkpoint.has(part) or part not in USUAL_PARTS:
        return part
    return next((usual for usual in USUAL_PARTS if checkpoint.has(usual)), part)


def _scheduler(asked: _Asked) -> dict[str, Any]:
    """The scheduler config that the expert was trained with; motion modules carry their own, LaVie's betas are its
    authors', and of weights that come without one it is the family's."""
    usual = FAMILIES[asked.family].scheduler
    if usual is not None and not asked.checkpoint.has("scheduler"):
        return spoken(usual, f"the scheduler of family '{asked.family}'")
    config = asked.checkpoint.config("scheduler", "scheduler_config.json")
    if asked.adapter is not None:
        config = config | lavie.BETAS if asked.family == "lavie" else scheduler_of(asked.adapter, config)
    with asked.checkpoint.making("scheduler", "schedule", "scheduler_config.json"):
        config = spoken(config, f"scheduler/ of '{asked.checkpoint.weights}'")
        schedule_of(config)
    return config


def _text(asked: _Asked, config: Any, device: torch.device) -> Text:
    """The text model of the checkpoint, and its tokenizer, for a network of this config."""
    import transformers

    fits = FAMILIES[asked.family].texts
    found = fits[0]
    if len(fits) > 1:
        config_of_words = asked.checkpoint.config("text_encoder")
        with asked.checkpoint.making("text_encoder", "text model"):
            found = next(iter(config_of_words.get("architectures") or fits))
    if found not in fits:
        what = _at(f"text_encoder/ of '{asked.checkpoint.weights}'", config_at(asked.checkpoint, "text_encoder"))
        raise RecipeError(
            f"expert '{asked.name}' is of family '{asked.family}', which reads with a {' or '.join(fits)}, but "
            f"{what} is a {found}. Weights of family '{asked.family}': {FAMILIES[asked.family].where}"
        )
    apart = _words_apart(asked)
    words = tokenizer(getattr(transformers, TEXTS[found][1]), apart, _folder(asked, apart, "tokenizer"))

    def again() -> nn.Module:
        encoder = _encoder(asked, found, device)
        add_to_words(asked.family, asked.loras, encoder)
        return encoder

    return reader(words, _encoder(asked, found, device), config, asked.name, again)


def _encoder(asked: _Asked, kind: str, device: torch.device) -> nn.Module:
    """The network of a text model, of this class of transformers."""
    import transformers

    checkpoint = _words_apart(asked)
    part = _folder(asked, checkpoint, "text_encoder")
    encoder: nn.Module = model(getattr(transformers, kind), checkpoint, part, asked.dtype)
    place = checkpoint.path / part if isinstance(checkpoint, Checkpoint) else checkpoint.file
    tied(encoder, f"text_encoder of '{checkpoint.weights}' ({place})")
    return encoder.to(device)


def _words_apart(asked: _Asked) -> Checkpoint | SingleFile:
    """The checkpoint that has the text model: the network's, or another, of weights that come without one."""
    apart = words_of(asked.family, asked.checkpoint.weights, asked.words)
    if apart is None:
        return asked.checkpoint
    where, parts = apart
    return find(Location(where), parts, f"The text model of family '{asked.family}': {FAMILIES[asked.family].where}")


def _folder(asked: _Asked, checkpoint: Checkpoint | SingleFile, part: str) -> str:
    """The folder of a part of the checkpoint with the text model; "" of another than the network's that holds nothing
    else."""
    if checkpoint is asked.checkpoint or isinstance(checkpoint, SingleFile) or checkpoint.has(part):
        return part
    return "" if (checkpoint.path / "config.json").is_file() else part


def _space(asked: _Asked) -> LatentSpace:
    """The latents of the checkpoint's own autoencoder; without one, only their channels are known."""
    checkpoint = asked.checkpoint
    if not checkpoint.has("vae"):
        config = checkpoint.config(asked.part)
        with checkpoint.making(asked.part, "network"):
            return LatentSpace(channels=config["in_channels"])
    config = checkpoint.config("vae")
    with checkpoint.making("vae", "autoencoder"):
        space_of(config)
    return space_of(config, lambda *starts: checkpoint.tensors("vae", starts))
