"""Stages whose latents differ, joined through pixels: what each works on, and the way from one to the next.

Design page: docs/decisions/0023-spaces-and-bridges.md.
"""

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from itertools import islice, pairwise
from typing import TYPE_CHECKING

import torch
from einops import rearrange
from torch import Tensor
from torch.nn.functional import interpolate

from dovetail.core.windows import along
from dovetail.errors import RecipeError
from dovetail.recipe import Recipe, models
from dovetail.recipe.planning import Plan
from dovetail.recipe.rooms import Room, frame_by_frame
from dovetail.run.blackout import seen
from dovetail.run.outlook import latent_of

if TYPE_CHECKING:
    from dovetail.experts import LatentSpace
    from dovetail.run.cast import Codec


def codec_names(recipe: Recipe) -> dict[str, str]:
    """What each stage's codec is called in plans and budgets, by the stage; stages with one codec say one name."""
    from dovetail.experts.residency import CODEC

    known: list[tuple[models.Codec, str]] = [(recipe.codec, CODEC)]
    found = {}
    for stage in recipe.chain:
        spec = recipe.codec_of(stage.stage)
        if spec not in [one for one, _ in known]:
            known.append((spec, f"(codec of {recipe.room(stage.stage).stage})"))
        found[stage.stage] = next(name for one, name in known if one == spec)
    return found


def codecs_of(recipe: Recipe) -> dict[str, models.Codec]:
    """A recipe's codecs by these names, the video's among them."""
    names = codec_names(recipe)
    return {names[stage.stage]: recipe.codec_of(stage.stage) for stage in recipe.chain}


def crossing(plan: Plan) -> dict[int, frozenset[str]]:
    """The codecs, by name, that a step needs because video comes over a bridge before it, by the step."""
    names, before = codec_names(plan.recipe), _before(plan.recipe)
    found: dict[int, frozenset[str]] = {}
    for step, stage, _ in plan.crossings:
        found[step] = found.get(step, frozenset()) | {names[before[stage]], names[stage]}
    return found


def carried(plan: Plan) -> Iterator[tuple[str, int, bool]]:
    """For both sides of each bridge: the stage, how many of its latent frames cross at once, and whether they are encoded
    there (or else decoded)."""
    before = _before(plan.recipe)
    for _, stage, length in plan.crossings:
        one, two = plan.rooms[before[stage]], plan.rooms[stage]
        yield before[stage], length, False
        yield stage, length if frame_by_frame(one, two) else two.latent[0], True


def _before(recipe: Recipe) -> dict[str, str]:
    return {stage.stage: before.stage for before, stage in pairwise(recipe.chain)}


def rooms_of(
    recipe: Recipe, spaces: Mapping[str, "LatentSpace"], patches: Mapping[str, int] | None = None
) -> dict[str, Room]:
    """What each stage works on, by its name; nothing for a recipe without a bridge.

    spaces: of each stage's latents; patches: latent cells along each side of what its networks take for one token. The
    last latents are those of the video. Those before a bridge have as many frames as the ones behind it, or the next
    number that their autoencoder makes; what is too many is left out on the bridge.

    Raises RecipeError for frames and sizes that do not fit, and for a bridge that would have to wait for a video that
    comes in pieces.
    """
    if not recipe.bridged:
        return {}
    found: dict[str, Room] = {}
    frames = recipe.video.frames
    for stage in reversed(recipe.chain):
        begins, space = recipe.room(stage.stage), spaces[stage.stage]
        inside = [one.stage for one in recipe.chain if recipe.room(one.stage) is begins]
        if inside[-1] == stage.stage:
            frames = space.whole(frames) if found else frames
            room = _room(recipe, begins, space, frames, max((patches or {}).get(name, 1) for name in inside))
        found[stage.stage] = room
    for before, stage in pairwise(recipe.chain):
        if stage.bridge is not None:
            _check_pieces(recipe, before.stage, stage.stage, found)
    return {stage.stage: found[stage.stage] for stage in recipe.chain}


def _room(recipe: Recipe, begins: models.Stage, space: "LatentSpace", frames: int, patch: int) -> Room:
    """The latents that begin with a stage."""
    height, width = begins.height or recipe.video.height, begins.width or recipe.video.width
    sized = recipe.video.model_copy(update={"frames": frames, "height": height, "width": width})
    try:
        latent = latent_of(recipe.model_copy(update={"video": sized}), space, patch)
    except RecipeError as error:
        where = f"chain.{begins.stage}, {width}x{height}: " if begins.latents else ""
        raise RecipeError(f"{where}{error}") from None
    return Room(frames, (height, width), space.channels, latent, space.vae or "pixels")


