"""The pipelines, as diffusers' own tests of pipelines ask (tests/pipelines/test_pipelines_common.py there), and what they
promise beyond: the same video as the same recipe, bit for bit."""

import ast
import inspect
import re
import textwrap
from collections.abc import Callable, Mapping
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from diffusers import (
    AnimateDiffPipeline,
    CogVideoXDDIMScheduler,
    CogVideoXPipeline,
    DDIMScheduler,
    FlowMatchEulerDiscreteScheduler,
    LTXPipeline,
    StableDiffusionPipeline,
    TextToVideoSDPipeline,
    UNetMotionModel,
    UniPCMultistepScheduler,
    WanPipeline,
)
from diffusers.callbacks import MultiPipelineCallbacks, PipelineCallback
from diffusers.hooks import apply_group_offloading
from torch import Tensor, nn

from dovetail.core.denoiser import timeline
from dovetail.core.noise import Noise
from dovetail.errors import DecodeError, PromptWarning, RecipeError, RunWarning
from dovetail.experts.moving import present
from dovetail.pipelines import ConFinerPipeline, FlowBlendingPipeline, SynCoSPipeline, casting, seed_of

Parts = dict[str, Any]


def confiner() -> Parts:
    """Its temporal expert reads with another text model, as ModelScope does."""
    tokenizer, encoder = tiny.clip()
    other_tokenizer, other = tiny.clip(limit=40)
    return {
        "vae": tiny.vae(),
        "text_encoder": encoder,
        "tokenizer": tokenizer,
        "unet": tiny.unet2d(),
        "scheduler": DDIMScheduler(**tiny.SCHEDULER),
        "control_unet": UNetMotionModel.from_unet2d(tiny.unet2d(), tiny.motion_adapter()).eval(),
        "control_scheduler": tiny.lightning_scheduler(),
        "temporal_unet": tiny.unet3d(),
        "temporal_scheduler": DDIMScheduler(**tiny.SCHEDULER),
        "temporal_text_encoder": other,
        "temporal_tokenizer": other_tokenizer,
    }


def flowblending() -> Parts:
    tokenizer, encoder = tiny.t5(multilingual=True)
    return {
        "tokenizer": tokenizer,
        "text_encoder": encoder,
        "vae": tiny.wan_vae(),
        "scheduler": UniPCMultistepScheduler(**tiny.WAN),
        "transformer": tiny.wan_transformer(2, 4),
        "small_transformer": tiny.wan_transformer(),
        "transformer_2": tiny.wan_transformer(3),
    }


def ltx() -> Parts:
    tokenizer, encoder = tiny.t5()
    return {
        "tokenizer": tokenizer,
        "text_encoder": encoder,
        "vae": tiny.ltx_vae(conditioned=True),
        "scheduler": FlowMatchEulerDiscreteScheduler(**tiny.LTX),
        "transformer": tiny.ltx_transformer(2, 4),
        "small_transformer": tiny.ltx_transformer(),
    }


def syncos() -> Parts:
    tokenizer, encoder = tiny.t5()
    return {
        "tokenizer": tokenizer,
        "text_encoder": encoder,
        "vae": tiny.cogvideox_vae(),
        "transformer": tiny.cogvideox_transformer(),
        "scheduler": CogVideoXDDIMScheduler(**tiny.COGVIDEOX),
    }


KINDS: Mapping[str, tuple[Any, Callable[[], Parts], dict[str, Any], dict[str, Any]]] = {
    "confiner": (
        ConFinerPipeline,
        confiner,
        {"refine_timestep": 300, "refine_steps": 2},
        {"height": 16, "width": 16, "num_frames": 3, "num_inference_steps": 2},
    ),
    "flowblending": (
        FlowBlendingPipeline,
        flowblending,
        {},
        {"height": 32, "width": 32, "num_frames": 5, "num_inference_steps": 4},
    ),
    "ltx": (
        FlowBlendingPipeline,
        ltx,
        {"boundaries": [0.9, 0.5]},
        {"height": 64, "width": 64, "num_frames": 9, "num_inference_steps": 3},
    ),
    "syncos": (
        SynCoSPipeline,
        syncos,
        {"window": 2, "stride": 1, "iterations": 1},
        {"height": 32, "width": 32, "num_frames": 13, "num_inference_steps": 3},
    ),
}
"""Class, components, scalars, and what a small call asks for."""

