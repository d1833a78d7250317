"""The next segments of a run that is there, as a run of its own: its pieces given, the rest made.

Two runs that continue one, with other strategies, have the same segment before them: ConFiner-Long's Figure 5.
"""

import hashlib
import json
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from dovetail import recipe as recipes
from dovetail.core.stages import Memory, Sequel, Stage
from dovetail.errors import OutputError, RecipeError, RunWarning
from dovetail.recipe import Overrides, Recipe
from dovetail.recipe.models import Hold
from dovetail.run.cast import Cast, load
from dovetail.run.events import End, Piece, Step
from dovetail.run.folder import Folder, Origin
from dovetail.run.keeping import folder_of, keep, refuse_others
from dovetail.run.manifest import machine, sources, versions, weights_of
from dovetail.run.onward import goes_on, places, windows_begun
from dovetail.run.outlook import latent_of
from dovetail.run.playing import Ready, ready
from dovetail.run.pulse import Pulse
from dovetail.run.sealed import DamagedError
from dovetail.run.states import Standing
from dovetail.run.telling import Telling, counted, fitted, further, native, since, tale
from dovetail.run.verbs import resolved
from dovetail.video import checked_output


def continuing(
    source: str | Path,
    prompt: str | None = None,
    *,
    frames: int | None = None,
    seconds: float | None = None,
    story: Telling | None = None,
    seed: int | None = None,
    overrides: Overrides = (),
) -> Recipe:
    """The recipe of a run that continues another by so many frames or seconds; as many as its first stage's window
    without. A story's events stay where they were, its last one goes on, and those of `story` come behind them. Another
    prompt is that of the new windows; where windows overlap, so that frames that are there are made anew, it is told as
    part of the events from there on, and what was the prompt as part of those before.

    Raises OutputError if there is no run, RecipeError as `resolved` and where the video's length is set in `overrides`.
    """
    overrides = recipes.by_path(overrides)
    if "video.frames" in overrides:
        raise RecipeError("video.frames: a run goes on by so many frames or seconds; say those (--frames, --seconds)")
    before = Folder(Path(source)).read()
    if before.bridged:
        raise RecipeError(
            f"{source} is a run whose stages are joined through pixels, and such a run is not continued; make the longer video "
            "anew, with --frames"
        )
    if joint := [stage.stage for stage in before.chain if stage.window is None]:
        raise RecipeError(
            f"{source} cannot be continued: its stage {joint[0]} works on the whole video at once, so another length is "
            "another video; make the longer video anew, with --frames"
        )
    if frames is not None and seconds is not None:
        raise RecipeError("frames and seconds both say how much longer the video is; give one of them")
    if frames is not None and frames < 1:
        raise RecipeError(f"frames: {frames} came; a run goes on by 1 or more")
    told, stop = further(before, None if story is None else tale(story))
    end = before.video.frames
    if frames is not None:
        stop = end + frames
    elif seconds is not None:
        stop = fitted(before, end + counted(before, seconds))
    elif stop is None:
        stop = fitted(before, end + native(before))
    changed = recipes.changed(before, {**told, "video.frames": stop})
    new = bool(prompt and prompt.strip() and before.prompt.strip()) and prompt != before.prompt
    if new and _remade(before):
        changed, prompt = recipes.changed(changed, {"prompt": "", "story": since(before, changed, prompt or "")}), None
    return resolved(prompt, changed, seed=seed, overrides=overrides)


def _remade(recipe: Recipe) -> bool:
    """Whether frames that are there are made anew where it goes on, since windows overlap: then another prompt has to say
    from which frame on it is meant."""
    return any(stage.overlaps for stage in recipe.chain)


def carry_on(
    source: str | Path,
    recipe: Recipe,
    target: str | Path,
    folder: str | Path | None = None,
    cast: Cast | None = None,
    pulse: Pulse | None = None,
) -> Iterator[Step | Piece | End]:
    """Run a recipe from `continuing` in a folder of its own, which begins with the pieces of another run.

    Given are those pieces that hang on nothing of the other run's end; what lies behind them is made anew, which a
    RunWarning says where it is more than a window. Raises and warns as `keep`; RecipeError for a recipe that cannot go on
    from the other run.
    """
    place = Folder(folder_of(target) if folder is None else Path(folder))
    for one in (place, Folder(Path(source))):
        one.refuse(target)
    checked_output(target, recipe.video.fps)
    if place.path.resolve() == Path(source).resolve():
        raise OutputError(f"{source} is continued in a folder of its own; take another name (-o or --run)")
    with place.locked():
        cast = load(recipe) if cast is None else cast
        given = _give(Folder(Path(source)), place, ready(recipe, cast, quiet=True), Path(target))
    yield from keep(recipe, target, place.path, cast, given, pulse)


