"""Runs as commands make them: written as they come, or kept in folders; shown while they go on."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any

import typer
from rich.markup import escape

from dovetail import recipe as recipes
from dovetail.cli.saying import err, say, waiting
from dovetail.recipe import Recipe

if TYPE_CHECKING:
    from dovetail.run import Cast, End, Piece, Pulse, Step
    from dovetail.video import Frames, Growing

    Happening = Step | Piece | End


def play(
    recipe: Recipe,
    target: Path,
    count: int,
    inputs: Sequence[Path] = (),
    run: Path | None = None,
    onto: Path | None = None,
    preview: bool = False,
    prompts: Sequence[str] = (),
    cast: "Cast | None" = None,
) -> None:
    """Run the recipe for `count` seeds from its own on, and write what comes; `inputs` are not to be replaced.

    run: a folder to keep the run in. onto: a run to go on from. prompts: in the place of the recipe's own, each for all
    seeds. cast: loaded already.
    """
    from dovetail.run import Pulse, carry_on, folder_of, load, worth_keeping
    from dovetail.run.folder import Folder
    from dovetail.video import checked_output, save_image, stacked

    if run is not None and (count > 1 or len(prompts) > 1):
        how = "--count" if count > 1 else "--prompts"
        raise typer.BadParameter(f"--run names the folder of one run, and {how} makes several; leave one out")
    if run is not None:
        Folder(run).refuse(target)
    kept: list[str | Path] = [*inputs, *([recipe.start.video] if recipe.start else [])]
    checked_output(target, recipe.video.fps, kept)
    runs = _several(recipe, target, count, prompts)
    for path in runs:
        checked_output(path, recipe.video.fps, kept)
    with waiting("loading"):
        cast = load(recipe) if cast is None else cast
    folders = {}
    if run is not None or onto is not None or worth_keeping(recipe, cast):
        folders = {path: run or folder_of(path) for path in runs}
    pulse = Pulse()
    events = _kept(runs, folders, cast, pulse) if folders else _written(runs, cast, pulse)
    if onto is not None:
        _name(folders[target])
        events = ((0, event) for event in carry_on(onto, recipe, target, run, cast, pulse))
    strips = []
    for path, strip, said in followed(runs, events, preview, folders, pulse):
        strips += strip
        say(summary(said, path))
    if len(runs) > 1 and strips:
        say(str(save_image(stacked(strips), target.with_name(f"{target.stem}-sheet.png"))))


def _several(recipe: Recipe, target: Path, count: int, prompts: Sequence[str]) -> dict[Path, Recipe]:
    """Where each video goes: by the number of its prompt, where there is a list of these, and by its seed, of several."""
    made = {"": recipe}
    if prompts:
        made = {f"-{i}": recipes.changed(recipe, {"prompt": prompt}) for i, prompt in enumerate(prompts, 1)}
    if count > 1:
        seeds = range(recipe.video.seed, recipe.video.seed + count)
        made = {
            f"{name}-{seed}": recipes.changed(one, {"video.seed": seed}) for name, one in made.items() for seed in seeds
        }
    return {target.with_name(f"{target.stem}{name}{target.suffix}"): one for name, one in made.items()}


def _kept(
    runs: Mapping[Path, Recipe], folders: Mapping[Path, Path], cast: "Cast", pulse: "Pulse"
) -> "Iterator[tuple[int, Happening]]":
    """Runs one after another, each in its folder."""
    from dovetail.run import keep

    for run, (path, recipe) in enumerate(runs.items()):
        _name(folders[path])
        yield from ((run, event) for event in keep(recipe, path, folders[path], cast, pulse=pulse))


def _name(folder: Path) -> None:
    """Say where a run is kept, so that whoever stops it in whatever way knows what to go on with."""
    err.print(f"run: {escape(str(folder))}", soft_wrap=True, highlight=False)


def _written(runs: Mapping[Path, Recipe], cast: "Cast", pulse: "Pulse") -> "Iterator[tuple[int, Happening]]":
    """Runs without folders: each piece is written as it is finished, and nothing stays of a run that is stopped.

    An encoder takes some twenty megabytes: it comes with the first piece and goes with the last one.
    """
    from dovetail.run import End, Piece, together
    from dovetail.video import writing

    paths, asked = list(runs), list(runs.values())
    with ExitStack() as files:
        # Each file has a stack of its own, so that it takes its name as soon as its run ends.
        stacks = [files.enter_context(ExitStack()) for _ in runs]
        growing: dict[int, Growing] = {}
        for run, event in together(asked, cast, pulse):
            if isinstance(event, Piece):
                if run not in growing:
                    growing[run] = stacks[run].enter_context(writing(paths[run], asked[run].video.fps))
                growing[run].add(event.frames)
            elif isinstance(event, End):
                growing.pop(run).settings = event.settings
                stacks[run].close()
            yield run, event


def followed(
    runs: Mapping[Path, Recipe],
    events: "Iterator[tuple[int, Happening]]",
    preview: bool,
    folders: Mapping[Path, Path],
    pulse: "Pulse",
) -> "Iterator[tuple[Path, list[Frames], Mapping[str, Any]]]":
    """Show runs as they go on (quiet when stderr is no terminal); of each that ends its path, its strip, its settings.

    Of the videos only what a strip and a preview show is kept. A run that was gone on with has no strip.
    """
    import numpy as np

    from dovetail.cli.progress import Preview, bar
    from dovetail.run import End, Piece
    from dovetail.video import Video, evenly, strip

    paths, asked = list(runs), list(runs.values())
    previews = [
        Preview(path.with_name(f"{path.stem}-preview.png"), [(span.start, span.text) for span in recipe.spans()])
        for path, recipe in runs.items()
        if preview
    ]
    kept: list[list[Any]] = [[] for _ in runs]
    with _stopped(folders), bar(err, len(runs), pulse) as shown:
        for run, event in events:
            if isinstance(event, End):
                picked = evenly(asked[run].video.frames)
                whole = len(kept[run]) == len(picked)
                if preview and not previews[run].kept:  # it was finished before
                    previews[run].whole(_filmed(folders[paths[run]]))
                yield paths[run], [strip(Video(np.stack(kept[run]), 1.0))] if whole else [], event.settings
                continue
            shown.show(run, event)
            if isinstance(event, Piece):
                picked = evenly(asked[run].video.frames)
                kept[run] += [frame for i, frame in enumerate(event.frames, event.first) if i in picked]
                if preview:
                    if event.first and not previews[run].kept:
                        previews[run].earlier(_filmed(folders[paths[run]]), event)
                    previews[run].add(event)


def _filmed(folder: Path) -> "Iterator[Frames]":
    """The frames of a run's film, as they stand in it."""
    from dovetail.run.folder import Folder
    from dovetail.video.footage import Footage

    return Footage.of(Folder(folder).video).frames()


@contextmanager
def _stopped(folders: Mapping[Path, Path]) -> Iterator[None]:
    """Who presses Ctrl-C is told how to go on."""
    try:
        yield
    except KeyboardInterrupt:
        kept = [folder for folder in folders.values() if folder.is_dir()]
        how = [f"`dovetail resume {quote(str(folder))}` goes on" for folder in kept]
        for said in how or ["what was not finished is not kept (--run DIR keeps a run)"]:
            err.print(f"[yellow]note:[/] stopped; {escape(said)}", soft_wrap=True)
        raise


def summary(said: Mapping[str, Any], path: Path) -> str:
    """One line: calls per expert, seconds, peak memory, file."""
    calls = ", ".join(f"{name} {count}" for name, count in said["calls"].items())
    share = said["seconds_in_networks"] / max(said["seconds"], 1e-9)
    return f"calls: {calls} · {said['seconds']:.1f} s ({share:.0%} in networks) · {said['peak_megabytes']} MB at most · {path}"
