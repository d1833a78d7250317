"""CogVideoX: parity with its stock pipeline on tiny random checkpoints, text, loading, its codec, windows, what a plan
counts."""

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from diffusers import CogVideoXDDIMScheduler, CogVideoXPipeline
from einops import rearrange
from tiny import apart
from torch import Tensor
from typer.testing import CliRunner

import dovetail
from dovetail import cli
from dovetail import recipe as recipes
from dovetail.core.combine import Guided, Windowed
from dovetail.core.denoiser import Denoiser, Expert, predicts_v, timeline
from dovetail.core.excerpts import Excerpt, Trail
from dovetail.core.ladders import Ladder, trailing
from dovetail.core.path import Split, split
from dovetail.core.sampler import Euler, last, sample
from dovetail.core.schedules import VariancePreserving
from dovetail.core.windows import WEIGHTS
from dovetail.costs import costs
from dovetail.errors import EncodeError, PromptWarning, RecipeError, SpaceError
from dovetail.experts import FAMILIES, VideoCodec, load, load_codec, same_space
from dovetail.experts.checkpoint import Location
from dovetail.experts.outline import outline, parameters_of, text_parameters
from dovetail.experts.published import COGVIDEOX_CODEC, COGVIDEOX_T5, PUBLISHED
from dovetail.experts.schedulers import ladder_of
from dovetail.recipe import Recipe
from dovetail.recipe.reading import SHIPPED
from dovetail.run.decoding import Decoding
from dovetail.video import Video

PROMPT, AWAY = "a red   circle &amp; a ring, moving left", "blurred"
FACTOR, STEPS = 8, 5
SIZES = {"as trained": (5, 6, 8), "wide": (3, 4, 10), "tall": (2, 8, 4)}
"""Latent frames, height and width; the tiny networks were made for the first."""

KINDS: dict[str, dict[str, Any]] = {"2b": {}, "5b": {"rotary": True, "snr_shift_scale": 1.0, "scaling": 0.7}}
"""What tells the sizes apart: positions, the schedule, and the scale of latents."""

Shelf = Callable[..., Path]


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Shelf:
    """Checkpoints by options, made when first asked for; tests do not change them."""

    @cache
    def made(**options: Any) -> Path:
        return tiny.cogvideox(tmp_path_factory.mktemp("cogvideox"), **options)

    return made


@cache
def expert_of(folder: Path) -> Expert:
    return load("it", "cogvideox", str(folder))


@cache
def pipeline_of(folder: Path) -> Any:
    """The stock pipeline, by its own loader."""
    pipeline = CogVideoXPipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def codec_of(folder: Path, **options: Any) -> VideoCodec:
    codec = load_codec(str(folder), **options)
    assert isinstance(codec, VideoCodec)
    return codec


def network(expert: Expert) -> Any:
    return expert.network


def noise(size: tuple[int, int, int] = SIZES["as trained"]) -> Tensor:
    return torch.randn((1, tiny.CHANNELS, *size), generator=torch.Generator().manual_seed(11))


def told(expert: Expert, scale: float) -> Denoiser:
    positive = expert.given(PROMPT)
    return positive if scale == 1 else Guided(positive, expert.given(AWAY), scale, joint=True)


def walked(denoise: Denoiser, ladder: Ladder, start: Tensor) -> Tensor:
    return last(sample(denoise, start * ladder.first, timeline(start.shape[2]), ladder.levels, Euler())).seen.x0


def stock(folder: Path, scale: float, start: Tensor, **options: Any) -> Tensor:
    """What the stock pipeline makes of the same noise and words: a latent, unless asked otherwise."""
    frames, height, width = start.shape[2:]
    asked = {
        "prompt": PROMPT,
        "negative_prompt": AWAY,
        "latents": start.transpose(1, 2),
        "height": height * FACTOR,
        "width": width * FACTOR,
        "num_frames": (frames - 1) * 4 + 1,
        "num_inference_steps": STEPS,
        "guidance_scale": scale,
        "output_type": "latent",
        "return_dict": False,
    }
    out: Tensor = pipeline_of(folder)(**asked | options)[0]
    return out.transpose(1, 2) if options.get("output_type") is None else out


