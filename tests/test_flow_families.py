"""Wan and LTX-Video: loading, text, codecs, and parity with the stock pipelines on tiny random checkpoints."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import tiny
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, LTXPipeline, WanPipeline
from diffusers.pipelines.ltx.pipeline_ltx import calculate_shift
from tiny import apart
from torch import Tensor
from typer.testing import CliRunner

import dovetail
from dovetail import cli
from dovetail import recipe as recipes
from dovetail.core.combine import Guided
from dovetail.core.denoiser import Denoiser, Expert, timeline
from dovetail.core.ladders import Ladder
from dovetail.core.noise import Noise
from dovetail.core.sampler import Euler, Solver, UniPC, last, sample
from dovetail.core.schedules import Flow
from dovetail.errors import PromptWarning, RecipeError, SpaceError, WeightsError
from dovetail.experts import FAMILIES, VideoCodec, load, load_codec, same_space
from dovetail.experts.adapter import Packed
from dovetail.experts.schedulers import ladder_of, mu_of
from dovetail.methods.flowblending import Blended
from dovetail.recipe import Recipe
from dovetail.run import FAMILIES_SAID
from dovetail.run import load as cast_of
from dovetail.video import read

PROMPT, AWAY = "a red   circle &amp; a ring, moving left", "blurred"
FRAMES, HEIGHT, WIDTH = 3, 4, 6
"""Latent frames and cells. Height and width differ, so that to mix them up would show."""

TOKENS, STEPS, FPS = FRAMES * HEIGHT * WIDTH, 5, 24.0
GRID = {"wan": (8, 4), "ltx": (32, 8)}
"""Pixels per cell and frames per latent frame."""

PIPELINES: dict[str, Any] = {"wan": WanPipeline, "ltx": LTXPipeline}
SOLVERS: dict[str, Solver] = {"wan": UniPC(), "ltx": Euler()}
Shelf = Callable[..., Path]


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Shelf:
    """Checkpoints by family and options, made when first asked for; tests do not change them."""

    @cache
    def made(family: str, **options: Any) -> Path:
        return tiny.MAKERS[family](tmp_path_factory.mktemp(family), **options)

    return made


@cache
def expert_of(folder: Path, family: str, fps: float = FPS) -> Expert:
    return load("it", family, str(folder), fps=fps)


@cache
def pipeline_of(folder: Path, family: str) -> Any:
    """The stock pipeline, by its own loader."""
    pipeline = PIPELINES[family].from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def network(expert: Expert) -> Any:
    return expert.network


def noise() -> Tensor:
    shape = (1, tiny.CHANNELS, FRAMES, HEIGHT, WIDTH)
    return torch.randn(shape, generator=torch.Generator().manual_seed(11))


def told(expert: Expert, scale: float) -> Denoiser:
    positive = expert.given(PROMPT)
    return positive if scale == 1 else Guided(positive, expert.given(AWAY), scale)


def own(expert: Expert, steps: int = STEPS) -> Ladder:
    return ladder_of(network(expert).scheduler, steps, tokens=TOKENS, even=network(expert).even)


def walked(denoise: Denoiser, ladder: Ladder, solver: Solver) -> Tensor:
    end = last(sample(denoise, noise() * ladder.first, timeline(FRAMES), ladder.levels, solver))
    assert ladder.levels[-1] == 0
    return end.seen.x0


def stock(pipeline: Any, family: str, scale: float, **options: Any) -> Tensor:
    """What the stock pipeline makes of the same noise and words: a latent, unless asked otherwise."""
    factor, compression = GRID[family]
    packed = {"latents": LTXPipeline._pack_latents(noise()), "frame_rate": FPS}
    asked = {
        "prompt": PROMPT,
        "negative_prompt": AWAY,
        "height": HEIGHT * factor,
        "width": WIDTH * factor,
        "num_frames": (FRAMES - 1) * compression + 1,
        "num_inference_steps": STEPS,
        "guidance_scale": scale,
        "output_type": "latent",
        **(packed if family == "ltx" else {"latents": noise()}),
    }
    out: Tensor = pipeline(**asked | options, return_dict=False)[0]
    return LTXPipeline._unpack_latents(out, FRAMES, HEIGHT, WIDTH) if out.ndim == 3 else out


# --- parity -----------------------------------------------------------------------------------------------------------

SHIPPED: dict[str, tuple[str, dict[str, Any]]] = {
    "wan-480p": ("wan", {}),
    "wan-720p": ("wan", {"flow_shift": 5.0}),
    "wan-euler": ("wan", {"euler": True, "shift": 5.0}),
    "ltx-dynamic": ("ltx", {}),
    "ltx-static": ("ltx", {"use_dynamic_shifting": False, "shift_terminal": None}),
    "ltx-static-shifted": ("ltx", {"use_dynamic_shifting": False, "shift": 3.0}),
}
"""Schedulers as the repositories have them."""


@pytest.mark.parametrize("scale", [1.0, 4.0])
@pytest.mark.parametrize("shipped", SHIPPED)
def test_an_expert_alone_is_its_stock_pipeline(shelf: Shelf, shipped: str, scale: float) -> None:
    family, scheduler = SHIPPED[shipped]
    folder = shelf(family, **scheduler)
    expert, solver = expert_of(folder, family), Euler() if scheduler.get("euler") else SOLVERS[family]
    theirs = stock(pipeline_of(folder, family), family, scale)
    assert apart(walked(told(expert, scale), own(expert), solver), theirs) <= 1e-5


@pytest.mark.parametrize("scale", [1.0, 4.0])
@pytest.mark.parametrize("family", PIPELINES)
def test_large_small_large_is_the_stock_pipeline_with_its_transformer_swapped(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch, family: str, scale: float
) -> None:
    plan = [True, True, False, False, True]
    folders = {True: shelf(family, layers=2), False: shelf(family)}
    large, small = (
        replace(expert_of(folders[it], family), name=name) for it, name in ((True, "large"), (False, "small"))
    )
    assert network(large).parameters > network(small).parameters
    networks = {is_large: pipeline_of(folder, family).transformer for is_large, folder in folders.items()}
    pipeline = pipeline_of(folders[True], family)
    monkeypatch.setattr(pipeline, "transformer", networks[True])

    def swap(pipe: Any, step: int, time: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
        pipe.transformer = networks[plan[min(step + 1, STEPS - 1)]]
        return kwargs

    theirs = stock(pipeline, family, scale, callback_on_step_end=swap)
    ladder = own(large)
    one, other = told(large, scale), told(small, scale)
    denoise = Blended.of(ladder, [one if is_large else other for is_large in plan])
    assert denoise == Blended((one, other, one), (ladder.between(2), ladder.between(4)))
    assert apart(walked(denoise, ladder, SOLVERS[family]), theirs) <= 1e-5
    assert apart(walked(told(large, scale), ladder, SOLVERS[family]), theirs) > 1e-3


def test_two_experts_of_one_repository_are_wan_22(shelf: Shelf) -> None:
    """Each has its folder and its guidance; the boundary is a timestep, and lies between two levels."""
    folder = shelf("wan", layers=2, low=1)
    high = expert_of(folder, "wan")
    low = load("low", "wan", str(folder), subfolder="transformer_2", text=network(high).text)
    assert network(high).parameters > network(low).parameters
    pipeline, ladder = pipeline_of(folder, "wan"), own(high)
    boundary = pipeline.config.boundary_ratio
    theirs = stock(pipeline, "wan", 4.0, guidance_scale_2=3.0)
    experts = (told(high, 4.0), told(low, 3.0))
    assert apart(walked(Blended(experts, (boundary,)), ladder, UniPC()), theirs) <= 1e-5
    for k in (k for k in range(1, ladder.steps) if (ladder.levels[k] > boundary) == (ladder.levels[k - 1] > boundary)):
        assert apart(walked(Blended(experts, (ladder.between(k),)), ladder, UniPC()), theirs) > 1e-4


@pytest.mark.parametrize("family", PIPELINES)
def test_parity_would_show_a_mistake(shelf: Shelf, family: str) -> None:
    """What is compared depends, far beyond 1e-5, on the words, on guidance, on the levels, on the frame rate."""
    folder = shelf(family)
    expert, ladder, solver = expert_of(folder, family), own(expert_of(folder, family)), SOLVERS[family]
    right = stock(pipeline_of(folder, family), family, 1.0)
    assert apart(walked(expert.given(AWAY), ladder, solver), right) > 1e-3
    assert apart(walked(told(expert, 4.0), ladder, solver), right) > 1e-3
    other = Ladder(tuple(t**1.05 for t in ladder.levels), ladder.first)
    assert apart(walked(told(expert, 1.0), other, solver), right) > 1e-3
    if family == "ltx":
        slow = expert_of(folder, family, fps=8.0)
        assert apart(walked(told(slow, 1.0), ladder, solver), right) > 1e-3


# --- ladders ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tokens", [1, 72, 1024, 4992, 40_000])
def test_the_log_shift_is_a_line_in_the_tokens(tokens: int) -> None:
    config = {"_class_name": "FlowMatchEulerDiscreteScheduler", **tiny.LTX}
    assert mu_of(config, tokens) == calculate_shift(tokens, 1024, 4096, 0.95, 2.05)
    assert mu_of({}, tokens) == pytest.approx(calculate_shift(tokens))
    assert ladder_of(config, 8, tokens=tokens) == ladder_of(config, 8, mu=mu_of(config, tokens))
    assert ladder_of(config, 8, tokens=tokens) != ladder_of(config, 8, tokens=tokens + 500)


def test_a_static_shift_does_not_look_at_the_tokens() -> None:
    config = {"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 3.0}
    assert ladder_of(config, 8, tokens=4000, even=True) == ladder_of(config, 8, even=True)


def test_even_sigmas_are_the_pipelines_and_not_the_schedulers() -> None:
    config = {"_class_name": "FlowMatchEulerDiscreteScheduler"}
    assert ladder_of(config, 4, even=True).levels == pytest.approx((1.0, 0.75, 0.5, 0.25, 0.0))
    assert ladder_of(config, 4).levels == pytest.approx((1.0, 0.667, 0.334, 0.001, 0.0))
    with pytest.raises(ValueError, match="a DDIMScheduler spaces its levels itself"):
        ladder_of({"_class_name": "DDIMScheduler", "beta_schedule": "linear"}, 4, even=True)


# --- text -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", [PROMPT, "", "  a cat &amp;amp; a\n dog "])
def test_wan_reads_as_its_pipeline_does(shelf: Shelf, text: str) -> None:
    folder = shelf("wan")
    with torch.no_grad():
        theirs, _ = pipeline_of(folder, "wan").encode_prompt(text, None, False, max_sequence_length=512)
    (ours,) = network(expert_of(folder, "wan")).text(text)
    assert torch.equal(ours, theirs)
    assert ours.shape[1] == network(expert_of(folder, "wan")).text_limit == 512
    assert not ours[0, -1].any(), "the padding is zero"
    assert ours[0, 0].any()


@pytest.mark.parametrize("text", [PROMPT, ""])
def test_ltx_reads_as_its_pipeline_does(shelf: Shelf, text: str) -> None:
    folder = shelf("ltx")
    with torch.no_grad():
        theirs, mask, *_ = pipeline_of(folder, "ltx").encode_prompt(text, None, False)
    ours, ours_mask = network(expert_of(folder, "ltx")).text(text)
    assert torch.equal(ours, theirs)
    assert torch.equal(ours_mask, mask)
    assert ours.shape[1] == network(expert_of(folder, "ltx")).text_limit == 128
    assert ours[0, -1].any(), "the padding is hidden by the mask alone"


@pytest.mark.parametrize(("family", "limit"), [("wan", 512), ("ltx", 128)])
def test_a_long_prompt_is_quoted_where_it_is_cut(shelf: Shelf, family: str, limit: int) -> None:
    # One token per letter, one for the first space, and a mark at the end.
    text = network(expert_of(shelf(family), family)).text
    with pytest.warns(PromptWarning, match=rf"'it' reads {limit} tokens.*: 'bbb'"):
        text("a" * (limit - 2) + "bbb")


def test_an_untied_config_does_not_lose_the_embeddings(shelf: Shelf, tmp_path: Path) -> None:
    """google/umt5-xxl says tie_word_embeddings: false, and ships its embeddings once."""
    folder = shutil.copytree(shelf("wan"), tmp_path / "wan")
    file = folder / "text_encoder" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"tie_word_embeddings": False}))
    words = [network(load("it", "wan", str(path))).text("a red ring")[0] for path in (folder, shelf("wan"))]
    assert torch.equal(*words)


# --- loading ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", PIPELINES)
def test_a_flow_expert_knows_what_it_is(shelf: Shelf, family: str) -> None:
    found = expert_of(shelf(family), family)
    factor, compression = GRID[family]
    space = network(found).space
    assert found.schedule == Flow(whole=family == "wan")
    assert found.target(0.3, 0.7) == (-1.0, 1.0)
    assert (space.channels, space.factor, space.compression) == (tiny.CHANNELS, factor, compression)
    assert space == load_codec(str(shelf(family))).space
    assert network(found).patch == (2 if family == "wan" else 1)
    usual = FAMILIES[family].space
    assert (usual.vae, usual.factor, usual.compression) == (space.vae, space.factor, space.compression)


def test_precision_that_wan_keeps_is_kept(shelf: Shelf) -> None:
    module = network(load("it", "wan", str(shelf("wan")), dtype="bfloat16")).module
    assert module.condition_embedder.time_embedder.linear_1.weight.dtype == torch.float32
    assert module.patch_embedding.weight.dtype == torch.bfloat16


def test_patches_must_be_whole(shelf: Shelf) -> None:
    expert = expert_of(shelf("wan"), "wan")
    with pytest.raises(RecipeError, match="patches of 2x2; 4x5 cells"):
        expert.given("")(torch.zeros(1, tiny.CHANNELS, 1, 4, 5), 0.5, timeline(1))


def test_weights_of_other_families_are_told(shelf: Shelf, tmp_path: Path) -> None:
    for family, folder, network_class in (("ltx", shelf("wan"), "Wan"), ("wan", shelf("ltx"), "LTXVideo")):
        with pytest.raises(
            RecipeError, match=rf"transformer/ of .* is a {network_class}Transformer3DModel; its family"
        ):
            load("it", family, str(folder))
    image = tiny.stable_diffusion(tmp_path)
    with pytest.raises(RecipeError, match=r"unet/ of .* is a UNet2DConditionModel; its family: stable-diffusion"):
        load("it", "wan", str(image))
    with pytest.raises(WeightsError, match=r"no transformer_2/config\.json"):
        load("it", "wan", str(shelf("wan")), subfolder="transformer_2")


def test_networks_that_want_an_image_too_are_refused(shelf: Shelf, tmp_path: Path) -> None:
    folder = shutil.copytree(shelf("wan"), tmp_path / "wan")
    tiny.wan_transformer(channels=9).save_pretrained(folder / "transformer")
    with pytest.raises(RecipeError, match=r"takes 9 channels, but a latent has 4.*text to video"):
        load("it", "wan", str(folder))


def test_another_text_model_is_refused_or_read(shelf: Shelf, tmp_path: Path) -> None:
    """A small network of Wan's architecture may read with CLIP; no other than those two."""
    folder = shutil.copytree(shelf("wan"), tmp_path / "wan")
    for part in ("text_encoder", "tokenizer"):
        shutil.rmtree(folder / part)
    tokenizer, encoder = tiny.clip()
    tokenizer.save_pretrained(folder / "tokenizer")
    encoder.save_pretrained(folder / "text_encoder")
    (hidden,) = network(load("it", "wan", str(folder))).text("a")
    assert hidden.shape == (1, 77, tiny.CROSS)
    tiny.t5()[1].save_pretrained(folder / "text_encoder")
    with pytest.raises(
        RecipeError, match=r"reads with a UMT5EncoderModel or CLIPTextModel, but .* is a T5EncoderModel"
    ):
        load("it", "wan", str(folder))


