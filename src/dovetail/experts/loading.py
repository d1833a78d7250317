"""From a name and a family to an `Expert`."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dovetail.core.denoiser import TARGETS, Expert
from dovetail.core.schedules import schedule_of
from dovetail.errors import RecipeError, WeightsError, nearest
from dovetail.experts.adapter import Adapter, Convention, motion, per_frame, volume
from dovetail.experts.checkpoint import Checkpoint, find, find_file, model, quietly
from dovetail.experts.placement import device_of, dtype_of
from dovetail.experts.space import LatentSpace, kl_space
from dovetail.experts.text import Clip

PARTS = ("unet", "text_encoder", "tokenizer", "scheduler", "vae")


@dataclass(frozen=True)
class Family:
    """Networks that are called in one way. networks: the diffusers classes that fit it. batch: rows
    per call, unless the recipe says otherwise. where: repositories that have such weights."""

    networks: tuple[str, ...]
    convention: Convention
    batch: int
    where: str
    max_frames: int | None = None


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
) -> Expert:
    """An expert from weights on disk or on the hub. Its network is a `dovetail.experts.Adapter`.

    name: what the expert is called in recipes. family: a key of FAMILIES. weights: a folder in
    diffusers' layout (unet/ text_encoder/ tokenizer/ scheduler/ and, to know the latent space, vae/),
    a hub id OWNER/REPO, or "sprites/NAME" for weights that ship with the package. batch: rows per
    call of the network; results do not depend on it. adapter: for animatediff over an image unet/, the
    motion modules: a MotionAdapter's folder or hub id, or AnimateDiff-Lightning's bare .safetensors
    file. `revision` and `variant` are those of `weights`; only safetensors files are opened.

    Raises RecipeError for an unknown family, dtype or device, or weights of another family;
    WeightsError for weights that are missing or unsafe to open.
    """
    if family not in FAMILIES:
        raise RecipeError(f"unknown family '{family}' of expert '{name}'; {nearest(family, FAMILIES)}")
    kind, placed, precision = FAMILIES[family], device_of(device), dtype_of(dtype)
    if batch is not None and batch < 1:
        raise RecipeError(f"batch of expert '{name}' is a number of rows, at least 1, not {batch}")
    checkpoint = find(weights, revision, variant, PARTS, f"Weights of this family: {kind.where}")
    asked = _Asked(name, family, checkpoint, adapter, precision)
    module, longest = _network(asked)
    config = _scheduler(asked)
    network = Adapter(
        name=name,
        family=family,
        weights=weights,
        module=module.to(placed),
        convention=kind.convention,
        text=_clip(asked, placed),
        batch=kind.batch if batch is None else batch,
        device=placed,
        dtype=precision,
        scheduler=config,
        space=_space(checkpoint),
        max_frames=longest,
    )
    return Expert(name, schedule_of(config), TARGETS[config["prediction_type"]], network)


def scheduler_config(
    name: str, family: str, weights: str, adapter: str | None = None, revision: str | None = None
) -> dict[str, Any]:
    """The scheduler config that such an expert works by, without loading it; arguments as for `load`.

    Raises WeightsError where there is none.
    """
    return _scheduler(_Asked(name, family, find(weights, revision, None, ["scheduler"]), adapter, torch.float32))


def _network(asked: _Asked) -> tuple[nn.Module, int | None]:
    """The network, and the longest video it was built for."""
    import diffusers

    kind, found = FAMILIES[asked.family], asked.checkpoint.config("unet").get("_class_name", "")
    if found not in kind.networks:
        fits = [name for name, other in FAMILIES.items() if found == other.networks[0]]
        raise RecipeError(
            f"expert '{asked.name}' is of family '{asked.family}', which calls a {' or '.join(kind.networks)}, but "
            f"unet/ of '{asked.checkpoint.weights}' is a {found}" + (f"; its family: {fits[0]}" if fits else "")
        )
    takes = asked.family == "animatediff" and found == "UNet2DConditionModel"
    if asked.adapter is not None and not takes:
        raise RecipeError(
            f"expert '{asked.name}' asks for adapter '{asked.adapter}', but a {found} in family '{asked.family}' takes none"
        )
    unet = model(getattr(diffusers, found), asked.checkpoint, "unet", asked.dtype)
    if takes:
        unet = _with_motion(asked, unet)
    return unet, unet.config.get("motion_max_seq_length", kind.max_frames)


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
    config.setdefault("prediction_type", "epsilon")
    if config["prediction_type"] not in TARGETS:
        raise RecipeError(
            f"scheduler/ of '{asked.checkpoint.weights}' has an unknown prediction_type "
            f"'{config['prediction_type']}'; {nearest(config['prediction_type'], TARGETS)}"
        )
    return config


def _clip(asked: _Asked, device: torch.device) -> Clip:
    from transformers import CLIPTextModel, CLIPTokenizer

    tokenizer: Callable[..., Any] = CLIPTokenizer.from_pretrained(asked.checkpoint.part("tokenizer"))
    encoder: nn.Module = model(CLIPTextModel, asked.checkpoint, "text_encoder", asked.dtype)
    return Clip(tokenizer, encoder.to(device), asked.name)


def _space(checkpoint: Checkpoint) -> LatentSpace:
    """The latents of the checkpoint's own autoencoder; without one, only their channels are known."""
    if not (checkpoint.path / "vae" / "config.json").is_file():
        return LatentSpace(channels=checkpoint.config("unet")["in_channels"])
    weights = sorted((checkpoint.path / "vae").glob("*.safetensors"))  # Any variant: all mean the same latents.
    return kl_space(checkpoint.config("vae"), weights[0] if weights else None)