# --- parity -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [1.0, 6.0])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", KINDS)
def test_an_expert_alone_is_its_stock_pipeline(shelf: Shelf, kind: str, size: str, scale: float) -> None:
    folder, start = shelf(**KINDS[kind]), noise(SIZES[size])
    expert = expert_of(folder)
    ladder = ladder_of(network(expert).scheduler, STEPS)
    assert (ladder.levels[0], ladder.levels[-1]) == (1, 0)
    assert apart(walked(told(expert, scale), ladder, start), stock(folder, scale, start)) <= 1e-5


@pytest.mark.parametrize("kind", KINDS)
def test_parity_would_show_a_mistake(shelf: Shelf, tmp_path: Path, kind: str) -> None:
    """What is compared depends, far beyond 1e-5, on the words, guidance, the levels, the places of tokens."""
    folder, start = shelf(**KINDS[kind]), noise()
    expert, right = expert_of(folder), stock(folder, 1.0, start)
    ladder = ladder_of(network(expert).scheduler, STEPS)
    assert apart(walked(expert.given(AWAY), ladder, start), right) > 1e-3
    assert apart(walked(told(expert, 6.0), ladder, start), right) > 1e-3
    unshifted = ladder_of({**network(expert).scheduler, "snr_shift_scale": 2.0}, STEPS)
    assert apart(walked(told(expert, 1.0), unshifted, start), right) > 1e-3
    other = shutil.copytree(folder, tmp_path / "other")
    change = {"sample_height": 12} if kind == "5b" else {"spatial_interpolation_scale": 1.0}
    configured(other / "transformer", **change)
    assert apart(walked(told(expert_of(other), 1.0), ladder, start), right) > 1e-4


def configured(folder: Path, **changes: Any) -> None:
    """Change a part's config; None takes a key out."""
    file = folder / "config.json"
    config = json.loads(file.read_text()) | changes
    file.write_text(
        json.dumps({key: value for key, value in config.items() if key not in changes or value is not None})
    )


@pytest.mark.parametrize("steps", [5, 20, 50])
@pytest.mark.parametrize("kind", KINDS)
def test_levels_are_the_timesteps_of_the_stock_scheduler(shelf: Shelf, kind: str, steps: int) -> None:
    """At the first, no signal is left."""
    expert = expert_of(shelf(**KINDS[kind]))
    scheduler = CogVideoXDDIMScheduler.from_config(network(expert).scheduler)
    scheduler.set_timesteps(steps)
    ladder = ladder_of(network(expert).scheduler, steps)
    assert [expert.schedule.native(t) for t in ladder.levels[:-1]] == scheduler.timesteps.tolist()
    assert ladder.levels == trailing(expert.schedule, steps, 1000).levels
    shares = [float((1 - a).sqrt() / (a.sqrt() + (1 - a).sqrt())) for a in scheduler.alphas_cumprod.double()]
    assert ladder.levels[:-1] == pytest.approx([shares[t] for t in scheduler.timesteps], abs=1e-6)
    assert shares[-1] == ladder.levels[0] == 1


# --- text -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", [PROMPT, "", "  a cat &amp;amp; a\n dog "])
def test_words_are_read_as_the_stock_pipeline_reads_them(shelf: Shelf, text: str) -> None:
    with torch.no_grad():
        theirs, _ = pipeline_of(shelf()).encode_prompt(text, None, False)
    (ours,) = network(expert_of(shelf())).text(text)
    assert torch.equal(ours, theirs)
    assert ours.shape[1] == network(expert_of(shelf())).text_limit == 226
    assert ours[0, -1].any(), "the padding is seen"


def test_a_long_prompt_is_quoted_where_it_is_cut(shelf: Shelf) -> None:
    # One token per letter, one for the first space, and a mark at the end.
    with pytest.warns(PromptWarning, match=r"'it' reads 226 tokens.*: 'bbb'"):
        network(expert_of(shelf())).text("a" * 224 + "bbb")


def test_the_network_says_how_many_words_there_are(shelf: Shelf, tmp_path: Path) -> None:
    folder = shutil.copytree(shelf(), tmp_path / "short")
    configured(folder / "transformer", max_text_seq_length=20)
    expert, start = expert_of(folder), noise(SIZES["wide"])
    assert network(expert).text_limit == 20
    ladder = ladder_of(network(expert).scheduler, STEPS)
    ours = walked(expert.given("a red ring"), ladder, start)
    assert apart(ours, stock(folder, 1.0, start, prompt="a red ring", max_sequence_length=20)) <= 1e-5


