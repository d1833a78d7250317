"""The command line. Exit codes: 0 done; 1 an error that says what to do; 2 wrong usage; 130 Ctrl-C."""

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import wraps
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from dovetail import cli_models
from dovetail import recipe as recipes
from dovetail.errors import DovetailError, OutputError, PromptWarning, RecipeError, StoryWarning
from dovetail.recipe import Recipe

if TYPE_CHECKING:
    from dovetail.calibrate.running import Settings
    from dovetail.core.stages import Stage
    from dovetail.costs import Costs
    from dovetail.experts.flops import Operations
    from dovetail.recipe.planning import Plan
    from dovetail.run import Cast, End, Piece, Pulse, Scenario, Step
    from dovetail.video import Frames

    Happening = Step | Piece | End

# dovetail.run and dovetail.video import torch; commands import them, so that --help does not wait.

app = typer.Typer(
    help="Training-free video generation by joining pretrained diffusion experts.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
DEFAULT = "sprites"
"""The recipe of those who name none."""
STORIES = "sprites-gen-l-video"
"""The recipe of those who tell a story and name none."""
SHARED = (
    "this recipe tells a story, and the prompt is what all its events share; --set story=null makes a video of the prompt "
    "alone, --event tells another"
)

out, err = Console(highlight=False), Console(stderr=True, highlight=False)

PromptArgument = Annotated[
    str | None,
    typer.Argument(help="What to show; of a story, what all events share. Without it, the recipe's own example."),
]
RecipeOption = Annotated[
    str | None,
    typer.Option(
        "--recipe", "-r", help="A shipped recipe's name, or a .yaml file; sprites without it.", show_default=False
    ),
]
OutOption = Annotated[
    Path,
    typer.Option(
        "--out", "-o", help="Where to write: .mp4, .gif, .webp, .npz, or a folder for PNG. Replaces an older one."
    ),
]
FramesOption = Annotated[int | None, typer.Option("--frames", help="How many frames.")]
SecondsOption = Annotated[float | None, typer.Option("--seconds", help="How long, instead of --frames.")]
EventOption = Annotated[
    list[str] | None,
    typer.Option(
        "--event",
        metavar="'2s: TEXT'",
        help="What happens from then on, once for each event; times as 2s, 16f, 25%, 2s-4s, or none.",
    ),
]
SharedOption = Annotated[
    str | None, typer.Option("--shared", metavar="TEXT", help="What all events share; the prompt in another place.")
]
FadeOption = Annotated[
    str | None, typer.Option("--fade", metavar="TIME", help="How long each event passes into the next, as in 1s.")
]
StoryOption = Annotated[
    Path | None, typer.Option("--story", metavar="FILE", help="A file with the shared text and the events.")
]
SeedOption = Annotated[int | None, typer.Option("--seed", help="Same seed, same video.")]
RunOption = Annotated[
    Path | None,
    typer.Option(
        "--run",
        metavar="DIR",
        help="Keep what is finished there, so that `resume` can go on. OUT.run without it, if the video comes in pieces.",
    ),
]
PreviewOption = Annotated[bool, typer.Option("--preview", help="Write OUT-preview.png anew after every piece.")]
VramOption = Annotated[
    str | None,
    typer.Option("--vram", metavar="8GB", help="The memory that the device is taken to have; what is free without it."),
]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", metavar="PATH=VALUE", help="Change any value of the recipe.")
]


def main() -> None:
    """The entry point of the `dovetail` command."""
    app()


def _taught(command: Callable[..., None]) -> Callable[..., None]:
    """The command, its own errors printed without a traceback, and warnings as one line each."""

    @wraps(command)
    def taught(*args: Any, **options: Any) -> None:
        shown: set[str] = set()

        def show(message: Warning | str, *_: Any, **__: Any) -> None:
            if str(message) not in shown:
                shown.add(str(message))
                err.print(f"[yellow]note:[/] {escape(str(message))}", soft_wrap=True)

        try:
            with warnings.catch_warnings():
                warnings.showwarning = show
                warnings.simplefilter("always", PromptWarning)
                warnings.simplefilter("always", StoryWarning)
                command(*args, **options)
        except DovetailError as error:
            err.print(f"[red]error:[/] {escape(str(error))}", soft_wrap=True)
            raise typer.Exit(1) from None

    return taught


