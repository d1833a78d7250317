"""The command line. Exit codes: 0 done; 1 an error that says what to do; 2 wrong usage; 130 Ctrl-C."""

import logging
import re
from collections.abc import Sequence
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from dovetail import recipe as recipes
from dovetail.cli import models
from dovetail.cli.calibrating import calibrated, prompts_in, spared
from dovetail.cli.choosing import chosen, ranked, shown_at
from dovetail.cli.describing import describe
from dovetail.cli.options import (
    EventOption,
    FadeOption,
    FramesOption,
    JudgeOption,
    OutOption,
    PreviewOption,
    PromptArgument,
    RecipeOption,
    RunOption,
    SecondsOption,
    SeedOption,
    SetOption,
    SharedOption,
    SizeOption,
    StoryOption,
    VramOption,
)
from dovetail.cli.playing import followed, play, summary
from dovetail.cli.saying import err, out, say, taught, waiting
from dovetail.errors import OutputError
from dovetail.recipe import Recipe

if TYPE_CHECKING:
    from dovetail.run import Cast, Scenario


# dovetail.run and dovetail.video import torch; commands import them, so that --help does not wait.

app = typer.Typer(
    help="Training-free video generation by joining pretrained diffusion experts.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
DEFAULT = "sprites"
"""The recipe of those who name none."""
STORIES = "sprites-story"
"""The recipe of those who tell a story and name none."""
SHARED = (
    "this recipe tells a story, and the prompt is what all its events share; --set story=null makes a video of the prompt "
    "alone, --event tells another"
)

GIVEN = (
    "this video went on from another run, and its settings do not hold that run's pieces; made again, they are of this "
    "recipe as well, and so may be others"
)


NOISY = ("torchao", "torch.utils._pytree", "diffusers.quantizers")
"""Loggers that warn of parts of torchao that are missing wherever diffusers finds it, asked for or not."""


def main() -> None:
    """The entry point of the `dovetail` command."""
    for name in NOISY:
        logging.getLogger(name).setLevel(logging.ERROR)
    app()


def _version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        out.print(f"dovetail {version('dovetail-video')}")
        raise typer.Exit


@app.callback()
def common(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Say which version this is.")
    ] = False,
) -> None:
    """Training-free video generation by joining pretrained diffusion experts."""


@app.command()
@taught
def generate(
    prompt: PromptArgument = None,
    recipe: RecipeOption = None,
    out: OutOption = Path("out.mp4"),
    frames: FramesOption = None,
    seconds: SecondsOption = None,
    size: SizeOption = None,
    events: EventOption = None,
    shared: SharedOption = None,
    fade: FadeOption = None,
    story: StoryOption = None,
    seed: SeedOption = None,
    count: Annotated[int, typer.Option("--count", min=1, max=1000, help="So many seeds, and a contact sheet.")] = 1,
    prompts: Annotated[
        Path | None, typer.Option("--prompts", metavar="FILE", help="A video for each prompt of a file, one a line.")
    ] = None,
    overrides: SetOption = None,
    source: Annotated[
        Path | None, typer.Option("--from", metavar="VIDEO", help="Make this video again, from its own settings.")
    ] = None,
    onto: Annotated[
        Path | None,
        typer.Option("--continue", metavar="RUN", help="Make a run longer, by --frames, in a run of its own."),
    ] = None,
    takes: Annotated[
        int,
        typer.Option("--takes", min=1, max=100, help="Begin with so many seeds, and make the one that is judged best."),
    ] = 1,
    by: JudgeOption = None,
    vram: VramOption = None,
    run: RunOption = None,
    preview: PreviewOption = False,
) -> None:
    """A prompt in, a video out. A run that is there already, of the same recipe, is gone on with."""
    from dovetail.run import continuing, resolved

    told = _told(events, fade, story)
    prompt = _shared(prompt, shared)
    listed = [one for part in prompts_in(prompts) for one in part]
    if prompt is not None and listed:
        raise typer.BadParameter("--prompts brings all prompts; leave out the one beside it")
    if onto is not None:
        if recipe is not None or source is not None or count > 1 or listed or takes > 1:
            raise typer.BadParameter("--continue brings the run's own recipe, and makes one video")
        further = continuing(
            onto, prompt, frames=frames, seconds=seconds, story=told, seed=seed, overrides=_with(overrides, vram, size)
        )
        play(further, out, 1, run=run, onto=onto, preview=preview)
        return
    if source is not None and recipe is not None:
        raise typer.BadParameter("--from brings the video's own recipe; give one of --from and --recipe")
    named = recipe or (DEFAULT if told is None else STORIES)
    asked: str | Recipe = named if source is None else _recipe_of(source)
    made_from = [] if source is None else [source]
    first = listed[0] if listed else prompt
    full = resolved(
        first, asked, seed=seed, frames=frames, seconds=seconds, story=told, overrides=_with(overrides, vram, size)
    )
    if told is None and first is not None and full.story is not None:
        err.print(f"[yellow]note:[/] {SHARED}", soft_wrap=True)
    full, cast = _best(full, takes, by, out, several=source is not None or count > 1 or len(listed) > 1)
    play(full, out, count, made_from, run=run, preview=preview, prompts=listed, cast=cast)


