"""The command line. Exit codes: 0 done; 1 an error that says what to do; 2 wrong usage; 130 Ctrl-C."""

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from dovetail import recipe as recipes
from dovetail.errors import DovetailError, OutputError, PromptWarning
from dovetail.recipe import Recipe

if TYPE_CHECKING:
    from dovetail.recipe.build import Plan
    from dovetail.run import Cast
    from dovetail.video import Video

# dovetail.run and dovetail.video import torch; commands import them, so that --help does not wait.

app = typer.Typer(
    help="Training-free video generation by joining pretrained diffusion experts.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
DEFAULT = "sprites"
"""The recipe of those who name none."""

out, err = Console(highlight=False), Console(stderr=True, highlight=False)

PromptArgument = Annotated[str | None, typer.Argument(help="What to show. Without it, the recipe's own example.")]
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
SeedOption = Annotated[int | None, typer.Option("--seed", help="Same seed, same video.")]
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
    seed: SeedOption = None,
    count: Annotated[int, typer.Option("--count", min=1, max=1000, help="So many seeds, and a contact sheet.")] = 1,
    overrides: SetOption = None,
    source: Annotated[
        Path | None, typer.Option("--from", metavar="VIDEO", help="Make this video again, from its own settings.")
    ] = None,
) -> None:
    """A prompt in, a video out."""
    from dovetail.run import resolved

    if source is not None and recipe is not None:
        raise typer.BadParameter("--from brings the video's own recipe; give one of --from and --recipe")
    asked: str | Recipe = (recipe or DEFAULT) if source is None else _recipe_of(source)
    made_from = [] if source is None else [source]
    _play(resolved(prompt, asked, seed=seed, frames=frames, overrides=overrides or ()), out, count, made_from)


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
) -> None:
    """Refine any video: an animatic, a draft, another model's clip."""
    from dovetail.run import refining, resolved

    asked = resolved(prompt, recipe or DEFAULT, seed=seed, overrides=overrides or ())
    _play(refining(asked, video, strength, frames), out, 1)


@app.command()
@_taught
def plan(
    recipe: Annotated[str, typer.Argument(help="A shipped recipe's name, or a .yaml file.")] = DEFAULT,
    frames: FramesOption = None,
    overrides: SetOption = None,
) -> None:
    """Say what a run would do, without loading weights."""
    from dovetail.run import plan

    _describe(plan(recipe, frames=frames, overrides=overrides or ()))


@app.command("recipes")
@_taught
def recipes_() -> None:
    """The recipes that ship with dovetail."""
    for name in recipes.names():
        out.print(f"[bold]{name}[/]")
        out.print(f"  {escape(recipes.load(name).about)}")


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


# --- doing and showing -------------------------------------------------------------------------------------------


def _recipe_of(source: Path) -> Recipe:
    from dovetail.video import settings_of

    settings = settings_of(source)
    if not isinstance(settings.get("recipe"), dict):
        raise OutputError(f"{source} carries no recipe of dovetail")
    return recipes.checked(settings["recipe"], str(source))


def _play(recipe: Recipe, target: Path, count: int, inputs: Sequence[Path] = ()) -> None:
    """Run the recipe for `count` seeds from its own on, and write what comes; `inputs` are not to be replaced."""
    from dovetail.run import load
    from dovetail.video import checked_output, save_image, stacked, strip

    kept: list[str | Path] = [*inputs, *([recipe.start.video] if recipe.start else [])]
    checked_output(target, recipe.video.fps, kept)
    runs = {target: recipe}
    if count > 1:
        seeds = range(recipe.video.seed, recipe.video.seed + count)
        names = {seed: target.with_name(f"{target.stem}-{seed}{target.suffix}") for seed in seeds}
        runs = {path: recipes.changed(recipe, {"video.seed": seed}) for seed, path in names.items()}
    for path in runs:
        checked_output(path, recipe.video.fps, kept)
    with _waiting("loading"):
        cast = load(recipe)
    strips = []
    for path, run in runs.items():
        video = _shown(run, cast)
        video.save(path)
        strips.append(strip(video))
        _say(_summary(video, path))
    if count > 1:
        _say(str(save_image(stacked(strips), target.with_name(f"{target.stem}-sheet.png"))))


def _shown(recipe: Recipe, cast: "Cast") -> "Video":
    """Run the recipe under a progress bar; quiet when stderr is no terminal."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    from dovetail.run import Step, stream

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:3.0f}%"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=err, transient=True, disable=not err.is_terminal) as progress:
        task = progress.add_task("preparing", total=1.0)
        for event in stream(recipe, cast):
            if not isinstance(event, Step):
                return event
            done = f"{escape(event.stage)} {event.step}/{event.steps}"
            progress.update(task, completed=event.share, description=done)
    raise AssertionError("a run ends with a video")


@contextmanager
def _waiting(what: str) -> Iterator[None]:
    if not err.is_terminal:
        yield
        return
    with err.status(what):
        yield


def _summary(video: "Video", path: Path) -> str:
    """One line: calls per expert, seconds, peak memory, file."""
    said = video.settings
    calls = ", ".join(f"{name} {count}" for name, count in said["calls"].items())
    share = said["seconds_in_networks"] / max(said["seconds"], 1e-9)
    return f"calls: {calls} · {said['seconds']:.1f} s ({share:.0%} in networks) · {said['peak_megabytes']} MB at most · {path}"


def _say(line: str) -> None:
    out.print(escape(line), soft_wrap=True)


def _describe(plan: "Plan") -> None:
    recipe, video = plan.recipe, plan.recipe.video
    _say(f"{video.frames} frames of {video.width}x{video.height} at {video.fps:g} fps, seed {video.seed}")
    _say(f'prompt: "{recipe.prompt}"' + (f', not "{recipe.negative}"' if recipe.negative else ""))
    for stage in plan.stages:
        levels = " ".join(f"{level:.4g}" for level in stage.ladder.levels)
        solver = type(stage.solver).__name__
        _say(f"\nstage {stage.name}: {stage.ladder.steps} steps by {solver}, noise shares {levels}")
        for line in _tree(stage.denoise, 1):
            _say(line)
        if switches := plan.switches[stage.name]:
            _say(f"  {switches} changes from one step's experts to the next's")
    _say("\nexpert        calls   looks at the whole video, both branches of guidance counted")
    for name, count in plan.counts.items():
        _say(f"{name:<12} {count.calls:>6}   {plan.passes(name):g}")
    for note in plan.notes:
        err.print(f"[yellow]note:[/] {escape(note)}", soft_wrap=True)


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
