"""A pipeline makes what its recipe makes from weights on disk, bit for bit; and what it says where it cannot."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderKLWan,
    CogVideoXDPMScheduler,
    CogVideoXPipeline,
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    FasterCacheConfig,
    FirstBlockCacheConfig,
    FlowMatchEulerDiscreteScheduler,
    LCMScheduler,
    LTXPipeline,
    PyramidAttentionBroadcastConfig,
    UNet2DConditionModel,
    UNet3DConditionModel,
    UNetMotionModel,
    UniPCMultistepScheduler,
    WanPipeline,
    WanTransformer3DModel,
)
from diffusers.hooks import apply_first_block_cache
from test_pipelines import call, drawn, made, own, pipe_of
from transformers import CLIPTextModel, CLIPTokenizer

import dovetail
from dovetail import recipe as recipes
from dovetail.core.denoiser import timeline
from dovetail.core.noise import Noise
from dovetail.errors import NetworkError, RecipeError, SpaceError, StoryWarning
from dovetail.experts import load_codec, same_space
from dovetail.pipelines import ConFinerPipeline, FlowBlendingPipeline, SynCoSPipeline, casting, seed_of
from dovetail.recipe import Recipe
from dovetail.recipe.planning import plan as planned
from dovetail.run import known_of

Shelf = dict[str, Path]

CONFINER = """
prompt: a red circle
negative: a dot
video: {frames: 4, height: 16, width: 16, fps: 8.0}
experts:
  control: {family: animatediff, weights: "CONTROL", device: cpu}
  spatial: {family: stable-diffusion, weights: "SPATIAL", device: cpu}
  temporal: {family: text-to-video-sd, weights: "TEMPORAL", device: cpu}
codec: {weights: "SPATIAL", device: cpu}
chain:
  - stage: structure
    ladder: {own: {of: control, steps: 3}}
    denoise: control
  - stage: refine
    ladder: {below: {of: spatial, timestep: 200, steps: 2}}
    denoise:
      coordinated:
        spatial: {framewise: {expert: spatial, guidance: 7.5}}
        temporal: {expert: temporal, guidance: 9.0}
"""

BLENDED = """
prompt: a red circle
negative: a dot
video: {frames: 9, height: 64, width: 64, fps: 24.0}
experts:
  large: {family: FAMILY, weights: "LARGE", device: cpu}
  small: {family: FAMILY, weights: "SMALL", device: cpu}
codec: {weights: "LARGE", device: cpu}
chain:
  - stage: video
    ladder: {own: {of: large, steps: 5}}
    solver: SOLVER
    denoise:
      blended:
        above HIGH: {expert: large, guidance: 4.0, joint: JOINT}
        above LOW: {expert: small, guidance: 4.0, joint: JOINT}
        else: {expert: large, guidance: 4.0, joint: JOINT}
"""

SYNCOS = """
prompt: a red circle
negative: a dot
video: {frames: 13, height: 32, width: 32, fps: 8.0}
experts:
  base: {family: cogvideox, weights: "BASE", device: cpu}
codec: {weights: "BASE", device: cpu}
story: [it moves left, it moves up]
chain:
  - stage: video
    ladder: {trailing: {of: base, steps: 4}}
    denoise:
      coupled: {of: {expert: base, guidance: 6.0}, size: 2, stride: 1, floor: 0.9, iterations: 2, first: 0.1}