made = cache(lambda kind: KINDS[kind][1]())


def pipe_of(kind: str, **components: Any) -> Any:
    """A pipeline over networks that all tests share; a test that changes them copies them first."""
    make, _, scalars, _ = KINDS[kind]
    pipe = make(**{**made(kind), **components}, **scalars)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def own(kind: str) -> Any:
    """A pipeline over copies of the networks."""
    return pipe_of(kind, **{name: deepcopy(part) for name, part in made(kind).items() if isinstance(part, nn.Module)})


def call(kind: str, **changes: Any) -> dict[str, Any]:
    """The arguments of a small call."""
    usual = {"prompt": "a red circle", "generator": drawn(3), "guidance_scale": 4.0}
    return {**usual, **KINDS[kind][3], **changes}


def drawn(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


each = pytest.mark.parametrize("kind", KINDS)


# --- arguments and what comes back ---------------------------------------------------------------------------------


PAGE = (Path(__file__).parents[1] / "docs" / "pipelines.md").read_text(encoding="utf-8")
STOCKS = {
    "confiner": (StableDiffusionPipeline, AnimateDiffPipeline, TextToVideoSDPipeline),
    "flowblending": (WanPipeline, LTXPipeline, CogVideoXPipeline),
    "syncos": (WanPipeline, LTXPipeline, CogVideoXPipeline),
}


def test_the_page_lists_what_a_call_does_not_take() -> None:
    """All that stock pipelines take and these do not, nothing else, and no loader."""
    listed = PAGE[PAGE.index("these are not arguments here") : PAGE.index("Nor are there loaders")]
    told = {name for line in listed.splitlines() if "|" in line for name in re.findall(r"`(\w+)`", line.split("|")[1])}
    less = set()
    for kind, stocks in STOCKS.items():
        for method in ("__call__", "encode_prompt"):
            ours = inspect.signature(getattr(KINDS[kind][0], method)).parameters
            less |= {name for stock in stocks for name in taken(getattr(stock, method)) if name not in ours}
        loaders = re.findall(r"`(load_\w+)`", PAGE)
        assert len(loaders) == 3
        assert not any(hasattr(KINDS[kind][0], name) for name in loaders)
    assert told - {"encode_prompt"} == less


def taken(method: Callable[..., Any]) -> set[str]:
    return {name for name, one in inspect.signature(method).parameters.items() if one.kind is not one.VAR_KEYWORD}


def test_ltx_is_decoded_as_the_page_says() -> None:
    codec = casting.codec(tiny.ltx_vae(conditioned=True))
    told: Any = codec.conditioning  # type: ignore[attr-defined]
    assert f"decoded at {told.timestep:g} with {told.noise:g} of noise".replace("0.", ".") in PAGE
    assert inspect.signature(LTXPipeline.__call__).parameters["decode_timestep"].default == 0
    assert casting.codec(tiny.ltx_vae()).conditioning is None  # type: ignore[attr-defined]


@each
def test_a_call_has_the_usual_arguments(kind: str) -> None:
    known = inspect.signature(KINDS[kind][0].__call__).parameters
    asked = [
        "prompt",
        "negative_prompt",
        "height",
        "width",
        "num_frames",
        "num_inference_steps",
        "guidance_scale",
        "num_videos_per_prompt",
        "generator",
        "latents",
        "prompt_embeds",
        "negative_prompt_embeds",
        "output_type",
        "return_dict",
        "callback_on_step_end",
        "callback_on_step_end_tensor_inputs",
    ]
    assert set(asked) <= known.keys()
    assert all(known[name].default is not inspect.Parameter.empty for name in asked)


@each
def test_components_are_those_that_were_given(kind: str) -> None:
    pipe = pipe_of(kind)
    assert pipe.components.keys() == made(kind).keys() | set(pipe._optional_components)
    assert all(pipe.components[name] is part for name, part in made(kind).items())


@each
def test_outputs_are_one_video_in_four_forms(kind: str) -> None:
    pipe = pipe_of(kind)
    latent, np_, pt, pil = (pipe(**call(kind, output_type=form)).frames for form in ("latent", "np", "pt", "pil"))
    asked = KINDS[kind][3]
    assert np_.shape == (1, asked["num_frames"], asked["height"], asked["width"], 3)
    assert latent.ndim == 5
    assert latent.dtype == torch.float32
    assert np.array_equal(pt.permute(0, 1, 3, 4, 2).numpy(), np_)
    assert np.array_equal(np.stack([np.asarray(frame) for frame in pil[0]]), (np_[0] * 255).round().astype("uint8"))
    assert 0 <= np_.min() < np_.max() <= 1


@each
def test_a_tuple_holds_what_the_output_holds(kind: str) -> None:
    pipe = pipe_of(kind)
    whole, parts = pipe(**call(kind)), pipe(**call(kind, return_dict=False))
    assert len(parts) == 1
    assert np.array_equal(whole[0], parts[0])
    assert whole.seeds == (seed_of(drawn(3)),)


def test_a_generator_gives_the_seed_by_one_draw() -> None:
    """Of this kind; so seeds that were written down stay what they were."""
    generator, by_hand = drawn(3), drawn(3)
    for _ in range(2):
        assert seed_of(generator) == int(torch.randint(2**63 - 1, (1,), generator=by_hand))
        assert torch.equal(generator.get_state(), by_hand.get_state())
    assert seed_of(drawn(3)) == 937055941807507097
    torch.manual_seed(3)
    assert seed_of() == 937055941807507097
    called, by_hand = drawn(3), drawn(3)
    seeds = pipe_of("confiner")(
        **call("confiner", generator=called, num_videos_per_prompt=2, output_type="latent")
    ).seeds
    assert seeds == tuple(int(torch.randint(2**63 - 1, (1,), generator=by_hand)) for _ in range(2))
    assert torch.equal(called.get_state(), by_hand.get_state()), "nothing else is drawn from it"


@pytest.mark.filterwarnings("ignore:__array__ implementation")  # numpy 2, of who does not know it
@pytest.mark.parametrize("kind", ["confiner", "flowblending"])
def test_frames_that_overflow_in_half_precision_are_decoded_again(kind: str) -> None:
    """As `dovetail.generate` does, and with the same words."""
    pipe = own(kind)
    pipe.vae.half()
    pipe.vae.decoder.conv_in.register_forward_hook(lambda module, inputs, out: (out * 1e6) / 1e6)
    with pytest.warns(
        RunWarning, match=r"in float16, so it was done again in float32.*pipe\.vae\.to\(torch\.float32\)"
    ):
        frames = pipe(**call(kind, output_type="pt"))[0]
    assert frames.isfinite().all()
    assert frames.max() > 0
    assert {part.dtype for part in pipe.vae.parameters()} == {torch.float16}, "as it was"
    pipe.vae.float()
    assert (frames - pipe(**call(kind, output_type="pt"))[0]).abs().max() < 0.01


def test_frames_that_are_no_numbers_are_an_error() -> None:
    pipe = own("confiner")
    with torch.no_grad():
        pipe.vae.decoder.conv_out.bias.fill_(float("nan"))
    with pytest.raises(DecodeError, match="made frames of NaN or infinity in float32"):
        pipe(**call("confiner"))


@each
def test_a_batch_makes_what_each_of_its_videos_is_alone(kind: str) -> None:
    pipe, prompts = pipe_of(kind), ["a red circle", "a ring", "it moves"]
    many = pipe(**call(kind, prompt=prompts, negative_prompt="a dot", generator=[drawn(k) for k in range(3)]))[0]
    assert len(many) == 3
    alone = pipe(**call(kind, prompt=prompts[1], negative_prompt="a dot", generator=drawn(1)))[0]
    assert np.array_equal(many[1], alone[0])
    assert not np.array_equal(many[1], many[0])


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "flowblending"])  # UMT5 reads 512 tokens.
def test_a_long_prompt_is_cut_aloud(kind: str) -> None:
    pipe = pipe_of(kind)
    with pytest.warns(PromptWarning, match="text_encoder' reads .* does not see the end"):
        told = pipe.encode_prompt("it moves down on " * 40, do_classifier_free_guidance=False)
    assert len({len(one) for one in told if one is not None}) == 1