# --- loading ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_an_expert_knows_what_it_is(shelf: Shelf, kind: str) -> None:
    folder = shelf(**KINDS[kind])
    expert, space = expert_of(folder), load_codec(str(folder)).space
    shift = {"2b": 3.0, "5b": 1.0}[kind]
    exact = VariancePreserving.betas("scaled_linear", 0.00085, 0.012, snr_shift_scale=shift, zero_terminal_snr=True)
    assert expert.schedule == exact
    assert expert.target is predicts_v
    assert network(expert).space == space
    assert (space.channels, space.factor, space.compression) == (tiny.CHANNELS, 8, 4)
    assert space.scaling == {"2b": 1.15258426, "5b": 0.7}[kind]
    assert (network(expert).patch, network(expert).max_frames) == (2, 5)
    usual = FAMILIES["cogvideox"].space
    assert (usual.vae, usual.factor, usual.compression) == (space.vae, space.factor, space.compression)


def test_a_repository_as_it_was_first_published_is_read(shelf: Shelf, tmp_path: Path) -> None:
    """Its parts have these names; its configs lack what diffusers got with CogVideoX 1.5."""
    folder = shutil.copytree(shelf(), tmp_path / "first")
    parts = {"model_index.json", "scheduler", "text_encoder", "tokenizer", "transformer", "vae"}
    assert {path.name for path in folder.iterdir()} == parts
    later = ("patch_size_t", "ofs_embed_dim", "patch_bias", "use_learned_positional_embeddings")
    configured(folder / "transformer", **dict.fromkeys(later))
    configured(folder / "vae", invert_scale_latents=None, use_quant_conv=None, use_post_quant_conv=None)
    start, ladder = noise(), ladder_of(network(expert_of(shelf())).scheduler, STEPS)
    one, two = (walked(told(expert_of(path), 1.0), ladder, start) for path in (folder, shelf()))
    assert torch.equal(one, two)
    assert torch.equal(codec_of(folder).decode(one), codec_of(shelf()).decode(one))


def test_the_scheduler_of_5b_is_read(shelf: Shelf) -> None:
    """Its steps draw noise, and are not ours; its levels are."""
    with_dpm, with_ddim = (expert_of(shelf(**KINDS["5b"], dpm=dpm)) for dpm in (True, False))
    assert network(with_dpm).scheduler["_class_name"] == "CogVideoXDPMScheduler"
    assert with_dpm.schedule == with_ddim.schedule
    assert ladder_of(network(with_dpm).scheduler, 50) == ladder_of(network(with_ddim).scheduler, 50)


def test_what_is_not_this_family_is_told(shelf: Shelf, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"is a CogVideoXTransformer3DModel; its family: cogvideox"):
        load("it", "wan", str(shelf()))
    later = shutil.copytree(shelf(), tmp_path / "later")
    configured(later / "transformer", patch_size_t=2)
    with pytest.raises(RecipeError, match=r"takes 2 latent frames for one token, as CogVideoX 1\.5"):
        load("it", "cogvideox", str(later))
    image = shutil.copytree(shelf(), tmp_path / "image")
    tiny.cogvideox_transformer(channels=8).save_pretrained(image / "transformer")
    with pytest.raises(RecipeError, match=r"takes 8 channels, but a latent has 4.*text to video"):
        load("it", "cogvideox", str(image))


def test_more_frames_than_it_was_made_for_are_refused(shelf: Shelf) -> None:
    """The stock pipeline makes positions up for them."""
    with pytest.raises(RecipeError, match=r"at most 5 .* not 6\. .* windowed"):
        expert_of(shelf()).given("")(noise((6, 4, 4)), 0.5, timeline(6))


