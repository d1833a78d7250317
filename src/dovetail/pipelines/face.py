"""What the pipelines have in common: a call's videos, walked side by side, with all that diffusers' callers expect.

Nothing here samples: steps are those of `dovetail.core`, stages those that `dovetail.recipe` builds, and checks those
of `dovetail.run`. Design page: docs/decisions/0022-a-diffusers-face.md.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import wraps
from typing import Any, ClassVar

import torch
from diffusers import DiffusionPipeline
from diffusers.callbacks import MultiPipelineCallbacks, PipelineCallback
from diffusers.utils import BaseOutput
from diffusers.video_processor import VideoProcessor
from torch import Tensor, nn

from dovetail import recipe as recipes
from dovetail.core.noise import Noise
from dovetail.core.stages import Stage
from dovetail.errors import RecipeError
from dovetail.experts import FAMILIES
from dovetail.experts.adapter import Text
from dovetail.experts.assembling import TEXTS, reader
from dovetail.pipelines.asking import Asked, Embeds, Generators, Read, Texts, checked, repeated, seeds_of, texts_of
from dovetail.pipelines.casting import bare, family_of, rows
from dovetail.pipelines.walking import Place, Way, places_of, starting_with
from dovetail.recipe import Recipe
from dovetail.recipe.planning import Count, Ledger
from dovetail.recipe.story import joined
from dovetail.run import Cast
from dovetail.run.decoding import pixels_of
from dovetail.run.given import warn_of_story
from dovetail.run.playing import Ready, ready

EMBEDS = ("prompt_embeds", "negative_prompt_embeds", "prompt_attention_mask", "negative_prompt_attention_mask")
"""What `encode_prompt` returns where there is one text model."""


@dataclass
class VideoPipelineOutput(BaseOutput):  # type: ignore[misc]
    """Videos, as `output_type` says: np "b f h w c" and pt "b f c h w" in [0, 1], pil a list of lists, latent "b c f h
    w".

    seeds: with which `dovetail.generate` makes each of them.
    """

    frames: Any
    seeds: tuple[int, ...] = ()


def plays(call: Callable[..., Any]) -> Callable[..., Any]:
    """A `__call__` without gradients.

    Some kernels go by whether weights ask for gradients even where none are kept, and answer a little differently. So
    that a call makes what `dovetail.generate` makes, weights ask for none until it ends.
    """

    @wraps(call)
    def played(self: "Face", *args: Any, **options: Any) -> Any:
        modules = [part for part in self.components.values() if isinstance(part, nn.Module)]
        asking = [(module, name) for module in modules for name, p in module.named_parameters() if p.requires_grad]
        for module, name in asking:
            module.get_parameter(name).requires_grad_(False)
        try:
            with torch.no_grad():
                return call(self, *args, **options)
        finally:
            for module, name in asking:  # By name: offload may have put others in their places.
                module.get_parameter(name).requires_grad_(True)

    return played


class Face(DiffusionPipeline):  # type: ignore[misc]
    """A pipeline that plays a recipe with its components."""

    _guidance_scale = 1.0
    _num_timesteps = 0
    _current_timestep: Tensor | None = None
    _interrupt = False
    _words_alone: ClassVar[dict[str, Any]] = {}
    """What a network's config would say of its texts, where there is no network."""

    @property
    def guidance_scale(self) -> float:
        """Read at every step, so a callback may change `_guidance_scale`. 1 or less is no guidance."""
        return self._guidance_scale

    @property
    def do_classifier_free_guidance(self) -> bool:
        return self._guidance_scale > 1

    @property
    def num_timesteps(self) -> int:
        """Steps of all stages."""
        return self._num_timesteps

    @property
    def current_timestep(self) -> Tensor | None:
        return self._current_timestep

    @property
    def interrupt(self) -> bool:
        """Set `_interrupt` in a callback, and the call ends with what was last seen to be the video."""
        return self._interrupt

    def _words(self, prefix: str = "") -> Text:
        """The text model that reads for the embeddings of this prefix. Raises RecipeError where it is not there."""
        tokenizer, encoder = (getattr(self, f"{prefix}{part}") for part in ("tokenizer", "text_encoder"))
        if tokenizer is None or encoder is None:
            raise RecipeError(
                f"this pipeline has no {prefix}tokenizer or no {prefix}text_encoder, so it reads no text; give "
                f"{prefix}prompt_embeds, and negative_{prefix}prompt_embeds where there is guidance"
            )
        transformer = getattr(self, "transformer", None)
        fits = tuple(TEXTS) if transformer is None else FAMILIES[family_of(transformer)].texts
        if (found := type(bare(encoder)).__name__) not in fits:
            raise RecipeError(f"{prefix}text_encoder: a {found} is not read with here; take a {' or a '.join(fits)}")
        config = self._words_alone if transformer is None else transformer.config
        return reader(tokenizer, bare(encoder), config, f"{prefix}text_encoder")

    def _encoded(self, given: Embeds, prompts: Texts, negatives: Texts, read: Read, prefix: str = "") -> Embeds:
        """Embeddings, and masks where the text model has them, by name; what was given stays.

        Each text is read alone, so that what it means does not depend on the texts it came with.
        """
        positive, negative = f"{prefix}prompt", f"negative_{prefix}prompt"
        texts = texts_of(f"{positive}_embeds", prompts, given[f"{positive}_embeds"])
        found = dict(given)
        if texts is not None:
            told = [joined(text, event) for text in texts for event in read.events] if read.events else texts
            found |= self._rows(positive, told, prefix)
        together, first = len(read.events) or 1, found[f"{positive}_embeds"]
        assert first is not None
        if read.guided:
            count, other = len(first) // together, f"{negative}_embeds"
            texts = texts_of(other, negatives, given[other], count, "")
            found |= {} if texts is None else self._rows(negative, texts, prefix)
        device, each = self._execution_device, {name: 1 if name.startswith("negative_") else together for name in found}
        return {
            name: None if told is None else repeated(told, read.times, each[name]).to(device)
            for name, told in found.items()
        }

    def _rows(self, name: str, texts: list[str], prefix: str) -> dict[str, Tensor | None]:
        text = self._words(prefix)
        hidden, mask = rows([text(one) for one in texts])
        return {f"{name}_embeds": hidden, f"{name}_attention_mask": mask}

    def _asked(
        self,
        count: int,
        generator: Generators,
        latents: Tensor | None,
        output_type: str,
        return_dict: bool,
        callback: Any,
        tensors: list[str],
        shared: Texts = None,
    ) -> Asked:
        """What so many videos have in common; see `Asked`. Raises RecipeError."""
        if isinstance(callback, PipelineCallback | MultiPipelineCallbacks):
            tensors = callback.tensor_inputs
        checked(output_type, tensors, self._callback_tensor_inputs)
        texts = (shared,) if isinstance(shared, str) else tuple(shared or ())
        return Asked(seeds_of(generator, count), latents, output_type, return_dict, callback, tuple(tensors), texts)

    def _cast(self, embeds: Embeds, asked: list[str], against: list[str], recipe: Recipe) -> Cast:
        """The components as experts, who are told these embeddings; see `casting.told`."""
        raise NotImplementedError

    def _played(
        self, asked: Asked, recipe: Callable[[float], Recipe], embeds: Embeds
    ) -> VideoPipelineOutput | tuple[Any]:
        """Make the videos of a call. recipe: what is played at this guidance, apart from texts and seeds."""
        run = self._ready(asked, recipe(self.guidance_scale), embeds)
        latents = self._walked(run, asked, recipe, embeds)
        frames = self._shown(run.cast, latents, asked.output_type)
        self.maybe_free_model_hooks()
        return VideoPipelineOutput(frames, asked.seeds) if asked.return_dict else (frames,)

    def _ready(self, asked: Asked, recipe: Recipe, embeds: Embeds) -> Ready:
        """The first video's run; all that can be checked is."""
        keyed = [_keyed(recipe, i, seed) for i, seed in enumerate(asked.seeds)]
        for name, told in embeds.items():
            need = sum(1 if name.startswith("negative_") else len(_texts(one)) for one in keyed)
            if told is not None and len(told) != need:
                raise RecipeError(f"{name}: {len(told)} rows came, and these videos need {need}")
        run = ready(keyed[0], self._cast(embeds, *_all_texts(keyed), recipe), quiet=True)
        for text in dict.fromkeys(asked.shared):
            warn_of_story(recipes.changed(recipe, {"prompt": text}), run.plan)
        frames, channels, *cells = run.latent
        wanted = (len(keyed), channels, frames, *cells)
        if asked.latents is not None and asked.latents.shape != wanted:
            raise RecipeError(
                f"latents: {tuple(asked.latents.shape)} came; what fits is unit noise {wanted}: videos, channels, latent "
                "frames, height and width"
            )
        return run

    def _stages(self, run: Ready, asked: Asked, recipe: Recipe, embeds: Embeds) -> list[tuple[Stage, ...]]:
        """The stages of each video."""
        keyed = [_keyed(recipe, i, seed) for i, seed in enumerate(asked.seeds)]
        cast = self._cast(embeds, *_all_texts(keyed), recipe)
        noises = [None] * len(keyed) if asked.latents is None else torch.split(asked.latents, 1)
        return [
            starting_with(replace(run, recipe=one, cast=cast).stages(Ledger(Count)), noise)
            for one, noise in zip(keyed, noises, strict=True)
        ]

    def _walked(self, run: Ready, asked: Asked, recipe: Callable[[float], Recipe], embeds: Embeds) -> list[Tensor]:
        """The latents "1 c f h w" of all videos."""
        places, here = places_of(run), frozenset[str]()
        self._num_timesteps, self._interrupt = len(places), False
        stages = self._stages(run, asked, recipe(self.guidance_scale), embeds)
        ways = [Way.begin(run.latent) for _ in asked.seeds]
        with self.progress_bar(total=len(places)) as bar:
            for place in places:
                if self.interrupt:
                    break
                self._current_timestep = place.timestep
                if here != place.asked:
                    here = place.asked
                    self._room(*(run.cast.experts[name].network.module for name in here))  # type: ignore[attr-defined]
                ways = [
                    way.onward(mine[place.stage], place, Noise(seed))
                    for way, mine, seed in zip(ways, stages, asked.seeds, strict=True)
                ]
                if asked.callback is not None:
                    before = self.guidance_scale, embeds
                    ways, embeds = self._heard(asked, place, ways, embeds)
                    if before[0] != self.guidance_scale or before[1] is not embeds:
                        stages = self._stages(run, asked, recipe(self.guidance_scale), embeds)
                bar.update()
        self._current_timestep = None
        return [way.video for way in ways]

    def _heard(self, asked: Asked, place: Place, ways: list[Way], embeds: Embeds) -> tuple[list[Way], Embeds]:
        """What the callback leaves of latents and embeddings after a step; the same embeddings if it has not touched
        them."""
        assert asked.callback is not None
        known = {"latents": torch.cat([way.x for way in ways]).to(self._execution_device), **embeds}
        said = asked.callback(self, place.number, place.timestep, {name: known[name] for name in asked.tensors}) or {}
        left = {**known, **said}
        for name, tensor in known.items():
            if tensor is not None and (left[name] is None or left[name].shape != tensor.shape):
                came = "nothing" if left[name] is None else tuple(left[name].shape)
                raise RecipeError(f"callback_on_step_end: {name} was {tuple(tensor.shape)}, and {came} came back")
        latents = torch.split(left["latents"].to("cpu", torch.float32), 1)
        touched = embeds.keys() & {*asked.tensors, *said}  # Those that were shown may have been changed in place.
        ways = [way.at(x, place) for way, x in zip(ways, latents, strict=True)]
        return ways, {name: left[name] for name in embeds} if touched else embeds

    def _room(self, *modules: nn.Module) -> None:
        """With `enable_model_cpu_offload`, send away all components but these. A component comes when it is called; who
        goes is known from the plan."""
        for hook in getattr(self, "_all_hooks", ()):
            if all(hook.model is not module for module in modules):
                hook.offload()

    def _shown(self, cast: Cast, latents: list[Tensor], output_type: str) -> Any:
        """Latents "1 c f h w" as the caller wants the videos."""
        if output_type == "latent":
            return torch.cat(latents).to(self._execution_device)
        self._room(self.vae)
        for hook in getattr(self, "_all_hooks", ()):
            if hook.model is self.vae:  # A codec may call its parts, which hooks on the whole do not notice.
                hook.hook.pre_forward(self.vae)
        pixels = torch.cat([pixels_of(cast.codec, latent) for latent in latents]).transpose(1, 2)
        frames = VideoProcessor().postprocess_video(pixels, output_type)
        return frames.to(self._execution_device) if output_type == "pt" else frames


def _keyed(recipe: Recipe, number: int, seed: int) -> Recipe:
    """The recipe of one video, its texts replaced by what stands for them, so that each video is told its own."""
    changes: dict[str, Any] = {"prompt": f"video {number}", "negative": f"not video {number}", "video.seed": seed}
    events = () if recipe.story is None else recipe.story.events
    return recipes.changed(recipe, changes | {f"story.events.{k}.text": f"event {k}" for k in range(len(events))})


def _texts(recipe: Recipe) -> list[str]:
    """All that is asked for in a recipe's video, without negatives."""
    if recipe.story is None:
        return [recipe.prompt]
    return [joined(recipe.prompt, event.text) for event in recipe.story.events]


def _all_texts(recipes_: list[Recipe]) -> tuple[list[str], list[str]]:
    """All that is asked for in several videos, and against."""
    return [text for one in recipes_ for text in _texts(one)], [one.negative for one in recipes_]