@app.command("takes")
@taught
def takes_(
    prompt: PromptArgument = None,
    recipe: RecipeOption = None,
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="PICTURE", help="Where the takes are shown, one below the other.")
    ] = Path("takes.png"),
    of: Annotated[int, typer.Option("--of", min=2, max=100, help="How many.")] = 4,
    by: JudgeOption = None,
    frames: FramesOption = None,
    seconds: SecondsOption = None,
    size: SizeOption = None,
    events: EventOption = None,
    shared: SharedOption = None,
    fade: FadeOption = None,
    story: StoryOption = None,
    seed: SeedOption = None,
    overrides: SetOption = None,
    vram: VramOption = None,
) -> None:
    """The beginning of a video from several seeds, ranked by how well an expert of the recipe finds the prompt in it."""
    from dovetail.run import resolved

    shown_at(out)
    told, words = _told(events, fade, story), _shared(prompt, shared)
    named, changed = recipe or (DEFAULT if told is None else STORIES), _with(overrides, vram, size)
    full = resolved(words, named, seed=seed, frames=frames, seconds=seconds, story=told, overrides=changed)
    ranked(chosen(full, of, by)[0], out)


@app.command()
@taught
def refine(
    video: Annotated[Path, typer.Argument(help="The video to take as the structure.")],
    prompt: Annotated[
        str | None,
        typer.Argument(
            help="What it shows; without it the video's own prompt, or, if it has none, the recipe's.",
            show_default=False,
        ),
    ] = None,
    recipe: RecipeOption = None,
    out: OutOption = Path("out.mp4"),
    strength: Annotated[
        int | None,
        typer.Option("--strength", metavar="T_e", min=1, max=1000, help="The timestep up to which noise is added."),
    ] = None,
    frames: Annotated[int | None, typer.Option("--frames", min=1, help="Only the first so many frames.")] = None,
    size: SizeOption = None,
    events: EventOption = None,
    shared: SharedOption = None,
    fade: FadeOption = None,
    story: StoryOption = None,
    seed: SeedOption = None,
    overrides: SetOption = None,
    vram: VramOption = None,
    run: RunOption = None,
    preview: PreviewOption = False,
) -> None:
    """Refine any video: an animatic, a draft, another model's clip; under one prompt, or under what happens in it."""
    from dovetail.run.verbs import refinement

    told = _told(events, fade, story)
    asked = refinement(
        video,
        _shared(prompt, shared),
        recipe or (DEFAULT if told is None else STORIES),
        strength=strength,
        seed=seed,
        frames=frames,
        story=told,
        overrides=_with(overrides, vram, size),
    )
    play(asked, out, 1, run=run, preview=preview)


@app.command()
@taught
def resume(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a run: OUT.run, or what --run named.")],
    preview: PreviewOption = False,
) -> None:
    """Go on with a run that was stopped: by Ctrl-C, a crash, a full disk. Its video is what it would have been."""
    from dovetail.run import Pulse
    from dovetail.run import resume as resumed
    from dovetail.run.folder import Folder

    place, pulse = Folder(run), Pulse()
    runs, events = {place.target: place.read()}, ((0, event) for event in resumed(run, pulse=pulse))
    for path, _, said in followed(runs, events, preview, {place.target: run}, pulse):
        say(summary(said, path))


@app.command()
@taught
def decode(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a run, finished or not.")],
    out: Annotated[
        Path | None,
        typer.Option(
            "-o", "--out", help="Where; NAME-decoded.mp4 beside the run's NAME.mp4 without it.", show_default=False
        ),
    ] = None,
    fps: Annotated[float | None, typer.Option("--fps", min=0.1, max=240, help="Frames per second.")] = None,
    size: SizeOption = None,
    crf: Annotated[
        int | None, typer.Option("--crf", min=0, max=51, help="How much an .mp4 may lose; 16 is what runs take.")
    ] = None,
    tiles: Annotated[
        int | None, typer.Option("--tiles", min=4, help="Decode so many latent cells a side at once, for less memory.")
    ] = None,
    still: Annotated[
        float | None,
        typer.Option(
            "--still",
            min=0,
            max=10,
            metavar="WITHIN",
            help="Hold frames to what stands still in the first ones; 3 is usual, 0 holds none (docs/stories.md).",
        ),
    ] = None,
) -> None:
    """Decode a run's latents again, with other settings; nothing is generated."""
    from dovetail.run import Look
    from dovetail.run import decode as decoded
    from dovetail.run.folder import Folder

    width, height = (None, None) if size is None else _sides(size)
    if out is None:
        target = Folder(run).target
        out = target.with_name(f"{target.stem}-decoded.mp4")
    with waiting("decoding"):
        count = sum(len(frames) for frames in decoded(run, out, Look(fps, height, width, crf, tiles, still)))
    say(f"{count} frames · {out}")


