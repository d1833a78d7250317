"""From a name and a family to an `Expert`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dovetail.core.denoiser import Expert
from dovetail.errors import RecipeError, WeightsError, nearest
from dovetail.experts.adapter import Convention, Packed, Text, frames_first, motion, per_frame, volume
from dovetail.experts.assembling import TEXTS, assembled, reader, spoken
from dovetail.experts.checkpoint import Checkpoint, find, find_file, model, quietly
from dovetail.experts.placement import device_of, dtype_of
from dovetail.experts.space import LatentSpace, space_of

PARTS = ("text_encoder", "tokenizer", "scheduler", "vae")
"""What is taken of a checkpoint beside the network."""

WORDS = ("text_encoder", "tokenizer")
"""What is not taken where the text model is an expert's that was loaded before."""

IMAGES = LatentSpace(channels=4, vae="AutoencoderKL", factor=8, scaling=0.18215, shift=0.0, compression=1)
"""The latents of Stable Diffusion 1 and of all that grew out of it."""


@dataclass(frozen=True)
class Family:
    """Networks that are called in one way. networks: the diffusers classes that fit it. batch: rows
    per call, unless the recipe says otherwise. where: repositories that have such weights. part: the folder
    in which they lie there. texts: the text models that fit, by the names transformers has for them. even:
    see `Adapter`. space: the latents of the published weights."""

    networks: tuple[str, ...]
    convention: Convention
    batch: int
    where: str
    max_frames: int | None = None
    part: str = "unet"
    texts: tuple[str, ...] = ("CLIPTextModel",)
    even: bool = False
    space: LatentSpace = IMAGES


FAMILIES: dict[str, Family] = {
    "stable-diffusion": Family(
        ("UNet2DConditionModel",), per_frame, 16, "stable-diffusion-v1-5/stable-diffusion-v1-5", max_frames=1
    ),
    "animatediff": Family(
        ("UNetMotionModel", "UNet2DConditionModel"),
        motion,
        2,
        "stable-diffusion-v1-5/stable-diffusion-v1-5 with adapter guoyww/animatediff-motion-adapter-v1-5-2, or "
        "ByteDance/AnimateDiff-Lightning/animatediff_lightning_4step_diffusers.safetensors",
    ),
    "text-to-video-sd": Family(("UNet3DConditionModel",), volume, 2, "damo-vilab/text-to-video-ms-1.7b"),
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
        space=LatentSpace(channels=16, vae="AutoencoderKLCogVideoX", factor=8, compression=4),
    ),
}
"""The families of networks that dovetail can call."""


@dataclass(frozen=True)
class _Asked:
    """What `load` was asked for, checked."""

    name: str
    family: str
    checkpoint: Checkpoint
    adapter: str | None
    dtype: torch.dtype
    part: str


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
    fps: float | None = None,
    text: Text | None = None,
    waiting: bool = False,
) -> Expert:
    """An expert from weights on disk or on the hub. Its network is a `dovetail.experts.Adapter`.

    name: what the expert is called in recipes. family: a key of FAMILIES. weights: a folder in
    diffusers' layout (unet/ or transformer/, text_encoder/ tokenizer/ scheduler/ and, to know the latent
    space, vae/), a hub id OWNER/REPO, or "sprites/NAME" for weights that ship with the package. batch: rows
    per call of the network; results do not depend on it. subfolder: the network's folder, where a repository
    has several, as Wan 2.2 has transformer_2. fps: frames per second, for networks that are told (ltx; 25
    without). text: the text model of an expert loaded before, to share it. waiting: the weights stay in the computer's
    memory until `residency` brings them to the device. adapter: for animatediff over an image unet/, the
    motion modules: a MotionAdapter's folder or hub id, or AnimateDiff-Lightning's bare .safetensors
    file. `revision` and `variant` are those of `weights`; only safetensors files are opened.

    Raises RecipeError for an unknown family, dtype or device, or weights of another family;
    WeightsError for weights that are missing or unsafe to open.
    """
    if family not in FAMILIES:
        raise RecipeError(f"unknown family '{family}' of expert '{name}'; {nearest(family, FAMILIES)}")
    if batch is not None and batch < 1:
        raise RecipeError(f"batch of expert '{name}' is a number of rows, at least 1, not {batch}")
    kind, placed, precision = FAMILIES[family], device_of(device), dtype_of(dtype)
    part = kind.part if subfolder is None else subfolder
    parts = [part, *(other for other in PARTS if text is None or other not in WORDS)]
    checkpoint = find(weights, revision, variant, parts, f"Weights of this family: {kind.where}")
    asked = _Asked(name, family, checkpoint, adapter, precision, part)
    module, config, space = _network(asked), _scheduler(asked), _space(asked)
    return assembled(
        name,
        family,
        kind,
        module if waiting else module.to(placed),
        text=_text(asked, module.config, torch.device("cpu") if waiting else placed) if text is None else text,
        scheduler=config,
        space=space,
        device=placed,
        dtype=precision,
        batch=batch,
        fps=fps,
        weights=weights,
    )


