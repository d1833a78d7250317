"""Wan and LTX-Video: loading, text, codecs, and parity with the stock pipelines on tiny random checkpoints."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from diffusers import LTXPipeline, WanPipeline
from einops import rearrange
from torch import Tensor

from dovetail.core.combine import Guided
from dovetail.core.denoiser import Denoiser, Expert, timeline
from dovetail.core.ladders import Ladder, Mask
from dovetail.core.path import Split
from dovetail.core.sampler import Euler, Solver, UniPC, last, sample
from dovetail.experts import load
from dovetail.experts.schedulers import ladder_of

PROMPT, AWAY = "a red   circle &amp; a ring, moving left", "blurred"
FRAMES, HEIGHT, WIDTH, STEPS = 3, 4, 6, 6
FPS = 24.0
"""Latent frames and cells. Height and width differ, so that to mix them up would show."""

PIPELINES: dict[str, Any] = {"wan": WanPipeline, "ltx": LTXPipeline}
SOLVERS: dict[str, Solver] = {"wan": UniPC(), "ltx": Euler()}
TOKENS = FRAMES * HEIGHT * WIDTH


@dataclass(frozen=True)
class Switching:
    """A step belongs to the one expert or to the other."""

    large: Denoiser
    small: Denoiser
    is_large: Mask

    def __call__(self, x: Tensor, t: float, frames: Tensor) -> Split:
        return (self.large if self.is_large(t) else self.small)(x, t, frames)


def noise() -> Tensor:
    shape = (1, tiny.CHANNELS, FRAMES, HEIGHT, WIDTH)
    return torch.randn(shape, generator=torch.Generator().manual_seed(11))


def apart(a: Tensor, b: Tensor) -> float:
    """Relative distance."""
    return float((a - b).norm() / b.norm())


def told(expert: Expert, scale: float) -> Denoiser:
    positive = expert.given(PROMPT)
    return positive if scale == 1 else Guided(positive, expert.given(AWAY), scale)


def own(expert: Expert, steps: int = STEPS) -> Ladder:
    network: Any = expert.network
    return ladder_of(network.scheduler, steps, tokens=TOKENS, even=network.even)


def walked(denoise: Denoiser, ladder: Ladder, solver: Solver) -> Tensor:
    end = last(sample(denoise, noise() * ladder.first, timeline(FRAMES), ladder.levels, solver))
    assert ladder.levels[-1] == 0
    return end.seen.x0


def packed(x: Tensor) -> Tensor:
    return LTXPipeline._pack_latents(x)


def unpacked(x: Tensor) -> Tensor:
    return LTXPipeline._unpack_latents(x, FRAMES, HEIGHT, WIDTH)


def stock(folder: Path, family: str, scale: float, **options: Any) -> Tensor:
    """The stock pipeline's latent, loaded from the same folder."""
    pipeline = PIPELINES[family].from_pretrained(folder)
    return run(pipeline, family, scale, **options)


def run(pipeline: Any, family: str, scale: float, **options: Any) -> Tensor:
    pipeline.set_progress_bar_config(disable=True)
    factor, compression = {"wan": (8, 4), "ltx": (32, 8)}[family]
    own_options = {"latents": noise()} if family == "wan" else {"latents": packed(noise()), "frame_rate": FPS}
    out = pipeline(
        prompt=PROMPT,
        negative_prompt=AWAY,
        height=HEIGHT * factor,
        width=WIDTH * factor,
        num_frames=(FRAMES - 1) * compression + 1,
        num_inference_steps=STEPS,
        guidance_scale=scale,
        output_type="latent",
        return_dict=False,
        **own_options,
        **options,
    )[0]
    return out if family == "wan" else unpacked(out)


# --- parity -----------------------------------------------------------------------------------------------------------

SHIPPED: dict[str, tuple[str, dict[str, Any]]] = {
    "wan-480p": ("wan", {"flow_shift": 3.0}),
    "wan-720p": ("wan", {"flow_shift": 5.0}),
    "wan-euler": ("wan", {"euler": True, "shift": 5.0}),
    "ltx-dynamic": ("ltx", {}),
    "ltx-static": ("ltx", {"use_dynamic_shifting": False, "shift_terminal": None}),
    "ltx-static-shifted": ("ltx", {"use_dynamic_shifting": False, "shift": 3.0}),
}
"""Schedulers as the repositories have them, beside the tiny ones' own."""