@each
def test_each_prompt_has_so_many_videos(kind: str) -> None:
    pipe = pipe_of(kind)
    many = pipe(**call(kind, prompt=["a ring", "a dot"], num_videos_per_prompt=2, output_type="latent"))
    assert len(many.frames) == len(set(many.seeds)) == 4
    # One generator is drawn from once for each video, in order; the third is the first of the second prompt.
    generator = drawn(3)
    assert many.seeds == tuple(seed_of(generator) for _ in range(4))
    ahead = drawn(3)
    seed_of(ahead), seed_of(ahead)
    alone = pipe(**call(kind, prompt="a dot", generator=ahead, output_type="latent")).frames
    assert torch.equal(many.frames[2], alone[0])
    with pytest.raises(RecipeError, match="num_videos_per_prompt is 1 or more, not 0"):
        pipe(**call(kind, num_videos_per_prompt=0))


@each
def test_guidance_is_off_at_1_and_below(kind: str) -> None:
    pipe = pipe_of(kind)
    scales = {name: 1.0 for name in ("temporal_guidance_scale", "control_guidance_scale") if kind == "confiner"}
    off = pipe(**call(kind, guidance_scale=1.0, **scales))[0]
    assert not pipe.do_classifier_free_guidance
    assert np.array_equal(off, pipe(**call(kind, guidance_scale=0.0, negative_prompt="a dot", **scales))[0])
    on = pipe(**call(kind, guidance_scale=7.5, **scales))[0]
    assert on.shape == off.shape
    assert not np.array_equal(on, off)