@app.command()
@taught
def plan(
    recipe: Annotated[
        str | None,
        typer.Argument(help="A shipped recipe's name, or a .yaml file; sprites without it.", show_default=False),
    ] = None,
    frames: FramesOption = None,
    seconds: SecondsOption = None,
    size: SizeOption = None,
    events: EventOption = None,
    shared: SharedOption = None,
    fade: FadeOption = None,
    story: StoryOption = None,
    overrides: SetOption = None,
    vram: VramOption = None,
) -> None:
    """Say what a run would do, without loading weights. A story is drawn: its events, and the windows that take
    them."""
    from dovetail.run import plan

    told = _told(events, fade, story)
    asked = recipe or (DEFAULT if told is None else STORIES)
    describe(plan(asked, shared, frames=frames, seconds=seconds, story=told, overrides=_with(overrides, vram, size)))


@app.command()
@taught
def calibrate(
    recipe: Annotated[str, typer.Argument(help="A shipped recipe's name, or a .yaml file, with a blended stage.")],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="DIR", help="A folder; named after the recipe without it.")
    ] = None,
    prompts: Annotated[
        Path | None,
        typer.Option(
            "--prompts", metavar="FILE", help="One a line; what stands after an empty line is kept to compare on."
        ),
    ] = None,
    also: Annotated[
        list[str] | None,
        typer.Option("--also", help="Candidates made of each expert: unguided, halved, shortened, cached."),
    ] = None,
    by: Annotated[str, typer.Option("--by", help="Whose boundaries to write: fit, budget, dp, sweep.")] = "budget",
    budget: Annotated[
        float | None,
        typer.Option(
            "--budget", min=0, max=1, help="Cost allowed, of the large expert's at all steps; .55 unless said."
        ),
    ] = None,
    error: Annotated[
        float | None,
        typer.Option(
            "--error",
            min=0,
            max=1,
            help="Error allowed instead, of the small expert's at all steps: budget takes the cheapest interval within "
            "it, and dp errs least for what that costs.",
        ),
    ] = None,
    compare: Annotated[
        str | None,
        typer.Option(
            "--compare", metavar="FEATURES", help="Make and compare videos: pixels, oracle, or an encoder's weights."
        ),
    ] = None,
    follow: Annotated[
        int, typer.Option("--follow", min=1, help="Looks in which an error is followed to the video; more cost more.")
    ] = 1,
    overrides: SetOption = None,
) -> None:
    """Find where the experts of a blended stage should change: measure, choose, draw, write the recipe."""
    from dovetail.calibrate.running import Settings
    from dovetail.run import resolved

    asked, unseen = prompts_in(prompts)
    name = Path(recipe).stem if "/" in recipe or recipe.endswith((".yaml", ".yml")) else recipe
    settings, folder = Settings(asked, unseen, tuple(also or ()), by, budget, error, compare, follow), out or Path(name)
    spared(recipe, folder, name)
    calibrated(resolved(None, recipe, overrides=overrides or ()), folder, settings, name)


@app.command("recipes")
@taught
def recipes_(
    name: Annotated[
        str | None,
        typer.Argument(help="One of them, to be printed as it is written.", show_default=False),
    ] = None,
) -> None:
    """The recipes that ship with dovetail; the text of one of them, to begin one's own with."""
    if name is not None:
        say(recipes.text_of(name).rstrip())
        return
    for name in recipes.names():
        out.print(f"[bold]{name}[/]")
        about = fill(recipes.load(name).about, out.width, initial_indent="  ", subsequent_indent="  ")
        out.print(escape(about), soft_wrap=True)


@app.command()
@taught
def words(
    word: Annotated[
        str | None, typer.Argument(help="One of them: what it is, its keys, and their defaults.", show_default=False)
    ] = None,
) -> None:
    """The words that recipes are written in, as docs/recipes.md has them."""
    from dovetail.recipe import reference

    if word is not None:
        say(str(reference.word(word)).rstrip())
        return
    for title, known in reference.groups():
        out.print(f"[bold]{title}[/]")
        for one in known:
            say(f"  {one.name:<16} {one.brief}")