def scheduler_config(
    name: str, family: str, weights: str, adapter: str | None = None, revision: str | None = None
) -> dict[str, Any]:
    """The scheduler config that such an expert works by, without loading it; arguments as for `load`.

    Raises WeightsError where there is none.
    """
    checkpoint = find(weights, revision, None, ["scheduler"])
    return _scheduler(_Asked(name, family, checkpoint, adapter, torch.float32, FAMILIES[family].part))


def _network(asked: _Asked) -> Any:
    import diffusers

    kind, config = FAMILIES[asked.family], asked.checkpoint.config(_part(asked))
    found = config.get("_class_name", "")
    if found not in kind.networks:
        fits = [name for name, other in FAMILIES.items() if found == other.networks[0]]
        raise RecipeError(
            f"expert '{asked.name}' is of family '{asked.family}', which calls a {' or '.join(kind.networks)}, but "
            f"{_part(asked)}/ of '{asked.checkpoint.weights}' is a {found}"
            + (f"; its family: {fits[0]}" if fits else "")
        )
    if asked.family == "cogvideox" and config.get("patch_size_t") is not None:
        raise RecipeError(
            f"expert '{asked.name}': {_part(asked)}/ of '{asked.checkpoint.weights}' takes {config['patch_size_t']} latent "
            f"frames for one token, as CogVideoX 1.5 does, which dovetail cannot call. Weights of this family: {kind.where}"
        )
    takes = asked.family == "animatediff" and found == "UNet2DConditionModel"
    if asked.adapter is not None and not takes:
        raise RecipeError(
            f"expert '{asked.name}' asks for adapter '{asked.adapter}', but a {found} in family '{asked.family}' takes none"
        )
    module = model(getattr(diffusers, found), asked.checkpoint, _part(asked), asked.dtype)
    if takes:
        module = _with_motion(asked, module)
    return module


def _part(asked: _Asked) -> str:
    """The folder of the network: the one asked for, or whichever of unet/ and transformer/ there is, so that weights
    of another family are told from weights that are not there."""
    usual = ("unet", "transformer")
    if (asked.checkpoint.path / asked.part).is_dir() or asked.part not in usual:
        return asked.part
    return next((part for part in usual if (asked.checkpoint.path / part).is_dir()), asked.part)


def _with_motion(asked: _Asked, unet: Any) -> Any:
    from diffusers import UNetMotionModel

    if asked.adapter is None:
        raise WeightsError(
            f"expert '{asked.name}': unet/ of '{asked.checkpoint.weights}' knows single images; name its motion modules "
            f"as adapter. Weights of this family: {FAMILIES['animatediff'].where}"
        )
    if asked.adapter.endswith(".safetensors"):
        modules = _bare_adapter(find_file(asked.adapter), unet)
    else:
        from diffusers import MotionAdapter

        modules = model(MotionAdapter, _adapter_folder(asked), "", asked.dtype)
    try:
        with quietly():
            return UNetMotionModel.from_unet2d(unet, modules).requires_grad_(False).eval()
    except (ValueError, RuntimeError) as error:
        raise RecipeError(
            f"expert '{asked.name}': adapter '{asked.adapter}' does not fit unet/ of '{asked.checkpoint.weights}': {error}"
        ) from error


