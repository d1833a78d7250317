"""ConFiner as a diffusers pipeline: a fast expert drafts, an image expert and a video expert refine in turns."""

from functools import partial
from typing import Any

import torch
from diffusers import AutoencoderKL, SchedulerMixin, UNet2DConditionModel, UNet3DConditionModel, UNetMotionModel
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer

from dovetail.pipelines import casting
from dovetail.pipelines.asking import Callback, Embeds, Read, videos_of
from dovetail.pipelines.face import Face, VideoPipelineOutput, plays
from dovetail.pipelines.usual import IMAGES
from dovetail.recipe import Recipe
from dovetail.run import Cast

PREFIXES = ("", "control_", "temporal_")
CLIPS = tuple(f"{start}{prefix}prompt_embeds" for prefix in PREFIXES for start in ("", "negative_"))
"""What `encode_prompt` returns."""


class ConFinerPipeline(Face):
    """ConFiner (Li et al., 2024, arXiv:2408.13423) with Stable Diffusion 1.5, AnimateDiff and ModelScope.

    vae, text_encoder, tokenizer, unet, scheduler: of Stable Diffusion, the spatial expert, so that `from_pipe` takes
    them from a StableDiffusionPipeline. control_...: of AnimateDiff, the control expert; its scheduler says the levels
    of the draft and which solver walks them. temporal_...: of ModelScope, the temporal expert. Either may have a text
    model of its own, as ModelScope does, and without one reads with the spatial expert's. refine_timestep,
    refine_steps: T_e and the number of steps from there.
    """

    # Experts are in no chain: two take turns within a step, so who goes is known from the plan and not from who is called.
    model_cpu_offload_seq = "text_encoder->control_text_encoder->temporal_text_encoder->vae"
    _optional_components = [  # noqa: RUF012
        "control_text_encoder",
        "control_tokenizer",
        "temporal_text_encoder",
        "temporal_tokenizer",
    ]
    _callback_tensor_inputs = ["latents", *CLIPS]  # noqa: RUF012

    def __init__(
        self,
        vae: AutoencoderKL,
        text_encoder: CLIPTextModel,
        tokenizer: CLIPTokenizer,
        unet: UNet2DConditionModel,
        scheduler: SchedulerMixin,
        control_unet: UNetMotionModel,
        control_scheduler: SchedulerMixin,
        temporal_unet: UNet3DConditionModel,
        temporal_scheduler: SchedulerMixin,
        control_text_encoder: CLIPTextModel | None = None,
        control_tokenizer: CLIPTokenizer | None = None,
        temporal_text_encoder: CLIPTextModel | None = None,
        temporal_tokenizer: CLIPTokenizer | None = None,
        refine_timestep: int = 100,
        refine_steps: int = 5,
    ) -> None:
        super().__init__()
        self.register_modules(
            vae=vae,
            text_encoder=text_encoder,
            tokenizer=tokenizer,
            unet=unet,
            scheduler=scheduler,
            control_unet=control_unet,
            control_scheduler=control_scheduler,
            temporal_unet=temporal_unet,
            temporal_scheduler=temporal_scheduler,
            control_text_encoder=control_text_encoder,
            control_tokenizer=control_tokenizer,
            temporal_text_encoder=temporal_text_encoder,
            temporal_tokenizer=temporal_tokenizer,
        )
        self.register_to_config(refine_timestep=refine_timestep, refine_steps=refine_steps)

    def encode_prompt(
        self,
        prompt: str | list[str] | None = None,
        negative_prompt: str | list[str] | None = None,
        do_classifier_free_guidance: bool = True,
        num_videos_per_prompt: int = 1,
        prompt_embeds: Tensor | None = None,
        negative_prompt_embeds: Tensor | None = None,
        control_prompt_embeds: Tensor | None = None,
        negative_control_prompt_embeds: Tensor | None = None,
        temporal_prompt_embeds: Tensor | None = None,
        negative_temporal_prompt_embeds: Tensor | None = None,
    ) -> tuple[Tensor | None, ...]:
        """What experts are told, "b l d": the spatial one, and the control and the temporal one where they have text
        models of their own; a row for each video."""
        control = control_prompt_embeds, negative_control_prompt_embeds
        temporal = temporal_prompt_embeds, negative_temporal_prompt_embeds
        found = dict(zip(CLIPS, (prompt_embeds, negative_prompt_embeds, *control, *temporal), strict=True))
        read = Read(do_classifier_free_guidance, num_videos_per_prompt)
        for prefix in PREFIXES:
            given_already = found[f"{prefix}prompt_embeds"] is not None
            if prefix == "" or given_already or getattr(self, f"{prefix}text_encoder") is not None:
                given = {name: found[name] for name in (f"{prefix}prompt_embeds", f"negative_{prefix}prompt_embeds")}
                found |= self._encoded(given, prompt, negative_prompt, read, prefix)
        prompt_embeds, negative_prompt_embeds = (found[name] for name in CLIPS[:2])
        control_prompt_embeds, negative_control_prompt_embeds = (found[name] for name in CLIPS[2:4])
        temporal_prompt_embeds, negative_temporal_prompt_embeds = (found[name] for name in CLIPS[4:])
        return (
            prompt_embeds,
            negative_prompt_embeds,
            control_prompt_embeds,
            negative_control_prompt_embeds,
            temporal_prompt_embeds,
            negative_temporal_prompt_embeds,
        )

    def recipe(
        self,
        prompt: str = "",
        negative_prompt: str = "",
        *,
        height: int | None = None,
        width: int | None = None,
        num_frames: int | None = None,
        num_inference_steps: int = 4,
        guidance_scale: float = 7.5,
        temporal_guidance_scale: float = 9.0,
        control_guidance_scale: float = 1.0,
        seed: int = 0,
    ) -> Recipe:
        """What a call plays. Name `weights` in it, and `dovetail.generate` plays it too. Raises RecipeError."""
        scales = {"control": control_guidance_scale, "spatial": guidance_scale, "temporal": temporal_guidance_scale}
        leaf = {name: {"expert": name, "guidance": max(1.0, float(scale))} for name, scale in scales.items()}
        draft = {
            "stage": "structure",
            "ladder": {"own": {"of": "control", "steps": num_inference_steps}},
            "solver": casting.solver_of(self.control_scheduler),
            "denoise": leaf["control"],
        }
        below = {"of": "spatial", "timestep": self.config.refine_timestep, "steps": self.config.refine_steps}
        refine = {
            "stage": "refine",
            "ladder": {"below": below},
            "denoise": {"coordinated": {"spatial": {"framewise": leaf["spatial"]}, "temporal": leaf["temporal"]}},
        }
        video = IMAGES.video(num_frames, height, width, None, seed)
        networks = {"control": self.control_unet, "spatial": self.unet, "temporal": self.temporal_unet}
        families = {name: casting.family_of(module) for name, module in networks.items()}
        return casting.written(prompt, negative_prompt, video, families, [draft, refine])

    def _cast(self, embeds: Embeds, asked: list[str], against: list[str], recipe: Recipe) -> Cast:
        codec, experts = casting.codec(self.vae), {}
        parts = {
            "control": (self.control_unet, self.control_scheduler, "control_"),
            "spatial": (self.unet, self.scheduler, ""),
            "temporal": (self.temporal_unet, self.temporal_scheduler, "temporal_"),
        }
        for name, (module, scheduler, prefix) in parts.items():
            prefix = "" if embeds[f"{prefix}prompt_embeds"] is None else prefix
            told = casting.told(embeds, asked, against, module.dtype, prefix)
            experts[name] = casting.expert(name, module, scheduler, told, codec)
        return Cast(experts, codec)

    @plays
    def __call__(
        self,
        prompt: str | list[str] | None = None,
        negative_prompt: str | list[str] | None = None,
        height: int | None = None,
        width: int | None = None,
        num_frames: int | None = None,
        num_inference_steps: int = 4,
        guidance_scale: float = 7.5,
        temporal_guidance_scale: float = 9.0,
        control_guidance_scale: float = 1.0,
        num_videos_per_prompt: int = 1,
        generator: torch.Generator | list[torch.Generator] | None = None,
        latents: Tensor | None = None,
        prompt_embeds: Tensor | None = None,
        negative_prompt_embeds: Tensor | None = None,
        control_prompt_embeds: Tensor | None = None,
        negative_control_prompt_embeds: Tensor | None = None,
        temporal_prompt_embeds: Tensor | None = None,
        negative_temporal_prompt_embeds: Tensor | None = None,
        output_type: str = "np",
        return_dict: bool = True,
        callback_on_step_end: Callback = None,
        callback_on_step_end_tensor_inputs: list[str] = ["latents"],  # noqa: B006
    ) -> VideoPipelineOutput | tuple[Any]:
        """Videos of prompts: `num_inference_steps` of the draft, then `refine_steps`.

        guidance_scale: the spatial expert's. latents: unit noise "b c f h w" to begin the draft with. Steps are counted
        on from stage to stage, for callbacks and the progress bar. Raises RecipeError, NetworkError.
        """
        self._guidance_scale = guidance_scale
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
            max(guidance_scale, temporal_guidance_scale, control_guidance_scale) > 1,
            num_videos_per_prompt,
            prompt_embeds,
            negative_prompt_embeds,
            control_prompt_embeds,
            negative_control_prompt_embeds,
            temporal_prompt_embeds,
            negative_temporal_prompt_embeds,
        )
        recipe = partial(
            self.recipe,
            height=height,
            width=width,
            num_frames=num_frames,
            num_inference_steps=num_inference_steps,
            temporal_guidance_scale=temporal_guidance_scale,
            control_guidance_scale=control_guidance_scale,
        )
        return self._played(asked, lambda scale: recipe(guidance_scale=scale), dict(zip(CLIPS, embeds, strict=True)))