def test_without_a_generator_torch_draws_the_seed() -> None:
    pipe = pipe_of("confiner")
    torch.manual_seed(5)
    one = pipe(**call("confiner", generator=None))
    torch.manual_seed(5)
    assert one.seeds == (seed_of(),)
    assert pipe(**call("confiner", generator=None)).seeds != one.seeds


@each
def test_latents_are_the_noise_that_a_call_begins_with(kind: str) -> None:
    pipe = pipe_of(kind)
    whole = pipe(**call(kind, output_type="latent"))
    stage = pipe.recipe(**KINDS[kind][3]).chain[0].stage
    noise = Noise(whole.seeds[0], stage).like(whole.frames, timeline(whole.frames.shape[2]), "start")
    given = pipe(**call(kind, output_type="latent", latents=noise)).frames
    assert torch.equal(given, whole.frames)
    assert not torch.equal(pipe(**call(kind, output_type="latent", latents=-noise)).frames, whole.frames)


# --- saving, loading, sharing --------------------------------------------------------------------------------------


@each
def test_what_is_saved_comes_back(kind: str, tmp_path: Path) -> None:
    make, _, scalars, _ = KINDS[kind]
    pipe = pipe_of(kind)
    pipe.save_pretrained(tmp_path)
    loaded = make.from_pretrained(tmp_path)
    loaded.set_progress_bar_config(disable=True)
    assert {name: loaded.config[name] for name in scalars} == scalars
    assert np.allclose(loaded(**call(kind))[0], pipe(**call(kind))[0], atol=5e-4)  # Files align weights otherwise.


@pytest.mark.parametrize("kind", [kind for kind in KINDS if KINDS[kind][0]._optional_components])
def test_what_is_left_out_stays_out(kind: str, tmp_path: Path) -> None:
    pipe = pipe_of(kind)
    before = pipe(**call(kind))[0]
    for name in pipe._optional_components:
        setattr(pipe, name, None)
    after = pipe(**call(kind))[0]
    assert np.array_equal(before, after) == (kind == "ltx")  # It had none.
    pipe.save_pretrained(tmp_path)
    loaded = KINDS[kind][0].from_pretrained(tmp_path)
    loaded.set_progress_bar_config(disable=True)
    assert all(getattr(loaded, name) is None for name in pipe._optional_components)
    assert np.allclose(loaded(**call(kind))[0], after, atol=5e-4)


STOCK = {
    "confiner": (StableDiffusionPipeline, {"safety_checker": None, "feature_extractor": None}),
    "flowblending": (WanPipeline, {}),
    "ltx": (LTXPipeline, {}),
    "syncos": (CogVideoXPipeline, {}),
}