@app.command()
@_taught
def generate(
    prompt: PromptArgument = None,
    recipe: RecipeOption = None,
    out: OutOption = Path("out.mp4"),
    frames: FramesOption = None,
    seconds: SecondsOption = None,
    events: EventOption = None,
    shared: SharedOption = None,
    fade: FadeOption = None,
    story: StoryOption = None,
    seed: SeedOption = None,
    count: Annotated[int, typer.Option("--count", min=1, max=1000, help="So many seeds, and a contact sheet.")] = 1,
    overrides: SetOption = None,
    source: Annotated[
        Path | None, typer.Option("--from", metavar="VIDEO", help="Make this video again, from its own settings.")
    ] = None,
    onto: Annotated[
        Path | None,
        typer.Option(
            "--continue", metavar="RUN", help="Go on where a run ended, by --frames more, in a run of its own."
        ),
    ] = None,
    vram: VramOption = None,
    run: RunOption = None,
    preview: PreviewOption = False,
) -> None:
    """A prompt in, a video out. A run that is there already, of the same recipe, is gone on with."""
    from dovetail.run import continuing, resolved

    told = _told(events, fade, story)
    prompt = _shared(prompt, shared)
    if onto is not None:
        if recipe is not None or source is not None or count > 1:
            raise typer.BadParameter("--continue brings the run's own recipe, and makes one video")
        further = continuing(
            onto, prompt, frames=frames, seconds=seconds, story=told, seed=seed, overrides=_with(overrides, vram)
        )
        _play(further, out, 1, run=run, onto=onto, preview=preview)
        return
    if source is not None and recipe is not None:
        raise typer.BadParameter("--from brings the video's own recipe; give one of --from and --recipe")
    named = recipe or (DEFAULT if told is None else STORIES)
    asked: str | Recipe = named if source is None else _recipe_of(source)
    made_from = [] if source is None else [source]
    full = resolved(
        prompt, asked, seed=seed, frames=frames, seconds=seconds, story=told, overrides=_with(overrides, vram)
    )
    if told is None and prompt is not None and full.story is not None:
        err.print(f"[yellow]note:[/] {SHARED}", soft_wrap=True)
    _play(full, out, count, made_from, run=run, preview=preview)


@app.command()
@_taught
def refine(
    video: Annotated[Path, typer.Argument(help="The video to take as the structure.")],
    prompt: PromptArgument = None,
    recipe: RecipeOption = None,
    out: OutOption = Path("out.mp4"),
    strength: Annotated[
        int | None,
        typer.Option("--strength", metavar="T_e", min=1, max=1000, help="The timestep up to which noise is added."),
    ] = None,
    frames: Annotated[int | None, typer.Option("--frames", min=1, help="Only the first so many frames.")] = None,
    seed: SeedOption = None,
    overrides: SetOption = None,
    vram: VramOption = None,
    run: RunOption = None,
    preview: PreviewOption = False,
) -> None:
    """Refine any video: an animatic, a draft, another model's clip."""
    from dovetail.run import refining, resolved

    asked = resolved(prompt, recipe or DEFAULT, seed=seed, overrides=_with(overrides, vram))
    _play(refining(asked, video, strength, frames), out, 1, run=run, preview=preview)


@app.command()
@_taught
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
    for path, _, said in _followed(runs, events, preview, {place.target: run}, pulse):
        _say(_summary(said, path))


@app.command()
@_taught
def decode(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a run, finished or not.")],
    out: OutOption = Path("out.mp4"),
    fps: Annotated[float | None, typer.Option("--fps", min=0.1, max=240, help="Frames per second.")] = None,
    size: Annotated[str | None, typer.Option("--size", metavar="WxH", help="Pixels, as in 640x480.")] = None,
    crf: Annotated[
        int | None, typer.Option("--crf", min=0, max=51, help="How much an .mp4 may lose; 16 is what runs take.")
    ] = None,
    tiles: Annotated[
        int | None, typer.Option("--tiles", min=4, help="Decode so many latent cells a side at once, for less memory.")
    ] = None,
) -> None:
    """Decode a run's latents again, with other settings; nothing is generated."""
    import re

    from dovetail.run import Look
    from dovetail.run import decode as decoded

    sides = re.fullmatch(r"(\d{1,4})x(\d{1,4})", size or "1x1")
    if sides is None or "0" in sides.groups():
        raise typer.BadParameter(f"--size is width x height in pixels, as in 640x480, not {size}")
    width, height = (int(side) if size else None for side in sides.groups())
    with _waiting("decoding"):
        count = sum(len(frames) for frames in decoded(run, out, Look(fps, height, width, crf, tiles)))
    _say(f"{count} frames · {out}")