"""


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Shelf:
    """Checkpoints of all that is played here."""
    at = tmp_path_factory.mktemp("shelf")
    return {
        "SPATIAL": tiny.stable_diffusion(at / "spatial"),
        "CONTROL": tiny.animatediff(at / "control"),
        "TEMPORAL": tiny.save(at / "temporal", tiny.unet3d(), vae=tiny.vae(), limit=40),
        "wan": tiny.wan(at / "wan", layers=2),
        "wan small": tiny.wan(at / "wan-small"),
        "ltx": tiny.ltx(at / "ltx", layers=2, conditioned=True),
        "ltx small": tiny.ltx(at / "ltx-small", conditioned=True),
        "BASE": tiny.cogvideox(at / "base"),
    }


def filled(text: str, words: dict[str, Any]) -> Recipe:
    for word, value in words.items():
        text = text.replace(word, str(value))
    return recipes.parse(text)


Case = tuple[Any, Recipe, dict[str, Any]]
"""A pipeline, a recipe that names weights, and what a call says to be that recipe."""


def confiner(shelf: Shelf) -> Case:
    spatial, control, temporal = (shelf[name] for name in ("SPATIAL", "CONTROL", "TEMPORAL"))
    pipe = ConFinerPipeline(
        vae=AutoencoderKL.from_pretrained(spatial / "vae"),
        text_encoder=CLIPTextModel.from_pretrained(spatial / "text_encoder"),
        tokenizer=CLIPTokenizer.from_pretrained(spatial / "tokenizer"),
        unet=UNet2DConditionModel.from_pretrained(spatial / "unet"),
        scheduler=DDIMScheduler.from_pretrained(spatial / "scheduler"),
        control_unet=UNetMotionModel.from_pretrained(control / "unet"),
        control_scheduler=DDIMScheduler.from_pretrained(control / "scheduler"),
        temporal_unet=UNet3DConditionModel.from_pretrained(temporal / "unet"),
        temporal_scheduler=DDIMScheduler.from_pretrained(temporal / "scheduler"),
        temporal_text_encoder=CLIPTextModel.from_pretrained(temporal / "text_encoder"),
        temporal_tokenizer=CLIPTokenizer.from_pretrained(temporal / "tokenizer"),
        refine_timestep=200,
        refine_steps=2,
    )
    size = {"num_frames": 4, "height": 16, "width": 16}
    return pipe, filled(CONFINER, dict(shelf)), {**size, "num_inference_steps": 3}


def wan(shelf: Shelf) -> Case:
    """With the boundaries that the paper's shares of steps come to."""
    large, small = (WanPipeline.from_pretrained(shelf[name]) for name in ("wan", "wan small"))
    pipe = FlowBlendingPipeline(**large.components, small_transformer=small.transformer)
    words = {"FAMILY": "wan", "LARGE": shelf["wan"], "SMALL": shelf["wan small"], "SOLVER": "unipc", "JOINT": "false"}
    boundaries = {"HIGH": 0.8754, "LOW": 0.5375}
    size = {"num_frames": 9, "height": 64, "width": 64, "frame_rate": 24.0}
    return pipe, filled(BLENDED, words | boundaries), {**size, "num_inference_steps": 5, "guidance_scale": 4.0}


def ltx(shelf: Shelf) -> Case:
    large, small = (LTXPipeline.from_pretrained(shelf[name]) for name in ("ltx", "ltx small"))
    pipe = FlowBlendingPipeline(**large.components, small_transformer=small.transformer, boundaries=[0.9, 0.5])
    words = {"FAMILY": "ltx", "LARGE": shelf["ltx"], "SMALL": shelf["ltx small"], "SOLVER": "euler", "JOINT": "true"}
    size = {"num_frames": 9, "height": 64, "width": 64, "frame_rate": 24.0}
    return (
        pipe,
        filled(BLENDED, words | {"HIGH": 0.9, "LOW": 0.5}),
        {**size, "num_inference_steps": 5, "guidance_scale": 4},
    )


def syncos(shelf: Shelf) -> Case:
    stock = CogVideoXPipeline.from_pretrained(shelf["BASE"])
    pipe = SynCoSPipeline.from_pipe(stock, window=2, stride=1, floor=0.9, iterations=2)
    size = {"num_frames": 13, "height": 32, "width": 32, "events": ["it moves left", "it moves up"]}
    return pipe, filled(SYNCOS, dict(shelf)), {**size, "num_inference_steps": 4}


CASES: dict[str, Callable[[Shelf], Case]] = {"confiner": confiner, "wan": wan, "ltx": ltx, "syncos": syncos}