def _give(source: Folder, folder: Folder, run: Ready, target: Path) -> dict[str, Any]:
    """Write the pieces of the source that stay, and where it stood after them; what a manifest says of that."""
    origin, before = source.origin(), source.read()
    if origin is None:
        raise OutputError(f"{source} has no manifest that can be read; `dovetail resume` writes it again")
    _same_windows(before, run.recipe)
    stands = _last_common(source, origin.identity, before, run)
    _warn_of_remade(source, before, run, stands.frames)
    found = hashlib.sha256()
    for latent in _given(source, origin, stands.pieces):
        found.update(latent.contiguous().numpy().data)
    given: dict[str, Any] = {"pieces": stands.pieces, "sha256": found.hexdigest()}
    ours = Origin(recipes.plain(run.recipe), versions(), weights_of(run.cast), given)
    refuse_others(folder, ours)
    if folder.origin() is not None:
        return given
    for path in (folder.latent(0).parent, folder.state(0).parent):
        path.mkdir(parents=True, exist_ok=True)
    first = 0
    for number, latent in enumerate(_given(source, origin, stands.pieces)):
        first += latent.shape[2]
        here = stands if number == stands.pieces - 1 else Standing(pieces=number + 1, frames=first)
        folder.keep(ours.identity, latent, here, [stands.pieces - 1])
        if here is not stands:
            folder.state(number).unlink()
    folder.write(ours, target, {**machine(), **sources(run.recipe)})
    folder.log("given", by=str(source), pieces=stands.pieces)
    return given


def _warn_of_remade(source: Folder, before: Recipe, run: Ready, kept: int) -> None:
    """Warn with RunWarning where more than a window is made anew: averaged windows run far ahead of what is finished.

    kept: latent frames that are given.
    """
    space, now = run.cast.codec.space, run.recipe
    if latent_of(before, space)[0] - kept <= (run.plan.stages[-1].window or 0):
        return
    frames = (kept - 1) * (space.compression or 1) + 1
    changed = "" if before.video.seed == now.video.seed else ", with another seed"
    said = (
        f"of the {before.video.frames} frames of {source} the first {frames} are kept as they are. Those behind them are made "
        f"anew{changed}: windows that overlap run ahead of what is finished. Recipes "
        "whose windows stand side by side, as sprites-long-paper, keep all but the last half window"
    )
    warnings.warn(said, RunWarning, stacklevel=2)


def _given(source: Folder, origin: Origin, pieces: int) -> Iterator[Tensor]:
    """The first pieces of a run, one at a time. Raises OutputError where one is damaged."""
    try:
        for number in range(pieces):
            yield source.piece(origin.identity, number)
    except DamagedError as error:
        raise OutputError(f"{source}: {error}; `dovetail resume` makes it again") from None


def _same_windows(before: Recipe, now: Recipe) -> None:
    """Raise RecipeError unless what the other run holds can be gone on with."""
    fits: dict[str, tuple[Any, Any]] = {
        "video.height": (before.video.height, now.video.height),
        "video.width": (before.video.width, now.video.width),
        "codec": (before.codec, now.codec),
        "chain": ([stage.stage for stage in before.chain], [stage.stage for stage in now.chain]),
    }
    for one, other in zip(before.chain, now.chain, strict=False):
        keys = ["window", "hop", "offset", "ends"]
        if one.overlaps:
            keys += ["weights", "ladder", "solver"]
        if one.hold and other.hold:
            fits[f"chain.{one.stage}.hold"] = _held(one.hold), _held(other.hold)
        fits |= {f"chain.{one.stage}.{key}": (getattr(one, key), getattr(other, key)) for key in keys}
    for path, (then, asked) in fits.items():
        if then != asked:
            raise RecipeError(
                f"{path}: a run goes on with what is half made, so this stays as it was: "
                f"{json.dumps(then, default=str)}, not {json.dumps(asked, default=str)}"
            )


def _held(hold: Hold) -> str:
    """What a run remembers of its first window."""
    return "colours, places and objects" if hold.objects else "colours and places" if hold.within else "colours"


def _last_common(source: Folder, identity: str, before: Recipe, run: Ready) -> Standing:
    """Where the source stood last while all its windows were those of the longer video."""
    length = latent_of(before, run.cast.codec.space)[0]
    pieces = sum(1 for _ in run.plan.stages[-1].windows(length))
    for number in range(pieces - 1, -1, -1):
        try:
            stands = source.standing(identity, number)
        except DamagedError:
            continue
        assert stands.memory is not None
        if goes_on(run.plan.stages, stands.memory, length, run.latent[0]):
            windows = windows_begun(run.plan.stages, stands.memory)
            _knows_before(source, run.plan.stages, stands.memory)
            steps = {
                stage.name: stands.steps.get(stage.name, 0) if stage.fuses else many * stage.ladder.steps
                for stage, many in zip(run.plan.stages, windows, strict=True)
            }
            return replace(stands, steps=steps)
    ahead, window = sum(stage.lead for stage in run.plan.stages), run.plan.stages[-1].window or 0
    needed = (ahead + window if ahead else 2 * window) - 1
    raise RecipeError(
        f"{source} has no piece that is far enough from its end to go on from, and whose state is whole: a run of this "
        f"recipe takes some {needed * (run.cast.codec.space.compression or 1) + 1} frames for that"
        + (", since windows that overlap run ahead of what is finished" if ahead else "")
        + "; make the longer video anew, with --frames"
    )


def _knows_before(source: Folder, stages: Sequence[Stage], memory: Memory) -> None:
    """Raise RecipeError where a method goes by the segment before, and the source kept no such thing of it."""
    for stage, place in zip(stages, places(stages, memory), strict=True):
        if not isinstance(stage.denoise, Sequel):
            continue
        seen = () if place.before is None else tuple(state.t for state in place.before.states)
        if seen != tuple(stage.ladder.levels[:-1]):
            what = "no states of its segments" if not seen else "states at other levels than this recipe's"
            raise RecipeError(
                f"chain.{stage.name}: it goes by the segment before at every level, but {source} kept {what}. Make that "
                "run with the same ladder and method; coherent with strength 0 changes nothing, and is enough"
            )