def test_only_the_expert_that_is_asked_for_is_downloaded(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}
    folder = shelf("wan", layers=2, low=1)
    monkeypatch.setattr(
        huggingface_hub, "snapshot_download", lambda repo, **options: asked.update(options) or str(folder)
    )
    expert = load("low", "wan", "Wan-AI/Wan2.2-T2V-A14B-Diffusers", subfolder="transformer_2")
    patterns = {key: asked[key] for key in ("allow_patterns", "ignore_patterns")}
    files = [str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()]
    files += ["tokenizer/spiece.model", "transformer_2/diffusion_pytorch_model-00001-of-00012.safetensors"]
    fetched = set(huggingface_hub.utils.filter_repo_objects(files, **patterns))
    assert set(files) - fetched == {file for file in files if file.startswith(("transformer/", "model_index"))}
    assert network(expert).parameters == sum(p.numel() for p in tiny.wan_transformer(1).parameters())


# --- codecs -----------------------------------------------------------------------------------------------------------


def codec_of(folder: Path, **options: Any) -> VideoCodec:
    codec = load_codec(str(folder), **options)
    assert isinstance(codec, VideoCodec)
    return codec


@pytest.mark.parametrize("kind", ["wan", "ltx", "ltx-conditioned"])
def test_what_comes_out_is_what_the_stock_pipeline_shows(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    family, conditioned = kind[:3], kind == "ltx-conditioned"
    folder = shelf(family, conditioned=True) if conditioned else shelf(family)
    options: dict[str, Any] = {"decode_timestep": 0.05, "decode_noise_scale": 0.025} if conditioned else {}
    pipeline, codec = pipeline_of(folder, family), codec_of(folder)
    ladder = own(expert_of(folder, family))
    latent = walked(told(expert_of(folder, family), 1.0), ladder, SOLVERS[family])
    # The noise that is added before decoding, the same for both.
    grain = Noise(0, "decode").like(latent, timeline(FRAMES))
    monkeypatch.setattr("diffusers.pipelines.ltx.pipeline_ltx.randn_tensor", lambda *_, **__: grain)
    theirs = stock(pipeline, family, 1.0, output_type="pt", **options)
    ours = codec.decode(latent)
    factor, compression = GRID[family]
    assert ours.shape == (1, (FRAMES - 1) * compression + 1, 3, HEIGHT * factor, WIDTH * factor)
    assert apart(ours / 2 + 0.5, theirs) <= 1e-5
    assert torch.equal(torch.cat(list(codec.stream(latent)), 1), ours)
    if conditioned:
        assert apart(codec_of(folder, decode_timestep=0.3).decode(latent), ours) > 1e-4
        assert apart(codec_of(folder, decode_noise_scale=0.3).decode(latent), ours) > 1e-4


@pytest.mark.parametrize("family", PIPELINES)
def test_encoding_is_the_posterior_mean_by_channel(shelf: Shelf, family: str) -> None:
    folder, (factor, compression) = shelf(family), GRID[family]
    shape = (1, compression + 1, 3, 2 * factor, factor)
    frames = torch.rand(shape, generator=torch.Generator().manual_seed(1)) * 2 - 1
    vae, codec = pipeline_of(folder, family).vae, codec_of(folder)
    with torch.no_grad():
        code = vae.encode(frames.transpose(1, 2)).latent_dist.mean
    mean, deviation = (torch.tensor(v)[:, None, None, None] for v in ([0.3, -0.2, 0.1, 0.0], [1.5, 0.5, 2.0, 1.0]))
    latent = codec.encode(frames)
    assert latent.shape == (1, tiny.CHANNELS, 2, 2, 1)
    assert apart(latent, (code - mean) / deviation) <= 1e-5
    with torch.no_grad():
        assert apart(codec.decode(latent).transpose(1, 2), vae.decode(code, return_dict=False)[0].clamp(-1, 1)) <= 1e-5


def test_a_decoder_that_draws_noise_draws_the_same_again(tmp_path: Path) -> None:
    vae = tiny.ltx_vae(conditioned=True, noisy=True)
    vae.save_pretrained(tmp_path)
    codec, latent = codec_of(tmp_path), noise()[..., :2, :2]
    torch.manual_seed(3)
    first, drawn = codec.decode(latent), torch.rand(1)
    torch.manual_seed(3)
    assert torch.equal(drawn, torch.rand(1)), "the caller's stream of random numbers is left alone"
    assert torch.equal(codec.decode(latent), first)


def test_a_video_codec_in_half_precision(shelf: Shelf) -> None:
    latent = noise()[..., :2, :2]
    whole, half = (codec_of(shelf("wan"), dtype=dtype).decode(latent) for dtype in ("float32", "bfloat16"))
    assert half.dtype == torch.float32
    assert 0 < apart(half, whole) < 0.1


REFUSED: dict[str, tuple[Callable[[str], Any], str]] = {
    "chunk": (lambda folder: load_codec(folder, chunk=4), "decodes a whole video at once, so it takes no chunk"),
    "timestep": (lambda folder: load_codec(folder, decode_timestep=0.05), "takes no timestep"),
    "channels": (lambda folder: load_codec(folder).decode(noise()[:, :3]), "decodes 4 channels, not 3"),
    "size": (lambda folder: load_codec(folder).encode(torch.zeros(1, 1, 3, 8, 12)), "multiples of 8, not 8x12"),
    "frames": (lambda folder: load_codec(folder).encode(torch.zeros(1, 4, 3, 8, 8)), r"4k \+ 1 frames, not 4"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_a_video_codec_refuses(shelf: Shelf, what: str) -> None:
    attempt, message = REFUSED[what]
    with pytest.raises(RecipeError, match=message):
        attempt(str(shelf("wan")))


def test_other_statistics_are_another_space(shelf: Shelf, tmp_path: Path) -> None:
    tiny.wan_vae(mean=0.4).save_pretrained(tmp_path / "wan")
    vae = tiny.ltx_vae()
    vae.latents_std.mul_(2)
    vae.save_pretrained(tmp_path / "ltx")
    for family in PIPELINES:
        other, usual = load_codec(str(tmp_path / family)).space, load_codec(str(shelf(family))).space
        assert other.encoder == usual.encoder
        with pytest.raises(SpaceError, match="different latent spaces: means and deviations"):
            same_space(other, usual)
    with pytest.raises(SpaceError, match="compression 4 against 8"):
        same_space(load_codec(str(shelf("wan"))).space, load_codec(str(shelf("ltx"))).space)


# --- recipes ----------------------------------------------------------------------------------------------------------


def recipe_of(folder: Path, family: str, **changes: Any) -> Recipe:
    factor, compression = GRID[family]
    side = factor * network(expert_of(folder, family)).patch
    data = {
        "prompt": "a red ring",
        "video": {"frames": 2 * compression + 1, "height": side, "width": 2 * side, "fps": FPS},
        "experts": {"it": {"family": family, "weights": str(folder)}},
        "codec": {"weights": str(folder)},
        "chain": [{"stage": "make", "ladder": {"own": {"of": "it", "steps": 2}}, "denoise": "it"}],
    }
    return recipes.changed(recipes.checked(data), changes)


@pytest.mark.parametrize("family", PIPELINES)
def test_a_recipe_makes_a_video_of_as_many_frames_as_it_says(shelf: Shelf, tmp_path: Path, family: str) -> None:
    recipe = recipe_of(shelf(family), family)
    (tmp_path / "mine.yaml").write_text(recipes.dump(recipe))
    words = ["generate", "a red ring", "-r", str(tmp_path / "mine.yaml"), "-o", str(tmp_path / "out.npz")]
    result = CliRunner().invoke(cli.app, words)
    assert result.exit_code == 0, result.output
    video = read(tmp_path / "out.npz")
    assert len(video.frames) == recipe.video.frames == 1 + 2 * GRID[family][1]
    assert video.size == (recipe.video.height, recipe.video.width)
    made = dovetail.generate("a red ring", recipe)
    assert (made.frames == video.frames).all()
    assert made.latent is not None
    assert made.latent.shape[2] == 3
    ahead = dovetail.plan(recipe)
    assert (ahead.latent, ahead.passes("it"), ahead.notes) == ((3, *made.latent.shape[3:]), 2.0, ())


def test_the_ladder_of_ltx_depends_on_the_size_of_the_video(shelf: Shelf) -> None:
    """As in the stock pipeline: more tokens, more noise."""
    recipe = recipe_of(shelf("ltx"), "ltx", **{"chain.make.ladder.own.steps": 4})
    small, large, windowed = (
        dovetail.plan(recipe, overrides=change).stages[0].ladder.levels
        for change in ({}, {"video.height": 1024, "video.width": 1024}, {"video.frames": 81, "chain.make.window": 3})
    )
    assert small == windowed
    assert large[1] > small[1]


def test_a_shift_can_be_asked_for(shelf: Shelf) -> None:
    recipe = recipe_of(shelf("wan"), "wan", **{"chain.make.ladder.own.shift": 5.0})
    config = network(expert_of(shelf("wan"), "wan")).scheduler
    assert dovetail.plan(recipe).stages[0].ladder == ladder_of(config, 2, shift=5.0) != ladder_of(config, 2)


@pytest.mark.parametrize(("family", "frames", "below", "above"), [("wan", 16, 13, 17), ("ltx", 8, 1, 9)])
def test_frames_that_do_not_fit_say_which_do(shelf: Shelf, family: str, frames: int, below: int, above: int) -> None:
    recipe = recipe_of(shelf(family), family)
    for attempt in (dovetail.generate, dovetail.plan):
        with pytest.raises(RecipeError, match=rf"not {frames}; --frames {below} or --frames {above} fits"):
            attempt(recipe=recipe, frames=frames)
    assert dovetail.plan(recipe, frames=above).latent[0] == dovetail.plan(recipe, frames=below).latent[0] + 1  # type: ignore[index]


def test_ltx_is_told_the_frame_rate_of_the_video(shelf: Shelf) -> None:
    (expert,) = cast_of(recipe_of(shelf("ltx"), "ltx", **{"video.fps": 12.0})).experts.values()
    assert network(expert).convention == Packed(12.0, 8, 32)


def test_sizes_are_whole_tokens(shelf: Shelf) -> None:
    recipe = recipe_of(shelf("wan"), "wan", **{"video.height": 24})
    with pytest.raises(RecipeError, match=r"multiples of 16, the pixels of an expert's token, not 24x32"):
        dovetail.generate(recipe=recipe)


def test_two_experts_of_one_repository_read_with_one_text_model(shelf: Shelf) -> None:
    folder = shelf("wan", layers=2, low=1)
    spec = {"family": "wan", "weights": str(folder)}
    change: dict[str, Any] = {
        "experts": {"it": spec, "low": {**spec, "subfolder": "transformer_2"}},
        "chain.make.denoise": {"averaged": {"spatial": "it", "temporal": "low"}},
    }
    cast = cast_of(recipe_of(folder, "wan", **change))
    high, low = (network(expert) for expert in cast.experts.values())
    assert high.text is low.text
    assert high.parameters != low.parameters
    other = cast_of(recipe_of(folder, "wan", **change, **{"experts.low.dtype": "bfloat16"}))
    assert len({id(network(expert).text) for expert in other.experts.values()}) == 2


def test_a_given_video_is_refined_in_its_latent(shelf: Shelf, tmp_path: Path) -> None:
    recipe = recipe_of(shelf("wan"), "wan")
    draft = dovetail.generate(recipe=recipe).save(tmp_path / "draft.npz")
    stage = {"stage": "refine", "ladder": {"levels": [0.3, 0.1, 0.0]}, "denoise": "it"}
    again = recipes.changed(recipe, {"chain": [*recipe.model_dump(mode="json")["chain"], stage]})
    refined = dovetail.refine(draft, recipe=again)
    assert len(refined.frames) == recipe.video.frames
    with pytest.raises(RecipeError, match="--frames 5 or --frames 9 fits"):
        dovetail.refine(draft, recipe=again, frames=6)


def test_a_plan_without_weights_supposes_what_is_usual(shelf: Shelf) -> None:
    weights = {
        "experts.it.weights": "Wan-AI/Wan2.1-T2V-1.3B-Diffusers",
        "codec.weights": "Wan-AI/Wan2.1-T2V-1.3B-Diffusers",
    }
    size = {"video.frames": 81, "video.height": 480, "video.width": 832}
    recipe = recipe_of(
        shelf("wan"), "wan", **weights, **size, **{"chain.make.ladder": {"shifted": {"steps": 4, "shift": 3.0}}}
    )
    ahead = dovetail.plan(recipe)
    assert ahead.latent == (21, 60, 104)
    (note,) = ahead.notes
    assert "expert 'it': 'Wan-AI/Wan2.1-T2V-1.3B-Diffusers' is not on this machine" in note
    other = recipes.changed(recipe, {"codec.weights": "Wan-AI/Wan2.1-T2V-14B-Diffusers"})
    assert ["codec" in note for note in dovetail.plan(other).notes] == [False, True]


def test_a_small_network_over_an_image_autoencoder_has_a_latent_frame_for_each_frame(tmp_path: Path) -> None:
    """Wan's architecture with CLIP's words, in fp16: what a home-made expert may be."""
    tiny.wan_transformer(text=tiny.CROSS).half().save_pretrained(tmp_path / "transformer")
    for part, made in zip(("tokenizer", "text_encoder"), tiny.clip(), strict=True):
        made.save_pretrained(tmp_path / part)
    FlowMatchEulerDiscreteScheduler(shift=2.0).save_pretrained(tmp_path / "scheduler")
    tiny.vae().save_pretrained(tmp_path / "vae")
    size = {"video.frames": 4, "video.height": 8, "video.width": 12}
    recipe = recipe_of(tmp_path, "wan", **size, **{"chain.make.ladder.own.steps": 3})
    video = dovetail.generate(recipe=recipe)
    assert video.latent is not None
    assert (len(video.frames), video.latent.shape) == (4, (1, tiny.CHANNELS, 4, 4, 6))


def test_the_plan_on_the_command_line_tells_latent_frames(shelf: Shelf, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(recipes.dump(recipe_of(shelf("wan"), "wan")))
    result = CliRunner().invoke(cli.app, ["plan", str(tmp_path / "mine.yaml")])
    assert "9 frames (3 latent frames) of 32x16" in result.output


def test_every_family_is_told_of() -> None:
    assert set(FAMILIES_SAID) == {*FAMILIES, "exact"}
