"""The sprite experts' networks: the real architectures, small. All speak v and share one latent space."""

from dataclasses import dataclass
from pathlib import Path

from diffusers import DDIMScheduler, UNet2DConditionModel, UNet3DConditionModel, UNetMotionModel
from text import WIDTH
from torch import nn

import dovetail.sprites

WEIGHTS = Path(dovetail.sprites.__file__).parent / "weights"
"""Where the package keeps the experts that it ships."""

CHANNELS, CELLS = 16, 8
"""Latent channels, and latent cells across a frame of 64 pixels."""
WIDTHS = (64, 96)
HEADS = 4
DEEP = (*WIDTHS, 96)
"""Video networks have one level more, of 2 x 2 cells: where a few numbers tell an object's way through a whole clip."""


@dataclass(frozen=True)
class Spec:
    """What one expert is: its place in the division of labour."""

    kind: str  # of training video: sharp | degraded
    frames: int  # per example
    betas: tuple[str, float, float]


SPECS = {
    "spatial": Spec("sharp", 1, ("scaled_linear", 0.00085, 0.012)),
    "control": Spec("sharp", 16, ("linear", 0.00085, 0.012)),
    "temporal": Spec("degraded", 16, ("linear", 1e-4, 2e-2)),
}
"""Betas of Stable Diffusion, AnimateDiff and LaVie."""


def scheduler(spec: Spec) -> DDIMScheduler:
    shape, start, end = spec.betas
    return DDIMScheduler(
        beta_schedule=shape,
        beta_start=start,
        beta_end=end,
        prediction_type="v_prediction",
        timestep_spacing="trailing",
        clip_sample=False,
        set_alpha_to_one=True,
    )


def spatial() -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=CELLS,
        in_channels=CHANNELS,
        out_channels=CHANNELS,
        block_out_channels=WIDTHS,
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=WIDTH,
        attention_head_dim=HEADS,
        norm_num_groups=8,
    )


def control() -> UNetMotionModel:
    """An image network with motion modules, trained whole."""
    return UNetMotionModel(
        sample_size=CELLS,
        in_channels=CHANNELS,
        out_channels=CHANNELS,
        block_out_channels=DEEP,
        layers_per_block=1,
        down_block_types=("DownBlockMotion", "CrossAttnDownBlockMotion", "DownBlockMotion"),
        up_block_types=("UpBlockMotion", "CrossAttnUpBlockMotion", "UpBlockMotion"),
        cross_attention_dim=WIDTH,
        num_attention_heads=HEADS,
        motion_num_attention_heads=HEADS,
        motion_max_seq_length=32,
        norm_num_groups=8,
    )


def temporal() -> UNet3DConditionModel:
    return UNet3DConditionModel(
        sample_size=CELLS,
        in_channels=CHANNELS,
        out_channels=CHANNELS,
        block_out_channels=DEEP,
        layers_per_block=1,
        down_block_types=("DownBlock3D", "CrossAttnDownBlock3D", "DownBlock3D"),
        up_block_types=("UpBlock3D", "CrossAttnUpBlock3D", "UpBlock3D"),
        cross_attention_dim=WIDTH,
        attention_head_dim=HEADS,
        norm_num_groups=8,
    )


def network(name: str) -> nn.Module:
    return {"spatial": spatial, "control": control, "temporal": temporal}[name]()
