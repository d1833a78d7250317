"""An expert alone in our sampler gives what the stock diffusers pipeline gives: same weights, prompt and noise."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from diffusers import (
    AnimateDiffPipeline,
    AutoencoderKL,
    DDIMScheduler,
    StableDiffusionPipeline,
    TextToVideoSDPipeline,
    UNet2DConditionModel,
    UNet3DConditionModel,
    UNetMotionModel,
)
from einops import rearrange
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer

from dovetail.core.combine import Framewise, Guided
from dovetail.core.denoiser import Denoiser, Expert, timeline
from dovetail.core.ladders import Ladder, trailing
from dovetail.core.sampler import Euler, last, sample
from dovetail.experts import load

PROMPT, AWAY = "a red circle, moving left", "blurred"
FRAMES, STEPS = 5, 4
SHAPE = (1, tiny.CHANNELS, FRAMES, tiny.SIZE, tiny.SIZE)


def noise() -> Tensor:
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(11))


def ours(expert: Expert, ladder: Ladder, scale: float, wrap: Callable[[Denoiser], Denoiser] = lambda d: d) -> Tensor:
    """The native latent at the end of the ladder."""
    denoise: Denoiser = expert.given(PROMPT)
    if scale != 1:
        denoise = Guided(denoise, expert.given(AWAY), scale)
    end = last(sample(wrap(denoise), noise() * ladder.first, timeline(FRAMES), ladder.levels, Euler()))
    return end.seen.mix(ladder.levels[-1]) * expert.schedule.scale(ladder.levels[-1])


def parts(folder: Path) -> dict[str, Any]:
    return {
        "vae": AutoencoderKL.from_pretrained(folder / "vae"),
        "text_encoder": CLIPTextModel.from_pretrained(folder / "text_encoder"),
        "tokenizer": CLIPTokenizer.from_pretrained(folder / "tokenizer"),
        "scheduler": DDIMScheduler.from_pretrained(folder / "scheduler"),
    }


def theirs(pipeline: Any, scale: float, **options: Any) -> Tensor:
    pipeline.set_progress_bar_config(disable=True)
    size = tiny.SIZE * 2
    return pipeline(
        height=size,
        width=size,
        num_inference_steps=STEPS,
        guidance_scale=scale,
        output_type="latent",
        return_dict=False,
        **options,
    )[0]


def stock_image(folder: Path, scale: float) -> Tensor:
    unet = UNet2DConditionModel.from_pretrained(folder / "unet")
    pipeline = StableDiffusionPipeline(
        **parts(folder), unet=unet, safety_checker=None, feature_extractor=None, requires_safety_checker=False
    )
    words = {"prompt": [PROMPT] * FRAMES, "negative_prompt": [AWAY] * FRAMES}
    out = theirs(pipeline, scale, latents=rearrange(noise(), "1 c f h w -> f c h w"), **words)
    return rearrange(out, "f c h w -> 1 c f h w")


def stock_motion(folder: Path, scale: float, **changed: Any) -> Tensor:
    unet = UNetMotionModel.from_pretrained(folder / "unet")
    pipeline = AnimateDiffPipeline(**{**parts(folder), "unet": unet, "motion_adapter": None, **changed})
    return theirs(pipeline, scale, prompt=PROMPT, negative_prompt=AWAY, num_frames=FRAMES, latents=noise())


def stock_volume(folder: Path, scale: float) -> Tensor:
    unet = UNet3DConditionModel.from_pretrained(folder / "unet")
    pipeline = TextToVideoSDPipeline(**parts(folder), unet=unet)  # logs that it is deprecated
    return theirs(pipeline, scale, prompt=PROMPT, negative_prompt=AWAY, num_frames=FRAMES, latents=noise())


STOCK = {"stable-diffusion": stock_image, "animatediff": stock_motion, "text-to-video-sd": stock_volume}


def apart(a: Tensor, b: Tensor) -> float:
    """Relative distance."""
    return float((a - b).norm() / b.norm())


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("scale", [1.0, 4.0])
@pytest.mark.parametrize("family", STOCK)
def test_an_expert_alone_is_its_stock_pipeline(tmp_path: Path, family: str, scale: float, prediction: str) -> None:
    folder = tiny.MAKERS[family](tmp_path, prediction_type=prediction)
    expert = load("it", family, str(folder))
    wrap = Framewise if family == "stable-diffusion" else lambda denoise: denoise
    found = ours(expert, trailing(expert.schedule, STEPS), scale, wrap)
    assert apart(found, STOCK[family](folder, scale)) <= 1e-5
