"""FlowBlending as a diffusers pipeline: a large expert, a small one between."""

from functools import partial
from typing import Any

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

from dovetail.errors import RecipeError
from dovetail.experts import FAMILIES
from dovetail.experts.schedulers import ladder_of
from dovetail.pipelines import casting
from dovetail.pipelines.asking import Callback, Embeds, Read, videos_of
from dovetail.pipelines.face import EMBEDS, Face, VideoPipelineOutput, plays
from dovetail.pipelines.usual import usual_of
from dovetail.recipe import Recipe
from dovetail.run import Cast

EARLY, LATE = 0.4, 0.2
"""The shares of steps that the large expert takes first and last in the paper (arXiv:2512.24724)."""


class FlowBlendingPipeline(Face):
    """FlowBlending (Song et al., 2025, arXiv:2512.24724): the large expert lays the structure and draws the detail, the
    small one takes the steps between. For Wan, LTX-Video and CogVideoX.

    transformer, small_transformer: the two, of one latent space and one text model. transformer_2: takes the last steps
    in place of `transformer`, as the low-noise expert of Wan 2.2 A14B does. scheduler: that of `transformer`; it says
    the noise levels and which solver walks them. boundaries: shares of noise at which experts change, from noise to
    video; without them, after the first 40 % and before the last 20 % of steps, as in the paper.
    """

    # Experts are in no chain: they take turns, so who goes is known from the plan and not from who is called.
    model_cpu_offload_seq = "text_encoder->vae"
    _optional_components = ["transformer_2"]  # noqa: RUF012
    _callback_tensor_inputs = ["latents", *EMBEDS]  # noqa: RUF012

    def __init__(
        self,
        tokenizer: T5Tokenizer,
        text_encoder: UMT5EncoderModel | T5EncoderModel,
        vae: AutoencoderKLWan | AutoencoderKLLTXVideo | AutoencoderKLCogVideoX,
        scheduler: SchedulerMixin,
        transformer: WanTransformer3DModel | LTXVideoTransformer3DModel | CogVideoXTransformer3DModel,
        small_transformer: WanTransformer3DModel | LTXVideoTransformer3DModel | CogVideoXTransformer3DModel,
        transformer_2: WanTransformer3DModel | LTXVideoTransformer3DModel | CogVideoXTransformer3DModel | None = None,
        boundaries: list[float] | None = None,
    ) -> None:
        super().__init__()
        self.register_modules(
            tokenizer=tokenizer,
            text_encoder=text_encoder,
            vae=vae,
            scheduler=scheduler,
            transformer=transformer,
            small_transformer=small_transformer,
            transformer_2=transformer_2,
        )
        self.register_to_config(boundaries=boundaries)

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
    ) -> tuple[Tensor | None, ...]:
        """What experts are told: "b l d", masks "b l" where the network wants them (LTX-Video); a row for each
        video."""
        masks = prompt_attention_mask, negative_prompt_attention_mask
        given = dict(zip(EMBEDS, (prompt_embeds, negative_prompt_embeds, *masks), strict=True))
        read = Read(do_classifier_free_guidance, num_videos_per_prompt)
        found = self._encoded(given, prompt, negative_prompt, read)
        prompt_embeds, negative_prompt_embeds = (found[name] for name in EMBEDS[:2])
        prompt_attention_mask, negative_prompt_attention_mask = (found[name] for name in EMBEDS[2:])
        return prompt_embeds, negative_prompt_embeds, prompt_attention_mask, negative_prompt_attention_mask

    def recipe(
        self,
        prompt: str = "",
        negative_prompt: str = "",
        *,
        height: int | None = None,
        width: int | None = None,
        num_frames: int | None = None,
        num_inference_steps: int = 50,
        guidance_scale: float | None = None,
        guidance_scale_2: float | None = None,
        frame_rate: float | None = None,
        seed: int = 0,
    ) -> Recipe:
        """What a call plays. Name `weights` in it, and `dovetail.generate` plays it too. Raises RecipeError."""
        families = {name: casting.family_of(module) for name, module in self._networks().items()}
        if len(set(families.values())) > 1:
            raise RecipeError(f"experts that take turns are of one family, and these are not: {families}")
        usual = usual_of(families["large"])
        guided = max(1.0, usual.guidance if guidance_scale is None else float(guidance_scale))
        large, small = ({"expert": name, "guidance": guided, "joint": usual.joint} for name in ("large", "small"))
        last = large if self.transformer_2 is None else {**large, "expert": "low"}
        if guidance_scale_2 is not None:
            last = {**last, "guidance": max(1.0, float(guidance_scale_2))}
        video = usual.video(num_frames, height, width, frame_rate, seed)
        high, low = self._boundaries(num_inference_steps, video)
        blended = {f"above {high:.6f}": large, f"above {low:.6f}": small, "else": last}
        if f"{high:.6f}" == f"{low:.6f}":  # Nothing lies between them.
            blended = {f"above {high:.6f}": large, "else": last}
        stage = {
            "stage": "video",
            "ladder": {"own": {"of": "large", "steps": num_inference_steps}},
            "solver": casting.solver_of(self.scheduler),
            "denoise": {"blended": blended},
        }
        return casting.written(prompt, negative_prompt, video, families, [stage])

    def _networks(self) -> dict[str, Any]:
        """Networks by the names that they have in a recipe."""
        last = {} if self.transformer_2 is None else {"low": self.transformer_2}
        return {"large": self.transformer, "small": self.small_transformer, **last}

    def _boundaries(self, steps: int, video: dict[str, Any]) -> tuple[float, float]:
        told = self.config.boundaries
        if told is not None:
            if len(told) != 2 or not 1 >= told[0] >= told[1] >= 0:
                raise RecipeError(
                    f"boundaries are two shares of noise in [0, 1], the second below the first, not {told}"
                )
            return told[0], told[1]
        space = casting.codec(self.vae).space
        factor, family = space.factor or 1, FAMILIES[casting.family_of(self.transformer)]
        tokens = space.latent_frames(video["frames"]) * (video["height"] // factor) * (video["width"] // factor)
        ladder = ladder_of(casting.config_of(self.scheduler), steps, tokens=tokens, even=family.even)
        return ladder.between(round(EARLY * steps)), ladder.between(steps - round(LATE * steps))

    def _cast(self, embeds: Embeds, asked: list[str], against: list[str], recipe: Recipe) -> Cast:
        codec, experts = casting.codec(self.vae), {}
        for name, module in self._networks().items():
            told = casting.told(embeds, asked, against, module.dtype)
            experts[name] = casting.expert(name, module, self.scheduler, told, codec, recipe.video.fps)
        return Cast(experts, codec)

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
        guidance_scale_2: float | None = None,
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
    ) -> VideoPipelineOutput | tuple[Any]:
        """Videos of prompts; what is not said is as in the family's stock pipeline.

        guidance_scale_2: of the expert that takes the last steps. frame_rate: for networks that are told (LTX-Video).
        latents: unit noise "b c f h w" to begin with. Raises RecipeError, NetworkError.
        """
        usual = usual_of(casting.family_of(self.transformer))
        self._guidance_scale = usual.guidance if guidance_scale is None else guidance_scale
        asked = self._asked(
            videos_of(prompt, prompt_embeds, Read(times=num_videos_per_prompt)),
            generator,
            latents,
            output_type,
            return_dict,
            callback_on_step_end,
            callback_on_step_end_tensor_inputs,
        )
        embeds = self.encode_prompt(
            prompt,
            negative_prompt,
            max(self.guidance_scale, guidance_scale_2 or 0) > 1,
            num_videos_per_prompt,
            prompt_embeds,
            negative_prompt_embeds,
            prompt_attention_mask,
            negative_prompt_attention_mask,
        )
        recipe = partial(
            self.recipe,
            height=height,
            width=width,
            num_frames=num_frames,
            num_inference_steps=num_inference_steps,
            guidance_scale_2=guidance_scale_2,
            frame_rate=frame_rate,
        )
        return self._played(asked, lambda scale: recipe(guidance_scale=scale), dict(zip(EMBEDS, embeds, strict=True)))
