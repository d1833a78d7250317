"""Motion modules over an image network: AnimateDiff's in every form in which they are shared.

| file or folder | keys | longest video |
|---|---|---|
| a MotionAdapter's folder, as guoyww/animatediff-motion-adapter-v1-5-2 | diffusers' | as its config says |
| mm_sd_v14, mm_sd_v15 (v1), mm_sd_v15_v2, v3_sd15_mm (guoyww/animatediff) | the original code's | 24, 32, 32 |
| animatediff_lightning_{1,2,4,8}step_{diffusers,comfyui} (ByteDance) | diffusers', the original code's | 32 |

Files say nothing of their sizes; the image network and the tensors' own shapes tell them.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dovetail.errors import RecipeError, WeightsError
from dovetail.experts.checkpoint import Checkpoint, Location, at_hand, find, find_file, model, quietly
from dovetail.experts.tensors import is_file, opened

LONGEST = 32
"""Frames that motion modules know places for, where a file does not say."""


def with_motion(unet: Any, adapter: str, where: str, dtype: torch.dtype) -> Any:
    """An image network with motion modules in it, frozen. where: what errors call the image network.

    Raises WeightsError for modules that are missing or unsafe to open, RecipeError for those of another network.
    """
    from diffusers import MotionAdapter, UNetMotionModel

    modules = (
        _from_file(find_file(adapter), unet)
        if is_file(adapter)
        else model(MotionAdapter, folder_of(adapter), "", dtype)
    )
    try:
        with quietly():
            return UNetMotionModel.from_unet2d(unet, modules).requires_grad_(False).eval()
    except (ValueError, RuntimeError) as error:
        raise RecipeError(f"adapter '{adapter}' does not fit {where}: {error}") from error


def folder_of(adapter: str) -> Checkpoint:
    """The checkpoint of a MotionAdapter's folder or hub id."""
    found = find(Location(adapter), ["", "scheduler"])
    assert isinstance(found, Checkpoint)
    return found


def scheduler_of(adapter: str, image: Mapping[str, Any]) -> dict[str, Any]:
    """The scheduler config that motion modules were trained with, over an image network's.

    AnimateDiff's were trained on linear betas over Stable Diffusion's scaled ones, and Lightning's are sampled at
    trailing timesteps.
    """
    linear = {**image, "beta_schedule": "linear"}
    if is_file(adapter):
        # By its name: apart from being distilled, Lightning's modules are AnimateDiff's.
        return {**linear, "timestep_spacing": "trailing"} if "lightning" in Path(adapter).name.lower() else linear
    file = "scheduler_config.json"
    at, parts = Location(adapter), ["scheduler"]  # For a plan, nothing else is fetched, and nothing of what was pulled.
    folder = at_hand(at, parts) or find(at, parts)
    assert isinstance(folder, Checkpoint)
    return folder.config("scheduler", file) if (folder.path / "scheduler" / file).is_file() else linear


def _from_file(file: Path, unet: Any) -> Any:
    from diffusers import MotionAdapter

    found = opened(file)
    tensors, places = _renamed(found), _places(found)
    if not any("motion_modules." in key for key in tensors):
        raise WeightsError(f"'{file}' holds no motion modules: none of its names has motion_modules in it")
    modules = MotionAdapter(
        block_out_channels=unet.config["block_out_channels"],
        motion_layers_per_block=unet.config["layers_per_block"],
        motion_norm_num_groups=unet.config["norm_num_groups"],
        motion_max_seq_length=places,
        use_motion_mid_block=any(key.startswith("mid_block.") for key in tensors),
    )
    try:
        missing, strange = modules.load_state_dict(tensors, strict=False)
    except RuntimeError as error:
        raise WeightsError(f"'{file}' holds no motion modules for this unet/: {error}") from error
    # Places are sums of sines, which files in the original layout have under another name.
    missing = [key for key in missing if not key.endswith("pos_embed.pe")]
    if missing or strange:
        what = f"{len(missing)} tensors are missing" if missing else f"{len(strange)} are left over"
        raise WeightsError(
            f"'{file}' holds no motion modules for this unet/: {what}, the first is '{[*missing, *strange][0]}'"
        )
    return modules


def _places(tensors: Mapping[str, Tensor]) -> int:
    """How many frames the modules know places for."""
    known = [part.shape[1] for key, part in tensors.items() if key.endswith(("pos_embed.pe", "pos_encoder.pe"))]
    return known[0] if known else LONGEST


def _renamed(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Tensors by diffusers' names."""
    from diffusers.loaders.single_file_utils import convert_animatediff_checkpoint_to_diffusers

    if not any(".temporal_transformer." in key for key in tensors):
        return tensors
    only = {key: part for key, part in tensors.items() if "motion_modules." in key}
    renamed: dict[str, Tensor] = convert_animatediff_checkpoint_to_diffusers(only)
    return renamed