@app.command("experts")
@taught
def experts_() -> None:
    """Families of networks, and the weights that recipes use: how much of them is here, how large, under which licence."""
    from dovetail.run import FAMILIES_SAID, weights_used

    for family, said in FAMILIES_SAID.items():
        out.print(f"[bold]{family}[/]  {escape(said)}")
    out.print()
    for row in weights_used():
        out.print(escape(row), soft_wrap=True)


@app.command()
@taught
def compare(
    left: Annotated[Path, typer.Argument(metavar="A", help="A video.")],
    right: Annotated[Path, typer.Argument(metavar="B", help="Another video.")],
    out: OutOption = Path("compare.mp4"),
) -> None:
    """Two videos side by side, and a contact sheet of both beside the result."""
    from dovetail.video import beside, checked_output, read, save_image, sheet

    checked_output(out, inputs=[left, right])
    both = beside(read(left), read(right))
    both.save(out)
    save_image(sheet([both]), out.with_name(f"{out.stem}-sheet.png"))
    say(f"{out}")


@app.command("eval")
@taught
def eval_(
    videos: Annotated[list[Path], typer.Argument(metavar="VIDEO...", help="Videos, lossless ones for fair numbers.")],
    segments: Annotated[
        int | None,
        typer.Option(
            "--segments", min=1, metavar="FRAMES", help="Look for seams every so many frames, not where the videos say."
        ),
    ] = None,
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="DIR", help="A folder, for eval.json and pictures.")
    ] = Path("eval"),
) -> None:
    """Measure videos: what keeps, drifts, moves and jumps. Needs the extra `eval`."""
    from dovetail.eval.report import evaluated

    for said in evaluated(videos, out, segments):
        say(said)


app.add_typer(models.models(), name="models")
app.command()(taught(models.doctor))


def _best(recipe: Recipe, of: int, by: str | None, out: Path, several: bool) -> "tuple[Recipe, Cast | None]":
    """The recipe with the seed of its best take, and the cast that made them, if there are to be any. Before they are made
    it is seen to that `out` can be written."""
    from dovetail.video import checked_output

    if of == 1:
        if by is not None:
            raise typer.BadParameter("--by names who judges takes; say --takes, too")
        return recipe, None
    if several:
        raise typer.BadParameter("--takes chooses the seed of one video; leave out --from, --count and --prompts")
    checked_output(out, recipe.video.fps)
    found, cast = chosen(recipe, of, by)
    best, first = found[0].seed, recipe.video.seed
    err.print(f"takes: of seeds {first} to {first + of - 1} the best is {best}", soft_wrap=True)
    return recipes.changed(recipe, {"video.seed": best}), cast


def _with(overrides: Sequence[str] | None, vram: str | None, size: str | None) -> list[str]:
    """What is changed of a recipe, --vram and --size among it."""
    given = [] if vram is None else [f'vram="{vram}"']
    if size is not None:
        width, height = _sides(size)
        given += [f"video.width={width}", f"video.height={height}"]
    return [*(overrides or ()), *given]


def _sides(size: str) -> tuple[int, int]:
    """Width and height that --size says."""
    sides = re.fullmatch(r"(\d{1,4})x(\d{1,4})", size)
    if sides is None or not all(map(int, sides.groups())):
        raise typer.BadParameter(f"--size is width x height in pixels, as in 640x480, not {size}")
    return int(sides[1]), int(sides[2])


def _told(events: Sequence[str] | None, fade: str | None, file: Path | None) -> "Scenario | None":
    """The story that the command line tells, if it tells one."""
    from dovetail.run import Scenario, tale

    if file is not None:
        if events or fade is not None:
            raise typer.BadParameter("--story brings its own events and fade; give it, or --event and --fade")
        return tale(file)
    if not events:
        if fade is not None:
            raise typer.BadParameter("--fade is said of events; a recipe's own story takes --set story.fade=1s")
        return None
    return Scenario(tuple(events), fade=fade)


def _shared(prompt: str | None, shared: str | None) -> str | None:
    """What events share: the prompt, or what --shared says."""
    if prompt is not None and shared is not None:
        raise typer.BadParameter("the prompt of a story is what its events share, so --shared says it twice; give one")
    return shared if prompt is None else prompt


def _recipe_of(source: Path) -> Recipe:
    from dovetail.video import settings_of

    settings = settings_of(source)
    if not isinstance(settings.get("recipe"), dict):
        raise OutputError(f"{source} carries no recipe of dovetail")
    if settings.get("given"):
        err.print(f"[yellow]note:[/] {GIVEN}", soft_wrap=True)
    return recipes.checked(settings["recipe"], str(source))
