"""Tiny checkpoints on disk: the real architectures, a few thousand random weights, no downloads."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    EulerDiscreteScheduler,
    MotionAdapter,
    UNet2DConditionModel,
    UNet3DConditionModel,
    UNetMotionModel,
)
from safetensors.torch import save_file
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

CHANNELS, SIZE = 4, 8
"""Channels, and height and width, of a tiny latent."""

CROSS = 8
LETTERS = [chr(c) for c in range(ord("a"), ord("z") + 1)] + list("0123456789,.")

SCHEDULER: Mapping[str, Any] = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "clip_sample": False,
    "set_alpha_to_one": True,
    "steps_offset": 1,
    "timestep_spacing": "trailing",
}


def grown(make: Callable[[], nn.Module], seed: int, by: float = 0.1) -> Any:
    """A module of this seed, with noise on every weight: as they are made, some layers are zero and would
    hide mistakes."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        module = make()
        for weight in module.parameters():
            weight.add_(torch.randn_like(weight), alpha=by)
    return module.eval()


def clip(limit: int = 77, masked: bool = False) -> tuple[CLIPTokenizer, CLIPTextModel]:
    """A tokenizer of single letters, and a text model of two layers."""
    vocabulary = {"<|startoftext|>": 0, "<|endoftext|>": 1}
    for letter in LETTERS:
        vocabulary[letter] = len(vocabulary)
        vocabulary[letter + "</w>"] = len(vocabulary)
    tokenizer = CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=limit)
    config = CLIPTextConfig(
        vocab_size=len(vocabulary),
        hidden_size=CROSS,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=limit,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
        use_attention_mask=masked,
    )
    return tokenizer, grown(lambda: CLIPTextModel(config), 1, 0.3)


def unet2d() -> UNet2DConditionModel:
    return grown(
        lambda: UNet2DConditionModel(
            block_out_channels=(8, 16),
            layers_per_block=1,
            sample_size=SIZE,
            in_channels=CHANNELS,
            out_channels=CHANNELS,
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
            cross_attention_dim=CROSS,
            attention_head_dim=2,
            norm_num_groups=2,
        ),
        2,
    )


def motion_adapter(longest: int = 32, heads: int = 8) -> MotionAdapter:
    return grown(
        lambda: MotionAdapter(
            block_out_channels=(8, 16),
            motion_layers_per_block=1,
            motion_norm_num_groups=2,
            motion_num_attention_heads=heads,
            motion_max_seq_length=longest,
        ),
        3,
    )


def unet3d() -> UNet3DConditionModel:
    return grown(
        lambda: UNet3DConditionModel(
            block_out_channels=(4, 8),
            norm_num_groups=4,
            down_block_types=("CrossAttnDownBlock3D", "DownBlock3D"),
            up_block_types=("UpBlock3D", "CrossAttnUpBlock3D"),
            cross_attention_dim=CROSS,
            attention_head_dim=2,
            in_channels=CHANNELS,
            out_channels=CHANNELS,
            layers_per_block=1,
            sample_size=SIZE,
        ),
        4,
    )


def vae(seed: int = 5, scaling: float = 0.18215) -> AutoencoderKL:
    return grown(
        lambda: AutoencoderKL(
            block_out_channels=(8, 8),
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
            latent_channels=CHANNELS,
            norm_num_groups=2,
            scaling_factor=scaling,
        ),
        seed,
    )


def save(folder: Path, unet: Any, *, vae: Any = None, limit: int = 77, masked: bool = False, **scheduler: Any) -> Path:
    """A checkpoint in diffusers' layout; keyword arguments change its scheduler config."""
    tokenizer, encoder = clip(limit, masked)
    unet.save_pretrained(folder / "unet")
    encoder.save_pretrained(folder / "text_encoder")
    tokenizer.save_pretrained(folder / "tokenizer")
    DDIMScheduler(**{**SCHEDULER, **scheduler}).save_pretrained(folder / "scheduler")
    if vae is not None:
        vae.save_pretrained(folder / "vae")
    return folder


def stable_diffusion(folder: Path, **scheduler: Any) -> Path:
    return save(folder, unet2d(), vae=vae(), **scheduler)


def animatediff(folder: Path, **scheduler: Any) -> Path:
    """One whole UNetMotionModel; AnimateDiff's betas are linear."""
    whole = UNetMotionModel.from_unet2d(unet2d(), motion_adapter()).eval()
    return save(folder, whole, vae=vae(), **{"beta_schedule": "linear", **scheduler})


def text_to_video_sd(folder: Path, **scheduler: Any) -> Path:
    return save(folder, unet3d(), vae=vae(), **scheduler)


MAKERS = {"stable-diffusion": stable_diffusion, "animatediff": animatediff, "text-to-video-sd": text_to_video_sd}
"""A checkpoint of each family."""


def lightning(file: Path) -> Path:
    """Motion modules as AnimateDiff-Lightning ships them: one file of tensors, no config."""
    file.parent.mkdir(parents=True, exist_ok=True)
    save_file(motion_adapter().state_dict(), file)
    return file


def lightning_scheduler() -> EulerDiscreteScheduler:
    """The scheduler that AnimateDiff-Lightning's model card asks for."""
    return EulerDiscreteScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="linear", timestep_spacing="trailing"
    )
