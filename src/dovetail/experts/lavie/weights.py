"""LaVie's network from the file in which its authors publish it, and the sizes that the file leaves out.

`lavie_base.pt` is opened as a pickle of tensors alone: what holds more is refused, since opening it could run any code.
The sizes are those of the image network that it grew out of (`UNet3DConditionModel.from_pretrained_2d` of
github.com/Vchitect/LaVie reads them there too), and how betas rise stands in `base/configs/sample.yaml`.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dovetail.errors import RecipeError, WeightsError
from dovetail.experts.checkpoint import quietly
from dovetail.experts.lavie.attention import Rotary
from dovetail.experts.lavie.facts import FILE, SIZES
from dovetail.experts.lavie.unet import LaVieUNet
from dovetail.experts.tensors import fitting, opened

WHERE = f"Weights of this family: {FILE} over CompVis/stable-diffusion-v1-4"


def sizes(config: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The config of the LaVie network over an image network of this config (Stable Diffusion's unet/config.json).

    Raises RecipeError, which begins with `where`, for an image network of another kind.
    """
    blocks = len(config.get("block_out_channels", (320, 640, 1280, 1280)))
    usual = ["CrossAttnDownBlock2D"] * (blocks - 1) + ["DownBlock2D"]
    kinds, heads = list(config.get("down_block_types", usual)), config.get("attention_head_dim", 8)
    if kinds != usual or not isinstance(heads, int) or config.get("use_linear_projection"):
        raise RecipeError(
            f"{where} is no image network that LaVie's could have grown out of. It grew out of Stable Diffusion 1.4: "
            "CompVis/stable-diffusion-v1-4, or any other 1.x"
        )
    return {name: config[name] for name in SIZES if name in config}


def network(config: Mapping[str, Any], file: Path, dtype: torch.dtype) -> LaVieUNet:
    """A frozen LaVie network of these `sizes`, with the tensors of a file; its rotary frequencies stay float32.

    Raises WeightsError for a file that cannot be opened safely, is damaged, or holds another network.
    """
    with quietly(), torch.device("meta"):
        module = LaVieUNet.from_config(dict(config))
    tensors = _fitting(opened(file), module.state_dict(), file)
    for name, tensor in tensors.items():
        tensors[name] = tensor.to(torch.float32 if "rotary_emb" in name else dtype, copy=True)
    module.load_state_dict(tensors, assign=True)
    return module.requires_grad_(False).eval()  # type: ignore[no-any-return]


def _fitting(tensors: dict[str, Tensor], wanted: Mapping[str, Tensor], file: Path) -> dict[str, Tensor]:
    """The tensors, if they are those of the network. Files that keep what is equal only once lack most frequencies."""
    if not tensors:
        raise WeightsError(f"'{file}' holds no tensors by name. {WHERE}")
    constant = Rotary().freqs.detach()
    tensors = {name: constant for name in wanted if name.endswith("rotary_emb.freqs")} | tensors
    return fitting(tensors, wanted, file, "LaVie's base network", WHERE)