@pytest.mark.parametrize("scale", [1.0, 4.0])
@pytest.mark.parametrize("shipped", SHIPPED)
def test_an_expert_alone_is_its_stock_pipeline(tmp_path: Path, shipped: str, scale: float) -> None:
    family, scheduler = SHIPPED[shipped]
    folder = tiny.MAKERS[family](tmp_path, **scheduler)
    expert = load("it", family, str(folder), fps=FPS)
    solver = Euler() if scheduler.get("euler") else SOLVERS[family]
    assert apart(walked(told(expert, scale), own(expert), solver), stock(folder, family, scale)) <= 1e-5


@pytest.mark.parametrize("scale", [1.0, 4.0])
@pytest.mark.parametrize("family", PIPELINES)
def test_large_small_large_is_the_stock_pipeline_with_its_transformer_swapped(
    tmp_path: Path, family: str, scale: float
) -> None:
    folders = [tiny.MAKERS[family](tmp_path / str(layers), layers=layers) for layers in (2, 1)]
    plan = [True, True, False, False, False, True]

    pipeline, other = (PIPELINES[family].from_pretrained(folder) for folder in folders)
    networks = {True: pipeline.transformer, False: other.transformer}

    def swap(pipe: Any, step: int, time: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
        if step + 1 < len(plan):
            pipe.transformer = networks[plan[step + 1]]
        return kwargs

    theirs = run(pipeline, family, scale, callback_on_step_end=swap)
    large, small = (load(name, family, str(folder), fps=FPS) for name, folder in zip("ls", folders, strict=True))
    ladder = own(large)
    denoise = Switching(told(large, scale), told(small, scale), Mask.of(ladder, plan))
    assert apart(walked(denoise, ladder, SOLVERS[family]), theirs) <= 1e-5
    assert apart(walked(told(large, scale), ladder, SOLVERS[family]), theirs) > 1e-3


def test_two_experts_of_one_repository_are_wan_22(tmp_path: Path) -> None:
    """Each has its folder and its guidance; the boundary is a timestep, and lies between two levels."""
    folder = str(tiny.wan(tmp_path, layers=2, low=1))
    high = load("high", "wan", folder)
    low = load("low", "wan", folder, subfolder="transformer_2", text=high.network.text)  # type: ignore[attr-defined]
    assert high.network.parameters > low.network.parameters  # type: ignore[attr-defined]
    ladder = own(high)
    is_high = Mask.of(ladder, [high.schedule.native(t) >= 875 for t in ladder.levels[:-1]])
    assert len(set(is_high.answers)) == 2
    theirs = stock(tmp_path, "wan", 4.0, guidance_scale_2=3.0)
    assert apart(walked(Switching(told(high, 4.0), told(low, 3.0), is_high), ladder, UniPC()), theirs) <= 1e-5


@pytest.mark.parametrize("family", PIPELINES)
def test_parity_would_show_a_mistake(tmp_path: Path, family: str) -> None:
    """What is compared depends, far beyond 1e-5, on the words, on guidance, on the levels, on the frame rate."""
    folder = tiny.MAKERS[family](tmp_path)
    expert = load("it", family, str(folder), fps=FPS)
    right, ladder, solver = stock(folder, family, 1.0), own(expert), SOLVERS[family]
    assert apart(walked(expert.given(AWAY), ladder, solver), right) > 1e-3
    assert apart(walked(told(expert, 4.0), ladder, solver), right) > 1e-3
    assert apart(walked(told(expert, 1.0), own(expert, STEPS + 1), solver), right) > 1e-3
    other = Ladder(tuple(t**1.05 for t in ladder.levels), ladder.first)
    assert apart(walked(told(expert, 1.0), other, solver), right) > 1e-3
    if family == "ltx":
        slow = load("it", family, str(folder), fps=8)
        assert apart(walked(told(slow, 1.0), ladder, solver), right) > 1e-3