@app.command()
@_taught
def plan(
    recipe: Annotated[
        str | None,
        typer.Argument(help="A shipped recipe's name, or a .yaml file; sprites without it.", show_default=False),
    ] = None,
    frames: FramesOption = None,
    seconds: SecondsOption = None,
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
    _describe(plan(asked, shared, frames=frames, seconds=seconds, story=told, overrides=_with(overrides, vram)))


@app.command()
@_taught
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
    by: Annotated[str, typer.Option("--by", help="Whose boundaries to write: fit, budget, dp, sweep.")] = "fit",
    budget: Annotated[
        float, typer.Option("--budget", min=0, max=1, help="Cost allowed, of the large expert's at all steps.")
    ] = 0.55,
    error: Annotated[
        float | None,
        typer.Option("--error", min=0, max=1, help="Error allowed instead, of the small expert's at all steps."),
    ] = None,
    compare: Annotated[
        str | None,
        typer.Option(
            "--compare", metavar="FEATURES", help="Make and compare videos: pixels, oracle, or an encoder's weights."
        ),
    ] = None,
    follow: Annotated[
        int, typer.Option("--follow", min=1, help="Looks in which an error is followed to the video; more cost more.")
    ] = 4,
    overrides: SetOption = None,
) -> None:
    """Find where the experts of a blended stage should change: measure, choose, draw, write the recipe."""
    from dovetail.calibrate.running import Settings
    from dovetail.run import resolved

    asked, unseen = _prompts(prompts)
    name = Path(recipe).stem if "/" in recipe or recipe.endswith((".yaml", ".yml")) else recipe
    settings = Settings(asked, unseen, tuple(also or ()), by, budget, error, compare, follow)
    _calibrated(resolved(None, recipe, overrides=overrides or ()), out or Path(name), settings, name)


@app.command("recipes")
@_taught
def recipes_() -> None:
    """The recipes that ship with dovetail."""
    for name in recipes.names():
        out.print(f"[bold]{name}[/]")
        about = fill(recipes.load(name).about, out.width, initial_indent="  ", subsequent_indent="  ")
        out.print(escape(about), soft_wrap=True)


@app.command("experts")
@_taught
def experts_() -> None:
    """Families of networks, and the weights that recipes use: which are here, how large, under which licence."""
    from dovetail.run import FAMILIES_SAID, weights_used

    for family, said in FAMILIES_SAID.items():
        out.print(f"[bold]{family}[/]  {escape(said)}")
    out.print()
    for row in weights_used():
        out.print(escape(row), soft_wrap=True)


@app.command()
@_taught
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
    _say(f"{out}")


@app.command("eval")
@_taught
def eval_(
    videos: Annotated[list[Path], typer.Argument(metavar="VIDEO...", help="Videos, lossless ones for fair numbers.")],
    segments: Annotated[
        int | None,
        typer.Option("--segments", min=1, metavar="FRAMES", help="A segment's length, if the videos do not say."),
    ] = None,
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="DIR", help="A folder, for eval.json and pictures.")
    ] = Path("eval"),
) -> None:
    """Measure videos: what keeps, drifts, moves and jumps. Needs the extra `eval`."""
    from dovetail.eval.report import evaluated

    for said in evaluated(videos, out, segments):
        _say(said)


app.add_typer(cli_models.models(_taught), name="models")
app.command()(_taught(cli_models.doctor))


# --- doing and showing -------------------------------------------------------------------------------------------


def _with(overrides: Sequence[str] | None, vram: str | None) -> list[str]:
    """What is changed of a recipe, --vram among it."""
    return [*(overrides or ()), *([] if vram is None else [f'vram="{vram}"'])]


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
    return recipes.checked(settings["recipe"], str(source))


