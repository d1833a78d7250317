"""SynCoS as a diffusers pipeline: one long video in overlapping windows, of one story or of several events."""

from functools import partial
from typing import Any, ClassVar

import torch
from diffusers import (
    AutoencoderKLCogVideoX,
    AutoencoderKLLTXVideo,
    AutoencoderKLWan,
    CogVideoXTransformer3DModel,
    LTXVideoTransformer3DModel,
    SchedulerMixin,
    WanTransformer3DModel,
)
from torch import Tensor
from transformers import T5EncoderModel, T5Tokenizer, UMT5EncoderModel

from dovetail.pipelines import casting
from dovetail.pipelines.asking import Callback, Embeds, Read, videos_of
from dovetail.pipelines.face import EMBEDS, Face, VideoPipelineOutput, plays
from dovetail.pipelines.usual import usual_of
from dovetail.recipe import Recipe
from dovetail.run import Cast

Events = list[str] | dict[int, str] | None
"""What happens, one after another: evenly spread, or from these frames of the video on."""


class SynCoSPipeline(Face):
    """SynCoS (Kim et al., 2025, arXiv:2503.08605): windows of a long video that agree on one video before each step at
    high noise. For CogVideoX, Wan and LTX-Video.

    scheduler: it says the noise levels and which solver walks them. window: in latent frames, by default the family's
    usual clip; stride: from window to window, by default a third of it. floor, iterations, rate, kernel: of the
    agreeing, see `dovetail.methods.syncos`. first: how much the first latent frame of an inner window counts. by_frame:
    whether each frame of a window is told the event at it, where the network can be (not CogVideoX's), or, as published,
    the window what lies at its middle.
    """

    # The transformer is in no chain: it comes when it is called, and goes when all steps are taken.
    model_cpu_offload_seq = "text_encoder->vae"
    _callback_tensor_inputs = ["latents", *EMBEDS]  # noqa: RUF012
    _words_alone: ClassVar[dict[str, Any]] = {"max_text_seq_length": 226}

    def __init__(
        self,
        tokenizer: T5Tokenizer,
        text_encoder: T5EncoderModel | UMT5EncoderModel,
        vae: AutoencoderKLCogVideoX | AutoencoderKLWan | AutoencoderKLLTXVideo,
        transformer: CogVideoXTransformer3DModel | WanTransformer3DModel | LTXVideoTransformer3DModel,
        scheduler: SchedulerMixin,
        window: int | None = None,
        stride: int | None = None,
        floor: float = 0.95,
        iterations: int = 4,
        rate: float = 1.0,
        kernel: str = "stein",
        first: float = 0.1,
        by_frame: bool = False,
    ) -> None:
        super().__init__()
        self.register_modules(
            tokenizer=tokenizer, text_encoder=text_encoder, vae=vae, transformer=transformer, scheduler=scheduler
        )
        self.register_to_config(window=window, stride=stride, floor=floor, iterations=iterations)
        self.register_to_config(rate=rate, kernel=kernel, first=first, by_frame=by_frame)

    def encode_prompt(
        self,
        prompt: str | list[str] | None = None,
        negative_prompt: str | list[str] | None = None,
        do_classifier_free_guidance: bool = True,
        num_videos_per_prompt: int = 1,
        prompt_embeds: Tensor | None = None,
        negative_prompt_embeds: Tensor | None = None,
        prompt_attention_mask: Tensor | None = None,
        negative_prompt_attention_mask: Tensor | None = None,
        events: Events = None,
    ) -> tuple[Tensor | None, ...]:
        """What the expert is told: "b l d", masks "b l" where the network wants them (LTX-Video). A row for each video;
        with events one for each of them, behind the prompt that they share, video by video."""
        masks = prompt_attention_mask, negative_prompt_attention_mask
        given = dict(zip(EMBEDS, (prompt_embeds, negative_prompt_embeds, *masks), strict=True))
        read = Read(do_classifier_free_guidance, num_videos_per_prompt, _texts(events))
        found = self._encoded(given, prompt, negative_prompt, read)
        prompt_embeds, negative_prompt_embeds = (found[name] for name in EMBEDS[:2])
        prompt_attention_mask, negative_prompt_attention_mask = (found[name] for name in EMBEDS[2:])
        return prompt_embeds, negative_prompt_embeds, prompt_attention_mask, negative_prompt_attention_mask

    def recipe(
        self,
        prompt: str = "",
        negative_prompt: str = "",
        *,
        events: Events = None,
        height: int | None = None,
        width: int | None = None,
        num_frames: int | None = None,
        num_inference_steps: int = 50,
        guidance_scale: float | None = None,
        frame_rate: float | None = None,
        seed: int = 0,
    ) -> Recipe:
        """What a call plays. Name `weights` in it, and `dovetail.generate` plays it too. Raises RecipeError."""
        family, told = casting.family_of(self.transformer), self.config
        usual = usual_of(family)
        guided = max(1.0, usual.guidance if guidance_scale is None else float(guidance_scale))
        size = told.window or casting.codec(self.vae).space.latent_frames(usual.frames)
        coupled = {
            "of": {"expert": "base", "guidance": guided, "joint": usual.joint},
            "size": size,
            "stride": told.stride or max(1, size // 3),
            "first": float(told.first),
            "floor": float(told.floor),
            "iterations": told.iterations,
            "rate": float(told.rate),
            "kernel": told.kernel,
        }
        stage = {
            "stage": "video",
            "ladder": {"own": {"of": "base", "steps": num_inference_steps}},
            "solver": casting.solver_of(self.scheduler),
            "denoise": {"coupled": coupled},
        }
        video = usual.video(num_frames, height, width, frame_rate, seed)
        story = _story(events, "frame" if told.by_frame else None)
        return casting.written(prompt, negative_prompt, video, {"base": family}, [stage], story)

    def _cast(self, embeds: Embeds, asked: list[str], against: list[str], recipe: Recipe) -> Cast:
        codec, told = casting.codec(self.vae), casting.told(embeds, asked, against, self.transformer.dtype)
        base = casting.expert("base", self.transformer, self.scheduler, told, codec, recipe.video.fps)
        return Cast({"base": base}, codec)

    @plays
    def __call__(
        self,
        prompt: str | list[str] | None = None,
        negative_prompt: str | list[str] | None = None,
        height: int | None = None,
        width: int | None = None,
        num_frames: int | None = None,
        num_inference_steps: int = 50,
        guidance_scale: float | None = None,
        frame_rate: float | None = None,
        num_videos_per_prompt: int = 1,
        generator: torch.Generator | list[torch.Generator] | None = None,
        latents: Tensor | None = None,
        prompt_embeds: Tensor | None = None,
        negative_prompt_embeds: Tensor | None = None,
        prompt_attention_mask: Tensor | None = None,
        negative_prompt_attention_mask: Tensor | None = None,
        output_type: str = "np",
        return_dict: bool = True,
        callback_on_step_end: Callback = None,
        callback_on_step_end_tensor_inputs: list[str] = ["latents"],  # noqa: B006
        events: Events = None,
    ) -> VideoPipelineOutput | tuple[Any]:
        """Videos of prompts; what is not said is as in the family's stock pipeline.

        events: what happens in each video, one after another; the prompt is then the text that they share, and
        `prompt_embeds` has a row for each event. latents: unit noise "b c f h w" to begin with. frame_rate: for
        networks that are told (LTX-Video). Raises RecipeError, NetworkError; warns with StoryWarning.
        """
        usual = usual_of(casting.family_of(self.transformer))
        self._guidance_scale = usual.guidance if guidance_scale is None else guidance_scale
        read = Read(True, num_videos_per_prompt, _texts(events))
        asked = self._asked(
            videos_of(prompt, prompt_embeds, read),
            generator,
            latents,
            output_type,
            return_dict,
            callback_on_step_end,
            callback_on_step_end_tensor_inputs,
            prompt if events else None,
        )
        embeds = self.encode_prompt(
            prompt,
            negative_prompt,
            self.do_classifier_free_guidance,
            num_videos_per_prompt,
            prompt_embeds,
            negative_prompt_embeds,
            prompt_attention_mask,
            negative_prompt_attention_mask,
            events,
        )
        recipe = partial(
            self.recipe,
            events=events,
            height=height,
            width=width,
            num_frames=num_frames,
            num_inference_steps=num_inference_steps,
            frame_rate=frame_rate,
        )
        return self._played(asked, lambda scale: recipe(guidance_scale=scale), dict(zip(EMBEDS, embeds, strict=True)))


def _texts(events: Events) -> tuple[str, ...]:
    return tuple(events.values() if isinstance(events, dict) else events or ())


def _story(events: Events, by: str | None) -> dict[str, Any] | None:
    """Events as a recipe's story has them."""
    if not events:
        return None
    if isinstance(events, dict):
        return {"events": [{"text": text, "at": f"{frame}f"} for frame, text in events.items()], "by": by}
    return {"events": [{"text": text} for text in events], "by": by}