@pytest.mark.parametrize("case", CASES)
def test_a_pipeline_makes_what_its_recipe_makes(shelf: Shelf, case: str) -> None:
    """Both from weights on disk, the recipe written by hand; the seed is one draw from the generator."""
    pipe, recipe, asked = CASES[case](shelf)
    pipe.set_progress_bar_config(disable=True)
    made = pipe("a red circle", "a dot", generator=drawn(7), output_type="latent", **asked)
    video = dovetail.generate(recipe=recipe, seed=seed_of(drawn(7)))
    assert video.latent is not None
    assert torch.equal(made.frames, video.latent)
    shown = pipe("a red circle", "a dot", generator=drawn(7), output_type="pil", **asked).frames
    assert np.array_equal(np.stack([np.asarray(frame) for frame in shown[0]]), video.frames)


@pytest.mark.parametrize("case", CASES)
def test_a_pipeline_says_its_recipe(shelf: Shelf, case: str) -> None:
    """It differs from the one that is written by hand in nothing but weights and how numbers are rounded."""
    pipe, written, asked = CASES[case](shelf)
    said = pipe.recipe("a red circle", "a dot", **asked)
    places = recipes.weights_in(written)
    said = recipes.changed(said, places | {f"experts.{name}.device": "cpu" for name in written.experts})
    said = recipes.changed(said, {"codec.device": "cpu"})
    assert recipes.parse(recipes.dump(said)) == said
    one, two = dovetail.plan(said), dovetail.plan(written)
    assert one.counts == two.counts
    assert one.asked == two.asked
    assert [stage.ladder for stage in one.stages] == [stage.ladder for stage in two.stages]
    assert [stage.solver for stage in one.stages] == [stage.solver for stage in two.stages]


def test_the_large_expert_takes_the_papers_shares_of_steps() -> None:
    pipe = pipe_of("flowblending")
    assert asked_by(pipe, 10) == ["large"] * 4 + ["small"] * 4 + ["low"] * 2
    assert asked_by(pipe, 2) == ["large", "small"]
    assert asked_by(pipe_of("flowblending", transformer_2=None), 5) == ["large"] * 2 + ["small"] * 2 + ["large"]
    pipe = pipe_of("flowblending")
    pipe.register_to_config(boundaries=[0.7, 0.7])
    assert set(asked_by(pipe, 10)) == {"large", "low"}


def asked_by(pipe: Any, steps: int) -> list[str]:
    """Who is asked at each step."""
    recipe = pipe.recipe(height=32, width=32, num_frames=5, num_inference_steps=steps)
    cast = pipe._cast({}, [], [], recipe)
    return ["".join(sorted(names)) for names in planned(recipe, known_of(cast), latent=(2, 4, 4)).asked]


def test_events_are_told_at_their_frames() -> None:
    pipe = pipe_of("syncos")
    evenly = pipe(**call("syncos", events=["it moves left", "it moves up"], output_type="latent")).frames
    timed = pipe(**call("syncos", events={0: "it moves left", 6: "it moves up"}, output_type="latent")).frames
    assert torch.equal(evenly, timed)
    other = pipe(**call("syncos", events={0: "it moves left", 9: "it moves up"}, output_type="latent")).frames
    assert not torch.equal(evenly, other)


@pytest.mark.parametrize(("kind", "heard"), [("wan", True), ("cogvideox", False)])
def test_events_may_be_told_by_frame(kind: str, heard: bool) -> None:
    """Wan's network can be; CogVideoX's, whose words and tokens are one sequence, goes on by windows."""
    names = ("tokenizer", "text_encoder", "vae", "transformer", "scheduler")
    parts = {name: made("flowblending")[name] for name in names} if kind == "wan" else {}
    events = ["it moves left", "it moves up"]
    by_window, by_frame = pipe_of("syncos", **parts), pipe_of("syncos", **parts)
    by_frame.register_to_config(by_frame=True)
    assert by_frame.recipe("", events=["a", "b"]).story.by == "frame"
    one, other = (pipe(**call("syncos", events=events, output_type="latent")).frames for pipe in (by_window, by_frame))
    assert torch.equal(one, other) is not heard