@each
def test_a_pipeline_is_made_from_a_stock_one(kind: str) -> None:
    """Both share their networks, and each is as if it had been made alone."""
    make, _, scalars, _ = KINDS[kind]
    theirs, extra = STOCK[kind]
    shared = inspect.signature(theirs.__init__).parameters
    parts = {name: deepcopy(part) for name, part in made(kind).items()}
    stock = theirs(**{name: part for name, part in parts.items() if name in shared}, **extra)
    rest = {name: part for name, part in parts.items() if name not in shared}
    pipe = make.from_pipe(stock, **rest, **scalars)
    pipe.set_progress_bar_config(disable=True)
    assert pipe.vae is stock.vae
    assert np.array_equal(pipe(**call(kind))[0], pipe_of(kind)(**call(kind))[0])
    back = theirs.from_pipe(pipe, **extra)
    mine = {key: value for key, value in back.config.items() if not key.startswith("_")}
    assert mine == {key: value for key, value in stock.config.items() if not key.startswith("_")}


@each
def test_prompts_are_read_where_there_is_nothing_else(kind: str) -> None:
    """And what was read is all that a pipeline without text models needs; names are taken from the source, as diffusers
    does."""
    pipe, parts = pipe_of(kind), made(kind)
    reads = {name: part for name, part in parts.items() if "text" in name or "tokenizer" in name}
    only = KINDS[kind][0](**{**dict.fromkeys(parts), **reads})
    source = ast.parse(textwrap.dedent(inspect.getsource(only.encode_prompt)))
    (returned,) = (node.value for node in ast.walk(source) if isinstance(node, ast.Return))
    assert isinstance(returned, ast.Tuple)
    names = [name.id for name in returned.elts if isinstance(name, ast.Name)]
    embeds = dict(zip(names, only.encode_prompt("a red circle", "a dot"), strict=True))
    without = pipe_of(kind, **dict.fromkeys(reads))
    told = without(**call(kind, prompt=None, **embeds))[0]
    assert np.array_equal(told, pipe(**call(kind, negative_prompt="a dot"))[0])


# --- callbacks -----------------------------------------------------------------------------------------------------


@each
def test_a_callback_sees_what_it_asks_for(kind: str) -> None:
    pipe, seen = pipe_of(kind), []

    def look(pipe: Any, i: int, t: Tensor, tensors: dict[str, Any]) -> dict[str, Any]:
        seen.append((i, float(t), tuple(tensors)))
        assert pipe.current_timestep is t
        return tensors

    plain = pipe(**call(kind, output_type="latent"))[0]
    for names in (["latents"], pipe._callback_tensor_inputs):
        seen.clear()
        out = pipe(
            **call(
                kind,
                output_type="latent",
                callback_on_step_end=look,
                callback_on_step_end_tensor_inputs=names,
            )
        )[0]
        assert [i for i, *_ in seen] == list(range(pipe.num_timesteps))
        assert {asked for *_, asked in seen} == {tuple(names)}
        assert torch.equal(out, plain)
    times = [t for _, t, _ in seen]
    assert all(t > 0 for t in times)
    assert pipe.current_timestep is None


@each
def test_a_callback_changes_the_result(kind: str) -> None:
    pipe = pipe_of(kind)

    def blank(pipe: Any, i: int, t: Tensor, tensors: dict[str, Any]) -> dict[str, Any]:
        return {"latents": tensors["latents"] * (i < pipe.num_timesteps - 1)}

    out = pipe(**call(kind, output_type="latent", callback_on_step_end=blank))[0]
    assert not out.any()


@each
def test_latents_that_a_callback_changes_are_gone_on_with(kind: str) -> None:
    pipe, after = pipe_of(kind), []

    def noted(pipe: Any, i: int, t: Tensor, tensors: dict[str, Any]) -> dict[str, Any]:
        if i == 0:
            tensors["latents"].mul_(0.5)
        after.append(tensors["latents"].clone())
        return tensors

    out = pipe(**call(kind, output_type="latent", callback_on_step_end=noted))[0]
    assert torch.equal(out, after[-1])
    assert not torch.equal(out, pipe(**call(kind, output_type="latent"))[0])


