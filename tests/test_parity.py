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
    MotionAdapter,
    StableDiffusionPipeline,
    TextToVideoSDPipeline,
    UNet2DConditionModel,
    UNet3DConditionModel,
    UNetMotionModel,
)
from einops import rearrange
from safetensors.torch import load_file
from tiny import apart
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer

from dovetail.core.combine import Framewise, Guided
from dovetail.core.denoiser import Denoiser, Expert, timeline
from dovetail.core.ladders import Ladder, leading, timesteps, trailing
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
    whole = {} if changed else {"unet": UNetMotionModel.from_pretrained(folder / "unet"), "motion_adapter": None}
    pipeline = AnimateDiffPipeline(**{**parts(folder), **whole, **changed})
    return theirs(pipeline, scale, prompt=PROMPT, negative_prompt=AWAY, num_frames=FRAMES, latents=noise())


def stock_volume(folder: Path, scale: float) -> Tensor:
    unet = UNet3DConditionModel.from_pretrained(folder / "unet")
    pipeline = TextToVideoSDPipeline(**parts(folder), unet=unet)  # logs that it is deprecated
    return theirs(pipeline, scale, prompt=PROMPT, negative_prompt=AWAY, num_frames=FRAMES, latents=noise())


STOCK = {"stable-diffusion": stock_image, "animatediff": stock_motion, "text-to-video-sd": stock_volume}


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("scale", [1.0, 4.0])
@pytest.mark.parametrize("family", STOCK)
def test_an_expert_alone_is_its_stock_pipeline(tmp_path: Path, family: str, scale: float, prediction: str) -> None:
    folder = tiny.MAKERS[family](tmp_path, prediction_type=prediction)
    expert = load("it", family, str(folder))
    wrap = Framewise if family == "stable-diffusion" else lambda denoise: denoise
    found = ours(expert, trailing(expert.schedule, STEPS), scale, wrap)
    assert apart(found, STOCK[family](folder, scale)) <= 1e-5


@pytest.mark.parametrize("scale", [1.0, 4.0])
def test_lightning_is_animatediff_with_an_euler_scheduler(tmp_path: Path, scale: float) -> None:
    """A bare motion file over an image checkpoint, against the recipe on Lightning's model card."""
    folder, bare = tiny.stable_diffusion(tmp_path), tiny.lightning(tmp_path / "lightning.safetensors")
    expert = load("it", "animatediff", str(folder), adapter=str(bare))
    # That scheduler keeps latents at x0 + sigma eps, and starts from sigma times unit noise.
    found = ours(expert, trailing(expert.schedule, STEPS, unit=False), scale)
    modules = MotionAdapter(block_out_channels=(8, 16), motion_layers_per_block=1, motion_norm_num_groups=2)
    modules.load_state_dict(load_file(bare))
    unet = UNet2DConditionModel.from_pretrained(folder / "unet")
    changed = {"unet": unet, "motion_adapter": modules, "scheduler": tiny.lightning_scheduler()}
    assert apart(found, stock_motion(folder, scale, **changed)) <= 1e-5


def test_a_ladder_that_ends_above_zero(tmp_path: Path) -> None:
    """Stable Diffusion's own config: leading timesteps, and a last step to the first timestep, not to the image."""
    folder = tiny.stable_diffusion(tmp_path, timestep_spacing="leading", set_alpha_to_one=False)
    expert = load("it", "stable-diffusion", str(folder))
    down = leading(expert.schedule, STEPS, offset=1)
    ladder = Ladder((*down.levels[:-1], expert.schedule.share(0)), down.first)
    assert apart(ours(expert, ladder, 4.0, Framewise), stock_image(folder, 4.0)) <= 1e-5


@pytest.mark.parametrize("family", STOCK)
def test_parity_would_show_a_mistake(tmp_path: Path, family: str) -> None:
    """What the tests above compare depends on the words, on guidance, and on the timesteps, far beyond 1e-5."""
    folder = tiny.MAKERS[family](tmp_path)
    expert = load("it", family, str(folder))
    wrap = Framewise if family == "stable-diffusion" else lambda denoise: denoise
    right = trailing(expert.schedule, STEPS)
    late = timesteps(expert.schedule, [999, 751, 499, 249])
    stock = STOCK[family](folder, 1.0)
    other = last(sample(wrap(expert.given(AWAY)), noise() * right.first, timeline(FRAMES), right.levels, Euler()))
    assert apart(other.seen.x0, stock) > 1e-3
    assert apart(ours(expert, right, 4.0, wrap), stock) > 1e-3
    assert apart(ours(expert, late, 1.0, wrap), stock) > 1e-3