def test_events_may_be_read_before() -> None:
    """A row for each event, video by video."""
    pipe, events = pipe_of("syncos"), ["it moves left", "it moves up"]
    prompts = ["a red circle", "a dot"]
    told, against, *_ = pipe.encode_prompt(prompts, num_videos_per_prompt=2, events=events)
    assert (len(told), len(against)) == (8, 4)
    asked = {"output_type": "latent", "events": events}
    known = pipe(**call("syncos", prompt=None, prompt_embeds=told, negative_prompt_embeds=against, **asked)).frames
    assert torch.equal(known, pipe(**call("syncos", prompt=prompts, num_videos_per_prompt=2, **asked)).frames)


def test_a_story_says_what_it_leaves_open() -> None:
    pipe = pipe_of("syncos")
    with pytest.warns(StoryWarning, match="share no text"):
        pipe(**call("syncos", prompt="", events=["a dot", "a ring"], output_type="latent"))


def ti2v(folder: Path) -> Any:
    """As Wan 2.2 TI2V-5B is laid out: an autoencoder of patches and residual shortcuts, 16x along height and width, and a
    timestep for each token."""
    vae = tiny.grown(
        lambda: AutoencoderKLWan(
            base_dim=4,
            decoder_base_dim=8,
            z_dim=6,
            dim_mult=[1, 1, 1, 1],
            num_res_blocks=1,
            latents_mean=[0.3, -0.2, 0.1, 0.0, 0.2, -0.1],
            latents_std=[1.5, 0.5, 2.0, 1.0, 0.8, 1.2],
            is_residual=True,
            in_channels=12,
            out_channels=12,
            patch_size=2,
            scale_factor_spatial=16,
        ),
        8,
    )
    config = tiny.wan_transformer(channels=6).config
    tokenizer, encoder = tiny.t5(multilingual=True)
    pipe = WanPipeline(
        tokenizer=tokenizer,
        text_encoder=encoder,
        vae=vae,
        scheduler=UniPCMultistepScheduler(**tiny.WAN),
        transformer=tiny.grown(lambda: WanTransformer3DModel.from_config(config, out_channels=6), 9),
        expand_timesteps=True,
    )
    pipe.save_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def test_wan_22_ti2v_makes_videos_of_texts_as_its_stock_pipeline(tmp_path: Path) -> None:
    stock, size = ti2v(tmp_path), {"height": 64, "width": 64}
    recipe = recipes.checked(
        {
            "prompt": "a red circle",
            "negative": "a dot",
            "video": {"frames": 9, **size, "fps": 24.0, "seed": 3},
            "experts": {"base": {"family": "wan", "weights": str(tmp_path), "device": "cpu"}},
            "codec": {"weights": str(tmp_path), "device": "cpu"},
            "chain": [
                {
                    "stage": "video",
                    "ladder": {"own": {"of": "base", "steps": 3}},
                    "solver": "unipc",
                    "denoise": {"expert": "base", "guidance": 4.0, "joint": False},
                }
            ],
        }
    )
    video = dovetail.generate(recipe=recipe)
    assert video.latent is not None
    assert video.latent.shape == (1, 6, 3, 4, 4)
    noise = Noise(3, "video").like(video.latent, timeline(3), "start")
    asked = {"num_frames": 9, **size, "num_inference_steps": 3, "guidance_scale": 4.0, "latents": noise}
    theirs = stock("a red circle", "a dot", **asked, output_type="latent").frames
    assert torch.allclose(video.latent, theirs, atol=1e-4)
    shown = stock("a red circle", "a dot", **asked).frames[0]
    assert np.abs(shown * 255 - video.frames).max() <= 1


def test_wan_22_ti2v_is_of_another_space_than_the_others(tmp_path: Path, shelf: Shelf) -> None:
    stock = ti2v(tmp_path)
    pipe = pipe_of("flowblending", small_transformer=stock.transformer)
    with pytest.raises(RecipeError, match="takes 6 channels, but a latent has 4"):
        pipe(**call("flowblending"))
    with pytest.raises(SpaceError, match="channels 6 against 4"):
        same_space(load_codec(str(tmp_path)).space, load_codec(str(shelf["wan"])).space)