@each
def test_guidance_that_a_callback_changes_is_read_at_the_next_step(kind: str) -> None:
    pipe = pipe_of(kind)

    def more(by: float) -> Any:
        def change(pipe: Any, i: int, t: Tensor, tensors: dict[str, Any]) -> dict[str, Any]:
            pipe._guidance_scale += by
            return tensors

        return change

    plain = pipe(**call(kind))[0]
    raised = pipe(**call(kind, callback_on_step_end=more(1.0)))[0]
    assert pipe.guidance_scale == 4.0 + pipe.num_timesteps
    assert not np.array_equal(raised, plain)
    assert np.array_equal(pipe(**call(kind, callback_on_step_end=more(0.0)))[0], plain)


@each
def test_embeddings_that_a_callback_changes_are_told_from_the_next_step_on(kind: str) -> None:
    pipe = pipe_of(kind)
    swapped = pipe.encode_prompt("a blue ring")[0]

    def swap(pipe: Any, i: int, t: Tensor, tensors: dict[str, Any]) -> dict[str, Any]:
        return {**tensors, "prompt_embeds": swapped} if i == 0 else tensors

    asked = {"callback_on_step_end_tensor_inputs": ["prompt_embeds"], "output_type": "latent"}
    mixed = pipe(**call(kind, callback_on_step_end=swap, **asked))[0]
    whole = [pipe(**call(kind, prompt=text, **asked))[0] for text in ("a red circle", "a blue ring")]
    assert not any(torch.equal(mixed, one) for one in whole)
    # As in the stock pipelines, what comes back counts even if only latents were asked for.
    assert torch.equal(pipe(**call(kind, callback_on_step_end=swap, output_type="latent"))[0], mixed)


class Cutoff(PipelineCallback):
    """No guidance after the first step, as diffusers' own cutoffs."""

    tensor_inputs = ["latents", "negative_prompt_embeds"]  # noqa: RUF012

    def callback_fn(self, pipeline: Any, step_index: int, timestep: Any, callback_kwargs: Any) -> Any:
        assert list(callback_kwargs) == self.tensor_inputs
        pipeline._guidance_scale = 0.0
        return callback_kwargs


def test_callbacks_of_diffusers_say_themselves_what_they_need() -> None:
    pipe = pipe_of("flowblending")
    out = pipe(**call("flowblending", callback_on_step_end=Cutoff(cutoff_step_ratio=None, cutoff_step_index=0)))[0]
    assert pipe.guidance_scale == 0
    assert not np.array_equal(out, pipe(**call("flowblending"))[0])


class Dimmed(PipelineCallback):
    """Halves latents after each step."""

    tensor_inputs = ["latents"]  # noqa: RUF012

    def callback_fn(self, pipeline: Any, step_index: int, timestep: Any, callback_kwargs: Any) -> Any:
        return {**callback_kwargs, "latents": callback_kwargs["latents"] / 2}


class Unguided(Cutoff):
    """`Cutoff` beside others, who may have asked for more."""

    def callback_fn(self, pipeline: Any, step_index: int, timestep: Any, callback_kwargs: Any) -> Any:
        assert {*self.tensor_inputs} <= callback_kwargs.keys()
        pipeline._guidance_scale = 0.0
        return callback_kwargs


def test_several_callbacks_of_diffusers_are_heard_in_turn() -> None:
    pipe, options = pipe_of("flowblending"), {"cutoff_step_ratio": None, "cutoff_step_index": 0}
    unguided, dimmed = Unguided(**options), Dimmed(**options)

    def heard(*callbacks: Any) -> Tensor:
        several = MultiPipelineCallbacks([*callbacks])
        latent: Tensor = pipe(**call("flowblending", output_type="latent", callback_on_step_end=several))[0]
        return latent

    both = heard(unguided, dimmed)
    assert pipe.guidance_scale == 0
    assert torch.equal(both, heard(dimmed, unguided))
    assert not any(torch.equal(both, one) for one in (heard(unguided), heard(dimmed), heard()))


@each
def test_an_interrupted_call_shows_what_it_saw_last(kind: str) -> None:
    pipe, steps = pipe_of(kind), []

    def stop(pipe: Any, i: int, t: Tensor, tensors: dict[str, Any]) -> dict[str, Any]:
        steps.append(i)
        pipe._interrupt = i == 1
        return tensors

    stopped = pipe(**call(kind, callback_on_step_end=stop))[0]
    assert steps == [0, 1]
    assert pipe.interrupt
    whole = pipe(**call(kind))[0]
    assert not pipe.interrupt
    assert stopped.shape == whole.shape
    assert not np.array_equal(stopped, whole)


