"""What a call asks for: how many videos, from which seeds, told what."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dovetail.errors import RecipeError, nearest

Generators = torch.Generator | list[torch.Generator] | None
Callback = Callable[..., Mapping[str, Any] | None] | None
"""(pipeline, step from 0, timestep, tensors by name) -> tensors by name, changed or not."""

Texts = str | list[str] | None
Embeds = Mapping[str, Tensor | None]
"""What experts are told, by the names that `encode_prompt` returns: a row for each video (and event)."""


def seed_of(generator: torch.Generator | None = None) -> int:
    """The seed that a pipeline takes from a generator (torch's own without one), by one draw.

    With it `dovetail.generate` makes the same video.

    >>> seed_of(torch.Generator().manual_seed(7)) == seed_of(torch.Generator().manual_seed(7))
    True
    """
    device = "cpu" if generator is None else generator.device
    return int(torch.randint(2**63 - 1, (1,), generator=generator, device=device))


def seeds_of(generator: Generators, count: int) -> tuple[int, ...]:
    """A seed for each video: one draw from each generator of a list, so many from one. Raises RecipeError."""
    if isinstance(generator, list) and len(generator) != count:
        raise RecipeError(f"generator: {len(generator)} generators came for {count} videos; give one for each, or one")
    return tuple(seed_of(one) for one in (generator if isinstance(generator, list) else [generator] * count))


@dataclass(frozen=True, eq=False)
class Asked:
    """What the videos of a call have in common.

    seeds: one for each. latents: unit noise "b c f h w" to begin with, else each seed's own. output_type: latent, np, pt
    or pil. return_dict: whether the answer is a VideoPipelineOutput, or a tuple. callback: called after each step with
    these tensors. shared: the texts that they are asked for, where those are known.
    """

    seeds: tuple[int, ...]
    latents: Tensor | None = None
    output_type: str = "np"
    return_dict: bool = True
    callback: Callback = None
    tensors: Sequence[str] = ("latents",)
    shared: tuple[str, ...] = ()


@dataclass(frozen=True)
class Read:
    """How prompts are read. guided: negative ones too; times: videos of each; events: texts that follow each prompt,
    one after another. Raises RecipeError for no videos."""

    guided: bool = True
    times: int = 1
    events: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.times < 1:
            raise RecipeError(f"num_videos_per_prompt is 1 or more, not {self.times}")


def videos_of(prompt: Texts, embeds: Tensor | None, read: Read) -> int:
    """How many videos are asked for. Raises RecipeError."""
    texts = texts_of("prompt_embeds", prompt, embeds)
    if texts is not None:
        return len(texts) * read.times
    assert embeds is not None
    each = len(read.events) or 1
    if len(embeds) % each:
        raise RecipeError(f"prompt_embeds: {len(embeds)} rows came, but each video needs {each}, one for each event")
    return len(embeds) // each * read.times


OUTPUTS = ("latent", "np", "pt", "pil")


def checked(output: str, names: Sequence[str], known: Sequence[str]) -> None:
    """Raise RecipeError for an output, or a tensor for callbacks, that does not exist."""
    if output not in OUTPUTS:
        raise RecipeError(f"output_type: unknown value '{output}'; {nearest(output, OUTPUTS)}")
    for name in names:
        if name not in known:
            raise RecipeError(
                f"callback_on_step_end_tensor_inputs: no tensor is called '{name}'; {nearest(name, known)}"
            )


def texts_of(
    name: str, given: Texts, embeds: Tensor | None, count: int | None = None, empty: str | None = None
) -> list[str] | None:
    """A call's texts, `count` of them; None where embeddings are given instead, by `name`. empty: what no text stands
    for.

    Raises RecipeError for both, neither, a wrong number, or what is no text.
    """
    what = "negative_prompt" if name.startswith("negative_") else "prompt"
    if given is not None and embeds is not None:
        raise RecipeError(f"{what} and {name} both say what is asked for; give one of them")
    if embeds is not None:
        return None
    given = empty if given is None else given
    if given is None:
        raise RecipeError(f"a call needs {what} or {name}, and neither came")
    texts = [given] * (count or 1) if isinstance(given, str) else given
    if not isinstance(texts, list) or not texts or not all(isinstance(text, str) for text in texts):
        raise RecipeError(f"{what} is a text or a list of texts, not {given!r}")
    if count is not None and len(texts) != count:
        raise RecipeError(f"{what}: {len(texts)} texts came for {count} prompts; give one for each, or one")
    return texts


def repeated(rows: Tensor, times: int, together: int = 1) -> Tensor:
    """Each row so many times in a row; `together` rows that follow one another are repeated as one.

    >>> repeated(torch.tensor([[0.0], [1.0]]), 2).flatten().tolist()
    [0.0, 0.0, 1.0, 1.0]
    """
    return rows.reshape(-1, together, *rows.shape[1:]).repeat_interleave(times, 0).flatten(0, 1)
