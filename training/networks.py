"""The sprite experts' networks: the real architectures, small, in one latent space."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from diffusers import (
    DDIMScheduler,
    FlowMatchEulerDiscreteScheduler,
    SchedulerMixin,
    UNet2DConditionModel,
    UNet3DConditionModel,
    UNetMotionModel,
    WanTransformer3DModel,
)
from text import WIDTH
from torch import nn

import dovetail.sprites

WEIGHTS = Path(dovetail.sprites.__file__).parent / "weights"
"""Where the package keeps the experts that it ships."""

CHANNELS, CELLS = 16, 8
"""Latent channels, and latent cells across a frame of 64 pixels."""
LOUDNESS = 0.4
"""Standard deviation of the latents. At 1, as images have it, a clip of 16 frames shows its object's way through almost
any noise, and words are left with nothing to tell (docs/log.md); louder noise is what video models need (Chen, 2023,
arXiv:2301.10972: scale the input)."""
WIDTHS = (64, 96)
HEADS = 4
DEEP = (*WIDTHS, 96)
"""Video networks have one level more, of 2 x 2 cells: where a few numbers tell an object's way through a whole clip."""


@dataclass(frozen=True)
class Spec:
    """What one expert is: its place in the division of labour. Without betas it is a flow, else it predicts v."""

    kind: str  # of training video: sharp | degraded
    frames: int  # per example
    betas: tuple[str, float, float] | None = None
    to_nothing: bool = False
    """Whether the noisiest level holds nothing of the video, so that what is drawn first comes from the words alone
    (zero terminal SNR, Lin et al., 2023, arXiv:2305.08891)."""


SPECS = {
    "spatial": Spec("sharp", 1, ("scaled_linear", 0.00085, 0.012)),
    "control": Spec("sharp", 16, ("linear", 0.00085, 0.012), to_nothing=True),
    "temporal": Spec("degraded", 16, ("linear", 1e-4, 2e-2)),
    "flow-large": Spec("sharp", 16),
    "flow-small": Spec("sharp", 16),
    "flow-small-4": Spec("sharp", 16),
}
"""Betas of Stable Diffusion, AnimateDiff and LaVie; then the pair for FlowBlending, and the small one for 4 steps."""

PART = {name: "transformer" if spec.betas is None else "unet" for name, spec in SPECS.items()}
"""The folder of a diffusers pipeline in which each expert's network lies."""

SHIPS = {"control": "control-4"}
"""The folder of DIR that an expert ships from, where that is not its own: control ships distilled."""

SHIFT = 3.0
"""How far the flow experts' levels are shifted toward noise, in training and in their ladder, as Wan 2.1 is at 480p."""


def scheduler(spec: Spec) -> SchedulerMixin:
    if spec.betas is None:
        return FlowMatchEulerDiscreteScheduler(shift=SHIFT)
    shape, start, end = spec.betas
    return DDIMScheduler(
        beta_schedule=shape,
        beta_start=start,
        beta_end=end,
        prediction_type="v_prediction",
        timestep_spacing="trailing",
        clip_sample=False,
        set_alpha_to_one=True,
        rescale_betas_zero_snr=spec.to_nothing,
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


AWAY = (
    *((0, 0, -1), (0, -1, 0), (-4, 0, 0), (0, 0, 1), (0, 1, 0), (-8, 0, 0)),
    *((0, 0, -2), (0, -2, 0), (-12, 0, 0), (0, 0, 2), (0, 2, 0), (4, 0, 0)),
)
"""Frames, rows and columns away at which the heads of a flow expert's first two layers begin to look."""


def flow(heads: int, width: int, layers: int) -> WanTransformer3DModel:
    """A transformer over all cells of all frames at once; `width` numbers per head."""
    net = WanTransformer3DModel(
        patch_size=(1, 2, 2),
        num_attention_heads=heads,
        attention_head_dim=width,
        in_channels=CHANNELS,
        out_channels=CHANNELS,
        text_dim=WIDTH,
        freq_dim=64,
        ffn_dim=3 * heads * width,
        num_layers=layers,
        rope_max_seq_len=128,
    )
    looking = ((block.attn1, head) for block in net.blocks[:2] for head in range(heads))
    for (attention, head), away in zip(looking, AWAY, strict=False):
        look(net, attention, head, away)
    return net


@torch.no_grad()
def look(
    net: WanTransformer3DModel, attention: nn.Module, head: int, away: tuple[int, int, int], loud: float = 4.0
) -> None:
    """Make a head begin by looking at the token that is so far away, whatever the tokens hold.

    Rotary positions tell a token how far others are, not where it is: what a head takes from tokens that hold nothing
    but noise is alike everywhere, so what words ask for at a place cannot be drawn from noise. But a token that finds
    nobody where it looks hears itself instead, and so knows the border. Training alone did not find this (docs/log.md).
    """
    rope, width = net.rope, net.config.attention_head_dim
    turns = torch.stack([rope.freqs_cos, rope.freqs_sin], -1)  # "places numbers 2", each pair of numbers alike
    first = 0
    for steps, numbers in zip(away, (rope.t_dim, rope.h_dim, rope.w_dim), strict=True):
        for i in range(first, first + numbers, 2):
            near = bool(turns[1, i, 1] > 0.1)  # slower ones do not tell neighbours apart
            cos, sin = turns[abs(steps), i].tolist()
            pair = slice(head * width + i, head * width + i + 2)
            attention.to_k.bias[pair] = torch.tensor([loud * near, 0.0])
            attention.to_q.bias[pair] = loud * near * torch.tensor([cos, sin if steps > 0 else -sin])
            attention.norm_q.weight[pair] = attention.norm_k.weight[pair] = 2.0 if near else 0.3
        first += numbers


NETWORKS = {
    "spatial": spatial,
    "control": control,
    "temporal": temporal,
    "flow-large": partial(flow, 6, 32, 6),
    "flow-small": partial(flow, 3, 32, 3),
    "flow-small-4": partial(flow, 3, 32, 3),
}


def network(name: str) -> nn.Module:
    return NETWORKS[name]()