@each
def test_the_bar_counts_all_steps(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pipe, bars = pipe_of(kind), []
    bar = pipe.progress_bar
    monkeypatch.setattr(pipe, "progress_bar", lambda total: bars.append(bar(total=total)) or bars[-1], raising=False)
    pipe(**call(kind, prompt=["a ring", "a dot"], output_type="latent"))
    assert [one.total for one in bars] == [pipe.num_timesteps]
    assert pipe.num_timesteps == KINDS[kind][3]["num_inference_steps"] + 2 * (kind == "confiner")


def test_a_call_leaves_weights_as_they_were() -> None:
    """They ask for no gradients while it lasts, and then as before, even after an error."""
    pipe = own("syncos")
    asks = {name: p.requires_grad for name, p in pipe.transformer.named_parameters()}
    before = deepcopy(pipe.transformer.state_dict())

    def look(pipe: Any, i: int, t: Tensor, tensors: dict[str, Any]) -> dict[str, Any]:
        assert not any(p.requires_grad for p in pipe.transformer.parameters())
        raise InterruptedError

    with pytest.raises(InterruptedError):
        pipe(**call("syncos", callback_on_step_end=look))
    assert any(asks.values())
    assert {name: p.requires_grad for name, p in pipe.transformer.named_parameters()} == asks
    assert all(torch.equal(value, before[name]) for name, value in pipe.transformer.state_dict().items())


# --- precision and place -------------------------------------------------------------------------------------------


@each
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_networks_of_half_precision_play(kind: str, dtype: torch.dtype) -> None:
    pipe = own(kind)
    whole = pipe(**call(kind))[0]
    pipe.to("cpu", dtype, silence_dtype_warnings=True)
    assert {part.dtype for part in pipe.components.values() if isinstance(part, nn.Module)} == {dtype}
    half = pipe(**call(kind))[0]
    assert np.corrcoef(whole.ravel(), half.ravel())[0, 1] > 0.99
    assert half.dtype == np.float32


NETWORK = {"confiner": "unet", "syncos": "transformer"}
two = pytest.mark.parametrize("kind", NETWORK)


@two
def test_a_variant_is_saved_and_loaded(kind: str, tmp_path: Path) -> None:
    pipe = own(kind).to(torch.float16, silence_dtype_warnings=True)
    pipe.save_pretrained(tmp_path, variant="fp16")
    assert {file.name.split(".")[1] for file in tmp_path.rglob("*.safetensors")} == {"fp16"}
    loaded = type(pipe).from_pretrained(tmp_path, variant="fp16", dtype=torch.float16)
    assert precisions(loaded) == dict.fromkeys(precisions(pipe), torch.float16)
    kept, found = (getattr(one, NETWORK[kind]).state_dict() for one in (pipe, loaded))
    assert all(torch.equal(tensor, found[name]) for name, tensor in kept.items())
    loaded.set_progress_bar_config(disable=True)
    near(loaded(**call(kind))[0], pipe(**call(kind))[0])


@two
def test_each_component_may_have_a_precision_of_its_own(kind: str, tmp_path: Path) -> None:
    pipe = pipe_of(kind)
    pipe.save_pretrained(tmp_path)
    asked = {NETWORK[kind]: torch.bfloat16, "default": torch.float32}
    loaded = type(pipe).from_pretrained(tmp_path, dtype=asked)
    assert precisions(loaded) == {name: asked.get(name, torch.float32) for name in precisions(pipe)}
    loaded.set_progress_bar_config(disable=True)
    near(loaded(**call(kind))[0], pipe(**call(kind))[0])


@two
def test_layers_may_be_stored_in_8_bits(kind: str) -> None:
    pipe = own(kind)
    plain, network = pipe(**call(kind))[0], getattr(pipe, NETWORK[kind])
    network.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=torch.float32)
    assert torch.float8_e4m3fn in {weight.dtype for weight in network.parameters()}
    stored = pipe(**call(kind))[0]
    assert not np.array_equal(stored, plain)
    near(stored, plain)


