"""Calibration as a command: prompts from a file, a bar, what was found."""

from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING

from rich.markup import escape

from dovetail.cli.saying import err, say
from dovetail.errors import OutputError, RecipeError
from dovetail.recipe import Recipe

if TYPE_CHECKING:
    from dovetail.calibrate.running import Settings
    from dovetail.calibrate.stability import Stability


def prompts_in(file: Path | None) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """A file's prompts before and after its first empty line."""
    if file is None:
        return (), ()
    try:
        lines = file.read_text(encoding="utf-8").strip().splitlines()
    except (OSError, UnicodeDecodeError) as problem:
        raise RecipeError(f"{file} is no list of prompts that can be read: {problem}") from None
    lines = [line.strip() for line in lines]  # an empty line may hold blanks, which nobody sees
    end = lines.index("") if "" in lines else len(lines)
    first, second = (tuple(line for line in part if line) for part in (lines[:end], lines[end:]))
    if not first:
        raise RecipeError(f"{file} holds no prompts; one a line")
    return first, second


def spared(source: str, folder: Path, name: str) -> None:
    """Raises OutputError where the recipe that is written would take the place of the one that is read."""
    written = folder / f"{name}.yaml"
    if written.is_file() and Path(source).is_file() and written.samefile(source):
        raise OutputError(
            f"the recipe with its boundaries would take the place of {source}, which it is made from; name another "
            f"folder, as in --out {quote(f'{name}-calibrated')}"
        )


def calibrated(recipe: Recipe, folder: Path, settings: "Settings", name: str) -> None:
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
        kept = " <- written" if rule == settings.by else ""
        sure = _sure(found.stability[rule]) if rule in found.stability else ""
        say(f"{rule:<7} {found.placed(rule)} · {share:.0%} of {found.case.names[0]} at every step{sure}{kept}")
    wide = max(map(len, found.likeness), default=0)
    for scheme, scores in found.likeness.items():
        say(f"  {scheme:<{wide}} " + ", ".join(f"{measure} {value:.3f}" for measure, value in scores.items()))
    for note in found.case.notes:
        err.print(f"[yellow]note:[/] {escape(note)}", soft_wrap=True)
    say("\n".join(str(file) for file in found.files))


def _sure(it: "Stability") -> str:
    """How stable a choice is over prompts drawn anew."""
    return f" · prompts drawn anew: {it.letters} in {it.same:.0%}, there {it.where}"