def _play(
    recipe: Recipe,
    target: Path,
    count: int,
    inputs: Sequence[Path] = (),
    run: Path | None = None,
    onto: Path | None = None,
    preview: bool = False,
) -> None:
    """Run the recipe for `count` seeds from its own on, and write what comes; `inputs` are not to be replaced.

    run: a folder to keep the run in. onto: a run to go on from.
    """
    from dovetail.run import Pulse, carry_on, folder_of, load, worth_keeping
    from dovetail.video import checked_output, save_image, stacked

    if run is not None and count > 1:
        raise typer.BadParameter("--run names the folder of one run, and --count makes several; leave one out")
    kept: list[str | Path] = [*inputs, *([recipe.start.video] if recipe.start else [])]
    checked_output(target, recipe.video.fps, kept)
    runs = _seeded(recipe, target, count)
    for path in runs:
        checked_output(path, recipe.video.fps, kept)
    with _waiting("loading"):
        cast = load(recipe)
    folders = {}
    if run is not None or onto is not None or worth_keeping(recipe, cast):
        folders = {path: run or folder_of(path) for path in runs}
    pulse = Pulse()
    events = _kept(runs, folders, cast, pulse) if folders else _written(runs, cast, pulse)
    if onto is not None:
        events = ((0, event) for event in carry_on(onto, recipe, target, run, cast, pulse))
    strips = []
    for path, strip, said in _followed(runs, events, preview, folders, pulse):
        strips += strip
        _say(_summary(said, path))
    if count > 1 and strips:
        _say(str(save_image(stacked(strips), target.with_name(f"{target.stem}-sheet.png"))))


def _seeded(recipe: Recipe, target: Path, count: int) -> dict[Path, Recipe]:
    """Where each seed's video goes, if there are several."""
    if count == 1:
        return {target: recipe}
    seeds = range(recipe.video.seed, recipe.video.seed + count)
    names = {seed: target.with_name(f"{target.stem}-{seed}{target.suffix}") for seed in seeds}
    return {path: recipes.changed(recipe, {"video.seed": seed}) for seed, path in names.items()}


def _kept(
    runs: Mapping[Path, Recipe], folders: Mapping[Path, Path], cast: "Cast", pulse: "Pulse"
) -> "Iterator[tuple[int, Happening]]":
    """Runs one after another, each in its folder."""
    from dovetail.run import keep

    for run, (path, recipe) in enumerate(runs.items()):
        yield from ((run, event) for event in keep(recipe, path, folders[path], cast, pulse=pulse))


def _written(runs: Mapping[Path, Recipe], cast: "Cast", pulse: "Pulse") -> "Iterator[tuple[int, Happening]]":
    """Runs without folders: each piece is written as it is finished, and nothing stays of a run that is stopped."""
    from dovetail.run import End, Piece, together
    from dovetail.video import writing

    paths, asked = list(runs), list(runs.values())
    with ExitStack() as files:
        # Each file has a stack of its own, so that it takes its name as soon as its run ends.
        stacks = [files.enter_context(ExitStack()) for _ in runs]
        growing = [stacks[0].enter_context(writing(paths[0], asked[0].video.fps))]
        for run, event in together(asked, cast, pulse):
            while len(growing) <= run:
                place = len(growing)
                growing.append(stacks[place].enter_context(writing(paths[place], asked[place].video.fps)))
            if isinstance(event, Piece):
                growing[run].add(event.frames)
            elif isinstance(event, End):
                growing[run].settings = event.settings
                stacks[run].close()
            yield run, event