# --- errors --------------------------------------------------------------------------------------------------------

WRONG: dict[str, tuple[str, dict[str, Any], str]] = {
    "no prompt": ("flowblending", {"prompt": None}, "needs prompt or prompt_embeds, and neither came"),
    "two prompts": ("flowblending", {"prompt_embeds": torch.zeros(1, 512, 16)}, "prompt and prompt_embeds both"),
    "no text": ("confiner", {"prompt": 7}, "a text or a list of texts, not 7"),
    "negatives": ("confiner", {"negative_prompt": ["a", "b"]}, "negative_prompt: 2 texts came for 1 prompts"),
    "generators": ("confiner", {"generator": [drawn(0), drawn(1)]}, "2 generators came for 1 videos"),
    "output": ("confiner", {"output_type": "mp4"}, "unknown value 'mp4'.*latent, np, pil, pt"),
    "tensors": (
        "confiner",
        {"callback_on_step_end_tensor_inputs": ["latent"]},
        "no tensor is called 'latent'; did you mean 'latents'",
    ),
    "latents": ("flowblending", {"latents": torch.zeros(1, 4, 5, 4, 4)}, r"unit noise \(1, 4, 2, 4, 4\): videos"),
    "rows": (
        "syncos",
        {"prompt": None, "prompt_embeds": torch.zeros(1, 226, 16), "num_videos_per_prompt": 1, "events": ["a", "b"]},
        "prompt_embeds: 1 rows came, but each video needs 2",
    ),
    "masks": (
        "ltx",
        {"prompt": None, "prompt_embeds": torch.zeros(1, 128, 16), "negative_prompt_embeds": torch.zeros(1, 128, 16)},
        "give prompt_attention_mask with prompt_embeds",
    ),
    "no frames": ("flowblending", {"num_frames": 0}, "frames"),
    "size": ("flowblending", {"height": 40}, "multiples of 16"),
    "frames": ("flowblending", {"num_frames": 6}, r"4k \+ 1 frames"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_what_does_not_fit_is_said(wrong: str) -> None:
    kind, changes, said = WRONG[wrong]
    with pytest.raises(RecipeError, match=said):
        pipe_of(kind)(**call(kind, **changes))


def test_a_pipeline_without_text_models_says_what_it_needs() -> None:
    pipe = pipe_of("flowblending", text_encoder=None)
    with pytest.raises(RecipeError, match="reads no text; give prompt_embeds, and negative_prompt_embeds"):
        pipe(**call("flowblending"))


def test_a_scheduler_that_no_solver_walks_is_refused() -> None:
    pipe = pipe_of("syncos", scheduler=CogVideoXDPMScheduler(**tiny.COGVIDEOX))
    with pytest.raises(RecipeError, match=r"steps of a CogVideoXDPMScheduler.*from_config.*CogVideoXDDIMScheduler"):
        pipe(**call("syncos"))
    pipe = pipe_of("confiner", control_scheduler=LCMScheduler())
    with pytest.raises(RecipeError, match="steps of a LCMScheduler"):
        pipe(**call("confiner"))


@pytest.mark.parametrize(
    ("scheduler", "said"),
    [
        (DDIMScheduler(), "DDIMScheduler with clip_sample=True.*has clip_sample=False"),
        (DPMSolverMultistepScheduler(algorithm_type="sde-dpmsolver++"), "algorithm_type='sde-dpmsolver..'"),
        (FlowMatchEulerDiscreteScheduler(stochastic_sampling=True), "with stochastic_sampling=True"),
        (UniPCMultistepScheduler(solver_order=3), "with solver_order=3"),
    ],
)
def test_a_scheduler_that_steps_in_another_way_is_refused(scheduler: Any, said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        casting.solver_of(scheduler)


def test_components_of_another_family_are_refused() -> None:
    with pytest.raises(RecipeError, match="takes one of wan, ltx, cogvideox, not a network of 'stable-diffusion'"):
        pipe_of("flowblending", transformer=tiny.unet2d())(**call("flowblending"))
    with pytest.raises(RecipeError, match=r"are of one family, and these are not: .*'small': 'ltx'"):
        pipe_of("flowblending", small_transformer=tiny.ltx_transformer())(**call("flowblending"))
    with pytest.raises(RecipeError, match="text_encoder: a CLIPTextModel is not read with here; take a T5EncoderModel"):
        pipe_of("ltx", text_encoder=tiny.clip()[1])(**call("ltx"))


def test_a_network_of_no_family_is_refused() -> None:
    pipe = pipe_of("flowblending", transformer=tiny.vae())
    with pytest.raises(RecipeError, match="no family calls a AutoencoderKL"):
        pipe(**call("flowblending"))
    pipe = pipe_of("flowblending", small_transformer=tiny.wan_transformer(channels=9))
    with pytest.raises(RecipeError, match="takes 9 channels, but a latent has 4"):
        pipe(**call("flowblending"))


CACHES = {
    "first block": ("flowblending", FirstBlockCacheConfig(threshold=0.1)),
    "faster": ("syncos", FasterCacheConfig(spatial_attention_block_skip_range=2, tensor_format="BFCHW")),
    "broadcast": ("syncos", PyramidAttentionBroadcastConfig(2, current_timestep_callback=lambda: 500)),
}


@pytest.mark.parametrize("cache", CACHES)
def test_a_network_that_remembers_calls_is_refused(cache: str) -> None:
    kind, config = CACHES[cache]
    pipe = own(kind)
    plain = pipe(**call(kind, output_type="latent"))[0]
    pipe.transformer.enable_cache(config)
    with pytest.raises(
        RecipeError, match=r"a cache of diffusers is on in the .*3DModel.*transformer\.disable_cache\(\)"
    ):
        pipe(**call(kind, output_type="latent"))
    pipe.transformer.disable_cache()
    assert torch.equal(pipe(**call(kind, output_type="latent"))[0], plain)


def test_a_cache_is_found_without_enable_cache_and_in_the_small_network() -> None:
    pipe = pipe_of("flowblending", small_transformer=tiny.wan_transformer(2))
    apply_first_block_cache(pipe.small_transformer, FirstBlockCacheConfig(threshold=0.1))
    with pytest.raises(RecipeError, match=r"expert 'small': a cache of diffusers is on.*load the network again"):
        pipe(**call("flowblending"))


@pytest.mark.parametrize("told", [[0.5], [0.3, 0.6], [1.5, 0.5]])
def test_boundaries_fall(told: list[float]) -> None:
    pipe = pipe_of("flowblending")
    pipe.register_to_config(boundaries=told)
    with pytest.raises(RecipeError, match="two shares of noise in"):
        pipe(**call("flowblending"))


def test_guidance_from_nowhere_is_refused() -> None:
    def guide(pipe: Any, i: int, t: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        pipe._guidance_scale = 4.0
        return tensors

    with pytest.raises(RecipeError, match=r"no negative prompt was read.*begin with a guidance_scale above 1"):
        pipe_of("syncos")(**call("syncos", guidance_scale=1.0, callback_on_step_end=guide))


def test_a_callback_that_spoils_a_tensor_is_told() -> None:
    def cut(pipe: Any, i: int, t: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        return {"latents": tensors["latents"][:, :, :1]}

    with pytest.raises(RecipeError, match=r"callback_on_step_end: latents was .* and .* came back"):
        pipe_of("flowblending")(**call("flowblending", callback_on_step_end=cut))


def test_infinite_answers_are_told_with_their_step() -> None:
    def spoil(pipe: Any, i: int, t: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        return {"latents": tensors["latents"] * float("nan")}

    with pytest.raises(NetworkError, match=r"expert 'large'.*in stage 'video', step 2"):
        pipe_of("flowblending")(**call("flowblending", callback_on_step_end=spoil))