def _check_pieces(recipe: Recipe, before: str, after: str, rooms: Mapping[str, Room]) -> None:
    """Raise RecipeError where pieces of a video come over a bridge that takes it whole."""
    one, two = rooms[before], rooms[after]
    if frame_by_frame(one, two):
        return
    stage = next(stage for stage in recipe.chain if stage.stage == before)
    length = one.latent[0]
    windows = along(length, stage.window or length, stage.hop, stage.offset)
    if sum(1 for _ in islice(windows, 2)) > 1:
        slow = one if not one.framewise else two
        raise RecipeError(
            f"chain.{after}.bridge: stage '{before}' comes in pieces (window {stage.window} of {length} latent frames), but "
            f"the autoencoder {slow.called} takes several frames of a video together, so this bridge takes the whole video. "
            f"Leave out the window of '{before}' (`windowed` in its denoiser works on a whole video), or bridge between "
            "autoencoders of single frames"
        )


@dataclass(frozen=True, eq=False)
class Pixels:
    """A bridge: latents of one codec to frames, resized, to latents of another.

    rooms: on both sides. clock: of the time that codecs take.
    """

    before: "Codec"
    after: "Codec"
    rooms: tuple[Room, Room]
    clock: AbstractContextManager[None] = field(default_factory=nullcontext)

    @property
    def length(self) -> int:
        """Latent frames behind it."""
        return self.rooms[1].latent[0]

    @torch.no_grad()
    def __call__(self, video: Tensor) -> Tensor:
        """The latent "b c f h w" behind the bridge of one before it: of a piece if both codecs know single frames, else
        of the whole video, whose last frames are left out where there are too many."""
        one, two = self.rooms
        with self.clock:
            pieces = seen(self.before, lambda codec: codec.stream(video), lambda pixels: resized(pixels, two.pixels))
            frames = torch.cat(pieces, 1)
            return self.after.encode(frames if frame_by_frame(one, two) else frames[:, : two.frames])


def resized(frames: Tensor, size: tuple[int, int]) -> Tensor:
    """Frames "b f c h w" in [-1, 1] at another height and width."""
    if tuple(frames.shape[-2:]) == size:
        return frames
    flat = rearrange(frames, "b f c h w -> (b f) c h w")
    small = interpolate(flat, size, mode="bicubic", antialias=True).clamp(-1, 1)
    return rearrange(small, "(b f) c h w -> b f c h w", b=len(frames))


def bridges_of(
    recipe: Recipe, rooms: Mapping[str, Room], codec_at: Mapping[str, "Codec"], clock: AbstractContextManager[None]
) -> dict[str, Pixels]:
    """The bridges of a recipe, by the stages that they lead into."""
    return {
        stage.stage: Pixels(
            codec_at[before.stage], codec_at[stage.stage], (rooms[before.stage], rooms[stage.stage]), clock
        )
        for before, stage in pairwise(recipe.chain)
        if stage.bridge is not None
    }


def described(plan: Plan, stage: str) -> Iterator[str]:
    """How a plan's stage comes to its latents, as lines of text; none where they are those of the stage before."""
    names = [one.name for one in plan.stages]
    if stage not in plan.rooms:
        return
    room, place = plan.rooms[stage], names.index(stage)
    if place == 0:
        yield f"latents of {_said(room)}"
    elif plan.recipe.room(stage).stage == stage:
        before = plan.rooms[names[place - 1]]
        how = "frame by frame" if frame_by_frame(before, room) else "once the whole video is there"
        left = before.frames - room.frames
        (high, wide), (height, width) = before.pixels, room.pixels
        stretched = "; its shape is stretched" if abs(high * width / (wide * height) - 1) > 0.02 else ""
        yield f"bridge through pixels, {how}: {_said(before)}"
        yield f"  to {_said(room)}" + (f"; the last {left} frame(s) are left out" if left else "") + stretched


def _said(room: Room) -> str:
    (height, width), (length, high, wide) = room.pixels, room.latent
    return (
        f"{room.called}: {room.frames} frames of {width}x{height}, latent {room.channels} x {length} x {high} x {wide}"
    )