def _followed(
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

    from dovetail.progress import Preview, bar
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
                yield paths[run], [strip(Video(np.stack(kept[run]), 1.0))] if whole else [], event.settings
                continue
            shown.show(run, event)
            if isinstance(event, Piece):
                picked = evenly(asked[run].video.frames)
                kept[run] += [frame for i, frame in enumerate(event.frames, event.first) if i in picked]
                if preview:
                    previews[run].add(event)


@contextmanager
def _stopped(folders: Mapping[Path, Path]) -> Iterator[None]:
    """Who presses Ctrl-C is told how to go on."""
    try:
        yield
    except KeyboardInterrupt:
        for folder in folders.values():
            if folder.is_dir():
                err.print(f"[yellow]note:[/] stopped; `dovetail resume {escape(str(folder))}` goes on", soft_wrap=True)
        raise


def _prompts(file: Path | None) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """A file's prompts before and after its first empty line."""
    if file is None:
        return (), ()
    try:
        before, _, after = file.read_text(encoding="utf-8").strip().partition("\n\n")
    except (OSError, UnicodeDecodeError) as problem:
        raise RecipeError(f"{file} is no list of prompts that can be read: {problem}") from None
    first, second = (tuple(line.strip() for line in part.splitlines() if line.strip()) for part in (before, after))
    return first, second


def _calibrated(recipe: Recipe, folder: Path, settings: "Settings", name: str) -> None:
    """Calibrate under a progress bar, and say what was found."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    from dovetail.calibrate import Look, calibrate

    columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
    with Progress(*columns, console=err, transient=True, disable=not err.is_terminal) as progress:
        task = progress.add_task("loading", total=None)
        for event in calibrate(recipe, folder, settings, name=name):
            if isinstance(event, Look):
                done = event.prompt - 1 + (event.step / event.steps if event.steps else 0)
                said = f"{event.doing}, prompt {event.prompt}/{event.prompts}"
                progress.update(task, completed=done, total=event.prompts, description=said)
            else:
                found = event
    for rule, schedule in found.choices.items():
        share = schedule.cost / found.case.costs[0] / found.ladder.steps
        bounds = ", ".join(f"{bound:.3f}" for bound in found.boundaries(rule)) or "none"
        kept = " <- written" if rule == settings.by else ""
        _say(f"{rule:<7} boundaries {bounds} · {share:.0%} of {found.case.names[0]} at every step{kept}")
    for scheme, scores in found.likeness.items():
        _say(f"  {scheme:<12} " + ", ".join(f"{measure} {value:.3f}" for measure, value in scores.items()))
    for note in found.case.notes:
        err.print(f"[yellow]note:[/] {escape(note)}", soft_wrap=True)
    _say("\n".join(str(file) for file in found.files))


@contextmanager
def _waiting(what: str) -> Iterator[None]:
    if not err.is_terminal:
        yield
        return
    with err.status(what):
        yield


def _summary(said: Mapping[str, Any], path: Path) -> str:
    """One line: calls per expert, seconds, peak memory, file."""
    calls = ", ".join(f"{name} {count}" for name, count in said["calls"].items())
    share = said["seconds_in_networks"] / max(said["seconds"], 1e-9)
    return f"calls: {calls} · {said['seconds']:.1f} s ({share:.0%} in networks) · {said['peak_megabytes']} MB at most · {path}"


def _say(line: str) -> None:
    out.print(escape(line), soft_wrap=True)


def _describe(plan: "Plan") -> None:
    from dovetail.run import storyboard
    from dovetail.run.bridging import described

    recipe, video = plan.recipe, plan.recipe.video
    latent = f" ({plan.latent[0]} latent frames)" if plan.latent and plan.latent[0] != video.frames else ""
    _say(f"{video.frames} frames{latent} of {video.width}x{video.height} at {video.fps:g} fps, seed {video.seed}")
    what = "prompt" if recipe.story is None else "shared by all events"
    _say(f'{what}: "{recipe.prompt}"' + (f', not "{recipe.negative}"' if recipe.negative else ""))
    for line in storyboard(plan):
        _say(line)
    for stage in plan.stages:
        frames = plan.length(stage.name)
        levels = " ".join(f"{level:.4g}" for level in stage.ladder.levels)
        solver = type(stage.solver).__name__
        _say(f"\nstage {stage.name}: {stage.ladder.steps} steps by {solver}, noise shares {levels}")
        for line in described(plan, stage.name):
            _say(f"  {line}")
        if stage.window is not None:
            _say(f"  {_windows(stage, frames)}")
        for line in _tree(stage.denoise, 1):
            _say(line)
        if switches := plan.switches[stage.name]:
            _say(f"  {switches} changes from one step's experts to the next's")
    known = _priced(plan)
    _say("\nexpert        calls   looks at the whole video, both branches of guidance counted")
    for name, count in plan.counts.items():
        _say(f"{name:<12} {count.calls:>6}   {plan.passes(name):g}")
    for note in dict.fromkeys((*plan.notes, *known.notes)):
        err.print(f"[yellow]note:[/] {escape(note)}", soft_wrap=True)


def _priced(plan: "Plan") -> "Costs":
    """What a run costs, as far as its networks are known."""
    from dovetail.costs import costs
    from dovetail.run.budget import budget_of

    known = costs(plan, budget_of(plan.recipe))
    if known.experts:
        _say("\nexpert       parameters   weights   TFLOPs of a look   in all   (in linear layers / with attention)")
        for name, share in known.experts.items():
            _say(
                f"{name:<12} {share.parameters / 1e9:>7.3f} B  {_gigabytes(share.bytes)}   {_tera(share.look)}"
                f"   {_tera(share.spent)}"
            )
        for name, spent in known.alone.items():
            _say(f"{name} at every step: {_tera(spent)}")
        part = ""
        if known.alone:
            dearest = max(known.alone.values(), key=lambda spent: spent.total)
            shares = known.spent.linear / dearest.linear, known.spent.total / dearest.total
            part = f", {shares[0]:.0%} / {shares[1]:.0%} of the dearest expert at every step"
        _say(f"this recipe: {_tera(known.spent)}{part}")
        _room(known, plan.recipe)
    return known


def _room(known: "Costs", recipe: Recipe) -> None:
    """What is on the device at most in each part of a run, and what is done so that it fits. Raises RoomError."""
    fit = known.fit
    _say(f"\non the device at most, residency {recipe.residency}\n             weights      work   latents    in all")
    for part in fit.parts:
        each = (part.weights, part.activations, part.latents, part.total)
        _say(f"{part.name:<12}" + " ".join(_gigabytes(size) for size in each))
    if fit.budget is None:
        return
    if fit.short is None:
        how = "; ".join(fit.given_up) or "as it is asked"
        _say(f"in {_gigabytes(fit.budget).strip()} that may be filled it fits: {how}")
    fit.checked()


def _tera(spent: "Operations") -> str:
    return " / ".join(f"{part / 1e12:,.{2 if part < 1e15 else 0}f}" for part in (spent.linear, spent.total))


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:>6.2f} GB"


def _windows(stage: "Stage", frames: int) -> str:
    """Where a stage's windows lie."""
    lengths = [window.stop - window.start for window in stage.windows(frames)]
    count = (
        f"{len(lengths)} windows of {stage.window} latent frames" if len(lengths) > 1 else f"1 window of {lengths[0]}"
    )
    short = [str(length) for length in dict.fromkeys((lengths[0], lengths[-1])) if length != stage.window]
    ends = f", at the ends {' and '.join(short)}" if short and len(lengths) > 1 else ""
    how = "straddling those before" if stage.offset else "side by side"
    if stage.hop is not None and stage.hop < (stage.window or 0):
        how = f"one every {stage.hop}, " + (f"averaged at each step ({stage.weights})" if stage.fuses else "in turn")
    begin = f"; starts from {stage.start}" if stage.start is not None else ""
    return f"{count}, {how}{ends}{begin}"


def _tree(node: Any, depth: int) -> Iterator[str]:
    """A denoiser, one line per part: what it is, its values, and below it its denoisers."""
    from dataclasses import fields, is_dataclass

    from dovetail.core.denoiser import Prompted
    from dovetail.methods.flowblending import Blended

    if isinstance(node, Prompted):
        yield "  " * depth + node.expert.name
        return
    parts = {field.name: getattr(node, field.name) for field in fields(node)}
    if isinstance(node, Blended):
        parts = {f"above {bound:g}": expert for bound, expert in zip(node.boundaries, node.experts, strict=False)}
        parts["else"] = node.experts[-1]
    # The negative branch is the positive one's expert with other words.
    inner = {
        k: v for k, v in parts.items() if is_dataclass(v) and callable(v) and k not in ("negative", "clock", "steps")
    }
    values = [f"{k}={v!r}" for k, v in parts.items() if k not in inner and k != "negative"]
    yield "  " * depth + f"{type(node).__name__}({', '.join(values)})"
    for name, part in inner.items():
        below = list(_tree(part, depth + 1))
        yield "  " * (depth + 1) + f"{name}: {below[0].strip()}"
        yield from below[1:]


if __name__ == "__main__":
    main()