@two
def test_attention_may_be_computed_in_slices(kind: str) -> None:
    pipe = own(kind)
    plain = pipe(**call(kind))[0]
    pipe.enable_attention_slicing(1)
    assert np.allclose(pipe(**call(kind))[0], plain, atol=1e-4)


def precisions(pipe: Any) -> dict[str, torch.dtype]:
    return {name: part.dtype for name, part in pipe.components.items() if isinstance(part, nn.Module)}


def near(one: Any, two: Any) -> None:
    assert np.corrcoef(one.ravel(), two.ravel())[0, 1] > 0.99


@each
def test_no_expert_that_is_not_asked_is_on_the_device(kind: str) -> None:
    """Played with hooks that move nothing, for want of a device: components come when they are called, and go when no step
    asks them."""
    pipe = own(kind)
    plain = pipe(**call(kind))[0]
    pipe.enable_model_cpu_offload(device="cpu")
    names = {id(part): name for name, part in pipe.components.items() if isinstance(part, nn.Module)}
    here: set[str] = set()
    seen: list[tuple[str, ...]] = []
    for hook in pipe._all_hooks:
        watch(hook, names[id(hook.model)], here, seen)
    assert np.array_equal(pipe(**call(kind))[0], plain)
    experts = {name for name in names.values() if "unet" in name or "transformer" in name}
    turns = [tuple(sorted(experts & set(now))) for now in seen]
    assert all(len(now) <= 1 or now == ("temporal_unet", "unet") for now in turns)
    assert {name for now in seen for name in now} == set(names.values())
    changes = [now for i, now in enumerate(turns) if now and now != turns[i - 1]]
    assert len(changes) == {"confiner": 3, "flowblending": 3, "ltx": 3, "syncos": 1}[kind]
    assert all(hasattr(part, "_hf_hook") for part in pipe.components.values() if isinstance(part, nn.Module))
    assert np.array_equal(pipe(**call(kind))[0], plain)


@pytest.mark.parametrize("kind", ["confiner", "syncos"])
def test_layers_may_come_one_by_one(kind: str) -> None:
    pipe = own(kind)
    plain = pipe(**call(kind))[0]
    pipe.enable_group_offload(torch.device("cpu"), offload_type="leaf_level")
    assert np.array_equal(pipe(**call(kind))[0], plain)


def test_a_codec_whose_layers_come_one_by_one_does_not_come_as_a_whole() -> None:
    vae = tiny.vae()
    apply_group_offloading(vae, onload_device=torch.device("cpu"), offload_type="leaf_level")
    with present(vae, torch.device("meta")):  # A device that is another one, even here.
        assert {weight.device.type for weight in vae.parameters()} == {"cpu"}


@pytest.mark.filterwarnings("ignore")  # torch's compiler deprecates parts of torch as it is imported.
def test_compiled_components_play() -> None:
    pipe = own("flowblending")
    plain = pipe(**call("flowblending"))[0]
    for name in ("transformer", "transformer_2", "text_encoder", "vae"):
        setattr(pipe, name, torch.compile(getattr(pipe, name)))
    with torch.compiler.set_stance("force_eager"):  # Wrapped all the same.
        assert np.array_equal(pipe(**call("flowblending"))[0], plain)


def test_cogvideox_decodes_in_tiles_where_it_was_told_to() -> None:
    vae = tiny.cogvideox_vae()
    assert casting.codec(vae).at_once is None  # type: ignore[attr-defined]
    vae.enable_tiling(tile_sample_min_height=32, tile_sample_min_width=32)
    assert casting.codec(vae).at_once == vae.tile_latent_min_height  # type: ignore[attr-defined]


def watch(hook: Any, name: str, here: set[str], seen: list[tuple[str, ...]]) -> None:
    """Write down who is on the device whenever somebody comes."""
    come, go = hook.hook.pre_forward, hook.hook.init_hook

    def coming(module: Any, *args: Any, **options: Any) -> Any:
        before = hook.hook.prev_module_hook
        if before is not None:
            before.offload()
        here.add(name)
        seen.append(tuple(sorted(here)))
        return come(module, *args, **options)

    def going(module: Any) -> Any:
        here.discard(name)
        return go(module)

    hook.hook.pre_forward, hook.hook.init_hook = coming, going