def _adapter_folder(asked: _Asked) -> Checkpoint:
    assert asked.adapter is not None
    return find(asked.adapter, None, None, ["", "scheduler"])


def _bare_adapter(file: Path, unet: Any) -> Any:
    """AnimateDiff-Lightning ships tensors without a config; the image network and the shapes tell it."""
    from diffusers import MotionAdapter
    from safetensors.torch import load_file

    tensors = load_file(file)
    places = [tensor.shape[1] for key, tensor in tensors.items() if key.endswith("pos_embed.pe")]
    modules = MotionAdapter(
        block_out_channels=unet.config["block_out_channels"],
        motion_layers_per_block=unet.config["layers_per_block"],
        motion_norm_num_groups=unet.config["norm_num_groups"],
        motion_max_seq_length=places[0] if places else 32,
        use_motion_mid_block=any(key.startswith("mid_block.") for key in tensors),
    )
    try:
        modules.load_state_dict(tensors)
    except RuntimeError as error:
        raise WeightsError(f"'{file}' holds no motion modules for this unet/: {error}") from error
    return modules


def _scheduler(asked: _Asked) -> dict[str, Any]:
    """The scheduler config that the expert was trained with.

    Motion modules carry their own: AnimateDiff's were trained on linear betas over Stable
    Diffusion's scaled ones, and Lightning's are sampled at trailing timesteps.
    """
    file = "scheduler_config.json"
    config = asked.checkpoint.config("scheduler", file)
    if asked.adapter is not None:
        if asked.adapter.endswith(".safetensors"):
            config |= {"beta_schedule": "linear", "timestep_spacing": "trailing"}
        elif ((folder := _adapter_folder(asked)).path / "scheduler" / file).is_file():
            config = folder.config("scheduler", file)
        else:
            config |= {"beta_schedule": "linear"}
    return spoken(config, f"scheduler/ of '{asked.checkpoint.weights}'")


def _text(asked: _Asked, config: Any, device: torch.device) -> Text:
    """The text model of the checkpoint, and its tokenizer, for a network of this config."""
    import transformers

    fits = FAMILIES[asked.family].texts
    found = fits[0]
    if len(fits) > 1:
        found = next(iter(asked.checkpoint.config("text_encoder").get("architectures") or fits))
    if found not in fits:
        raise RecipeError(
            f"expert '{asked.name}' is of family '{asked.family}', which reads with a {' or '.join(fits)}, but "
            f"text_encoder/ of '{asked.checkpoint.weights}' is a {found}"
        )
    tokenizer = _tokenizer(getattr(transformers, TEXTS[found][1]), asked.checkpoint)
    encoder: nn.Module = model(getattr(transformers, found), asked.checkpoint, "text_encoder", asked.dtype)
    return reader(tokenizer, encoder.to(device), config, asked.name)


def _tokenizer(kind: Any, checkpoint: Checkpoint) -> Any:
    folder = checkpoint.part("tokenizer")
    try:
        return kind.from_pretrained(folder)
    except (ImportError, OSError, ValueError) as error:
        said = str(error).strip().splitlines()[0]
        raise WeightsError(
            f"tokenizer of '{checkpoint.weights}' cannot be read ({said}). A folder with spiece.model and no "
            "tokenizer.json needs the package sentencepiece"
        ) from error


def _space(asked: _Asked) -> LatentSpace:
    """The latents of the checkpoint's own autoencoder; without one, only their channels are known."""
    checkpoint = asked.checkpoint
    if not (checkpoint.path / "vae" / "config.json").is_file():
        return LatentSpace(channels=checkpoint.config(asked.part)["in_channels"])
    weights = sorted((checkpoint.path / "vae").glob("*.safetensors"))  # Any variant: all mean the same latents.
    return space_of(checkpoint.config("vae"), weights[0] if weights else None)