# --- the codec --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_what_comes_out_is_what_the_stock_pipeline_shows(shelf: Shelf, kind: str) -> None:
    folder, start = shelf(**KINDS[kind]), noise((5, 2, 4))
    expert, codec = expert_of(folder), codec_of(folder)
    latent = walked(told(expert, 1.0), ladder_of(network(expert).scheduler, STEPS), start)
    ours = codec.decode(latent)
    assert ours.shape == (1, 17, 3, 16, 32)
    assert apart(ours / 2 + 0.5, stock(folder, 1.0, start, output_type="pt")) <= 1e-5


@pytest.mark.parametrize("frames", [1, 3, 5, 9])
def test_pieces_are_the_stock_decode_of_the_whole(shelf: Shelf, frames: int) -> None:
    codec, latent = codec_of(shelf()), noise((frames, 2, 3)).repeat(2, 1, 1, 1, 1)
    latent[1] *= 0.5
    vae = pipeline_of(shelf()).vae
    with torch.no_grad():
        theirs = vae.decode(latent / vae.config.scaling_factor, return_dict=False)[0].clamp(-1, 1)
    pieces = list(codec.stream(latent))
    assert [piece.shape[1] for piece in pieces] == ([1] if frames == 1 else [9, *[8] * (frames // 2 - 1)])
    assert apart(torch.cat(pieces, 1).transpose(1, 2), theirs) <= 1e-5
    assert torch.equal(torch.cat(pieces, 1), codec.decode(latent))


def test_a_piece_waits_for_no_later_one(shelf: Shelf) -> None:
    codec, latent = codec_of(shelf()), noise((7, 2, 2))
    shown: list[int] = []
    hook = codec.module.decoder.register_forward_pre_hook(lambda _, told: shown.append(told[0].shape[2]))
    stream = codec.stream(latent)
    first, second = next(stream), next(stream)
    hook.remove()
    assert shown == [3, 2]
    changed = latent.clone()
    changed[:, :, 5:] += 1
    assert torch.equal(torch.cat([first, second], 1), codec.decode(changed)[:, :17])
    changed[:, :, 0] += 1
    assert apart(codec.decode(changed)[:, 9:17], second) > 1e-4, "what is kept of the frames before is used"


@pytest.mark.parametrize("lengths", [(5, 4), (1, 2, 6), (4, 3, 1), (8,), (1,), (1, 1), (2, 25, 26)], ids=str)
def test_a_run_decodes_in_parts_what_the_whole_decodes_to(shelf: Shelf, lengths: tuple[int, ...]) -> None:
    """Groups of latent frames go across the pieces of a run, so a piece waits for what its last group wants."""
    codec, latent = codec_of(shelf()), noise((sum(lengths), 2, 2))
    whole = Video.of(codec.decode(latent), 1.0).frames
    pieces, decoding, made = torch.split(latent, lengths, 2), Decoding(codec), []
    for number, piece in enumerate(pieces, 1):
        made += [frames for frames, _ in decoding.add(piece, number == len(pieces))]
    assert [len(frames) for frames in made] == [4 * n - 3 * (i == 0) for i, n in enumerate(lengths)]
    assert (np.concatenate(made) == whole).all()


def test_a_run_that_goes_on_decodes_the_same_without_what_the_decoder_kept(shelf: Shelf) -> None:
    """What convolutions saw last is not on the disk. It is made again from as many latent frames as they hang on, and
    from fewer it is not."""
    codec, latent = codec_of(shelf()), noise((60, 2, 2))
    trail, reach = Trail(), codec.reach
    list(codec.part(latent[:, :, :54], Excerpt(0, 0, 54), trail))
    asked = Excerpt(reach.begin(54), 54, 60, True)
    assert 0 < asked.first < 54 - 2 * 22, "22 convolutions over time, each of which sees the pair before"
    kept, anew = (torch.cat(list(codec.part(latent[:, :, asked.first :], asked, t)), 1) for t in (trail, Trail()))
    assert torch.equal(kept, anew)
    assert torch.equal(kept, codec.decode(latent)[:, -24:])
    few = replace(asked, first=49)
    assert not torch.equal(torch.cat(list(codec.part(latent[:, :, 49:], few, Trail())), 1), kept)


@pytest.mark.parametrize("frames", [2, 4, 6])
def test_an_even_number_of_latent_frames_begins_a_video_too(shelf: Shelf, frames: int) -> None:
    """The stock decoder makes four frames of the first as well, as if the video had begun before."""
    codec, latent = codec_of(shelf()), noise((frames + 1, 2, 2))
    ours = codec.decode(latent[:, :, :frames])
    assert ours.shape[1] == 4 * (frames - 1) + 1
    assert sum(piece.shape[1] for piece in codec.stream(latent[:, :, :frames])) == ours.shape[1]
    latent[:, :, frames] = latent[:, :, frames - 1]
    assert torch.equal(ours, codec.decode(latent)[:, : ours.shape[1]])


@pytest.mark.parametrize("frames", [1, 5, 9, 13, 21])
def test_encoding_is_the_posterior_mean_to_scale(shelf: Shelf, frames: int) -> None:
    shape = (1, frames, 3, 16, 8)
    video = torch.rand(shape, generator=torch.Generator().manual_seed(1)) * 2 - 1
    vae, codec = pipeline_of(shelf(**KINDS["5b"])).vae, codec_of(shelf(**KINDS["5b"]))
    with torch.no_grad():
        code = vae.encode(video.transpose(1, 2)).latent_dist.mean
    latent = codec.encode(video)
    assert latent.shape == (1, tiny.CHANNELS, (frames - 1) // 4 + 1, 2, 1)
    assert apart(latent, code * 0.7) <= 1e-5
    assert codec.decode(latent).shape == shape
    with pytest.raises(RecipeError, match=rf"4k \+ 1 frames, not {frames + 1}"):
        codec.encode(torch.cat([video, video[:, :1]], 1))
    with pytest.raises(EncodeError, match="made latents of NaN or infinity in float32"):
        codec.encode(video * torch.nan)


def test_the_two_sizes_scale_their_latents_differently(shelf: Shelf) -> None:
    two, five = (load_codec(str(shelf(**options))).space for options in KINDS.values())
    assert two.encoder == five.encoder
    with pytest.raises(SpaceError, match=r"scaling 1\.15258426 against 0\.7"):
        same_space(two, five)
    with pytest.raises(RecipeError, match="takes no chunk"):
        load_codec(str(shelf()), chunk=4)


# --- windows that do not begin the video ------------------------------------------------------------------------------

STARTS = torch.tensor([[0], [40]])
"""A row that begins its video and one that goes on in it."""


def placed(x: Tensor, t: float, frames: Tensor) -> Split:
    """Sees which place in its window a frame has."""
    place = torch.arange(x.shape[2], dtype=x.dtype)
    return split(x, x * 0 + rearrange(place, "f -> f 1 1"), t)


@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("first", [1.0, 0.25, 1e-3])
def test_the_first_frame_of_an_inner_window_counts_less(weights: str, first: float) -> None:
    """Against the sum written out."""
    x, frames = torch.zeros(2, 1, 11, 1, 1), torch.arange(11) + STARTS
    seen = Windowed(placed, 4, 3, weights, first)(x, 0.5, frames).x0[:, 0, :, 0, 0]
    weight = WEIGHTS[weights](4).tolist()
    for row, start in enumerate(STARTS[:, 0].tolist()):
        for f in range(11):
            begins = {s: start + s == 0 for s in (0, 3, 6, 7) if 0 <= f - s < 4}
            mass = {s: weight[f - s] * (1 if s != f or begins[s] else first) for s in begins}
            mean = sum(mass[s] * (f - s) for s in begins) / sum(mass.values())
            assert float(seen[row, f]) == pytest.approx(mean, abs=1e-5)


def test_without_it_windows_are_what_they_were() -> None:
    """To the last bit: one weight for all windows, as the mean was written before."""
    x, frames = torch.randn(2, 3, 11, 2, 2, generator=torch.Generator().manual_seed(5)), torch.arange(11) + STARTS
    weight, total, mass = WEIGHTS["sine"](4)[:, None, None], torch.zeros_like(x), torch.zeros(11, 1, 1)

    def squared(x: Tensor, t: float, frames: Tensor) -> Split:
        return split(x, x.square(), t)

    for start in (0, 3, 6, 7):
        total[:, :, start : start + 4] += weight * x[:, :, start : start + 4].square()
        mass[start : start + 4] += weight
    assert torch.equal(Windowed(squared, 4, 3, "sine")(x, 0.5, frames).x0, total / mass)


def test_a_recipe_says_how_much_it_counts(shelf: Shelf) -> None:
    windowed = {"of": "it", "size": 5, "stride": 2, "first": 0.1}
    recipe = recipe_of(shelf(), **{"video.frames": 25, "chain.make.denoise": {"windowed": windowed}})
    assert recipes.parse(recipes.dump(recipe)) == recipe
    (stage,) = dovetail.plan(recipe).stages
    assert isinstance(stage.denoise, Windowed)
    assert (stage.denoise.first, stage.denoise.size) == (0.1, 5)
    usual = recipes.changed(recipe, {"chain.make.denoise.windowed.first": 1.0})
    less, same = (dovetail.generate(recipe=made) for made in (recipe, usual))
    assert less.latent is not None
    assert same.latent is not None
    assert less.latent.shape[2] == 7
    assert len(less.frames) == 25
    assert apart(less.latent, same.latent) > 1e-4
    with pytest.raises(RecipeError, match=r"windowed\.first: 0\.0 .* greater than 0"):
        recipes.changed(recipe, {"chain.make.denoise.windowed.first": 0.0})


# --- recipes and plans ------------------------------------------------------------------------------------------------


def recipe_of(folder: Path, **changes: Any) -> Recipe:
    data = {
        "prompt": "a red ring",
        "video": {"frames": 9, "height": 16, "width": 32, "fps": 8.0},
        "experts": {"it": {"family": "cogvideox", "weights": str(folder)}},
        "codec": {"weights": str(folder)},
        "chain": [{"stage": "make", "ladder": {"own": {"of": "it", "steps": 2}}, "denoise": "it"}],
    }
    return recipes.changed(recipes.checked(data), changes)


@pytest.mark.parametrize("frames", [1, 5, 9])
def test_a_recipe_makes_a_video_of_as_many_frames_as_it_says(shelf: Shelf, frames: int) -> None:
    recipe = recipe_of(shelf(**KINDS["5b"]), **{"video.frames": frames})
    video = dovetail.generate(recipe=recipe)
    assert video.latent is not None
    assert (len(video.frames), video.size, video.latent.shape[2]) == (frames, (16, 32), (frames - 1) // 4 + 1)
    assert dovetail.plan(recipe).notes == ()


def test_the_shipped_recipe_runs_on_other_weights(shelf: Shelf) -> None:
    small = {"video.height": 16, "video.width": 16, "video.frames": 9, "chain.video.ladder.trailing.steps": STEPS}
    weights = {"experts.base.weights": str(shelf()), "codec.weights": str(shelf())}
    single = {"experts.base.dtype": "float32", "codec.dtype": "float32"}
    recipe = recipes.changed(recipes.load("cogvideox-2b"), {**small, **weights, **single})
    made = dovetail.generate(PROMPT, recipe)
    assert made.latent is not None
    expert = expert_of(shelf())
    start = dovetail.core.noise.Noise(0).of("video").like(noise((3, 2, 2)), timeline(3), "start")
    guided = Guided(expert.given(PROMPT), expert.given(""), 6.0, joint=True)
    assert apart(made.latent, walked(guided, ladder_of(network(expert).scheduler, STEPS), start)) <= 1e-5


def test_the_shipped_recipe_is_what_its_authors_use() -> None:
    recipe = recipes.load("cogvideox-2b")
    size, plan = recipe.video, dovetail.plan(recipe)
    assert (size.frames, size.height, size.width, size.fps) == (49, 480, 720, 8.0)
    assert plan.latent == (13, 60, 90)
    (stage,) = plan.stages
    schedule = VariancePreserving.betas("scaled_linear", 0.00085, 0.012, snr_shift_scale=3.0, zero_terminal_snr=True)
    assert [schedule.native(t) for t in stage.ladder.levels[:-1]] == [*range(999, 0, -20)]
    assert isinstance(stage.denoise, Guided)
    assert stage.denoise.scale == 6
    with pytest.raises(RecipeError, match=r"97 frames.*at most 49"):
        dovetail.plan(recipe, frames=97)


@pytest.mark.parametrize("change", [{}, {"video.longest": None, "video.frames": 193}])
def test_longer_than_a_clip_is_for_windows(change: dict[str, Any]) -> None:
    recipe = recipes.changed(recipes.load("cogvideox-2b"), change)
    windowed = {"of": "base", "size": 13, "stride": 4, "weights": "triangle", "first": 0.1}
    tiled = recipes.changed(recipe, {"chain.video.denoise": {"windowed": windowed}})
    plan = dovetail.plan(tiled)
    assert plan.latent is not None
    assert {look.frames for look in plan.shown} == {13}
    assert sum(plan.shown.values()) == 50 * (1 + -(-(plan.latent[0] - 13) // 4))
    if change:
        with pytest.raises(RecipeError, match="at most 13 frames at once, not 49"):
            dovetail.plan(recipe)


TOKENS = 226 + 13 * 30 * 45
"""Words, and latent cells of 49 frames of 480x720 by two."""


@pytest.mark.parametrize(("kind", "width", "layers", "billions"), [("2b", 1920, 30, 1.694), ("5b", 3072, 42, 5.570)])
@pytest.mark.parametrize("owner", ["THUDM", "zai-org"])
def test_a_plan_counts_what_is_published(owner: str, kind: str, width: int, layers: int, billions: float) -> None:
    """All tokens meet all tokens; each passes four square layers and two of four times the width, in each block."""
    weights = f"{owner}/CogVideoX-{kind}"
    plan = dovetail.plan("cogvideox-2b", overrides={"experts.base.weights": weights, "codec.weights": weights})
    found = costs(plan)
    share = found.experts["base"]
    assert share.parameters / 1e9 == pytest.approx(billions, abs=5e-4)
    assert share.look.attention == 4 * TOKENS**2 * width * layers
    assert share.look.linear == pytest.approx(2 * TOKENS * 12 * width**2 * layers, rel=0.01)
    assert found.spent.total == share.look.total * 100, "50 steps, both branches of guidance"
    assert share.bytes == 2 * share.parameters
    (note,) = plan.notes
    assert "planned by its published configuration" in note


def test_the_rest_of_what_is_published() -> None:
    told = {weights: it for (weights, _), it in PUBLISHED.items() if "CogVideoX" in weights}
    assert len(told) == 4
    assert all(it.words is COGVIDEOX_T5 for it in told.values())
    assert (COGVIDEOX_T5.limit, COGVIDEOX_T5.masked) == (226, False)
    two, five = told["THUDM/CogVideoX-2b"], told["zai-org/CogVideoX-5b"]
    assert (two.codec[1]["scaling_factor"], five.codec[1]["scaling_factor"]) == (1.15258426, 0.7)
    assert (two.scheduler["snr_shift_scale"], five.scheduler["snr_shift_scale"]) == (3.0, 1.0)


def test_the_head_of_the_recipe_says_what_is_downloaded() -> None:
    head = [line for line in (SHIPPED / "cogvideox-2b.yaml").read_text().splitlines() if line.startswith("# Download")]
    plan = dovetail.plan("cogvideox-2b")
    sizes = [costs(plan).experts["base"].bytes, 2 * text_parameters(COGVIDEOX_T5)]
    sizes.append(2 * parameters_of(*COGVIDEOX_CODEC))
    assert re.findall(r"[\d.]+ GB", head[0]) == [f"{size / 1e9:.1f} GB" for size in sizes]


@pytest.mark.parametrize("kind", KINDS)
def test_files_on_this_machine_are_counted_as_they_are(shelf: Shelf, kind: str) -> None:
    folder = shelf(**KINDS[kind])
    found = outline("it", "cogvideox", Location(str(folder)))
    assert found.parameters == network(expert_of(folder)).parameters
    assert (found.words.limit, found.words.masked, found.words.width) == (226, False, tiny.WIDE)
    assert found.look((tiny.CHANNELS, 5, 6, 8)).attention == 4 * (226 + 5 * 3 * 4) ** 2 * 32


def test_the_command_line_knows_it(shelf: Shelf) -> None:
    said = CliRunner().invoke(cli.app, ["experts"]).output
    assert "CogVideoX 2B and 5B" in said
    assert "THUDM/CogVideoX-2b (cogvideox, codec): " in said
    assert "Apache-2.0; used by cogvideox-2b, syncos-cogvideox-2b" in " ".join(said.split())
