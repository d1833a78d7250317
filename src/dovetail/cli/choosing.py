"""Takes as a command: made under a bar, ranked, shown side by side."""

from pathlib import Path
from typing import TYPE_CHECKING

from dovetail.cli.saying import err, say, waiting
from dovetail.errors import OutputError
from dovetail.recipe import Recipe

if TYPE_CHECKING:
    from dovetail.run import Cast, Take


def shown_at(picture: Path) -> None:
    """Raises OutputError where no picture can be written; before anything is made."""
    from dovetail.video.places import checked_folder

    if picture.suffix.lower() != ".png":
        raise OutputError(f"takes are shown in a picture, as in -o takes.png, not in {picture}")
    checked_folder(picture.parent)


def chosen(recipe: Recipe, of: int, by: str | None) -> "tuple[list[Take], Cast]":
    """Takes of a recipe, the best first, and the cast that made them."""
    from dovetail.cli.progress import bar
    from dovetail.run import End, Pulse, Take, load
    from dovetail.run.choosing import check_takes, taken

    judge = check_takes(recipe, of, by)
    with waiting("loading"):
        cast = load(recipe)
    found, pulse = list[Take](), Pulse()
    with bar(err, of, pulse) as shown:
        for number, event in taken(recipe, cast, of, judge, pulse):
            if isinstance(event, Take):
                found.append(event)
            elif not isinstance(event, End):
                shown.show(number, event)
    return found, cast


def ranked(found: "list[Take]", picture: Path) -> None:
    """Say how takes rank, and show them side by side, in that order."""
    from dovetail.video import save_image, sheet

    for take in found:
        say(f"seed {take.seed}: {take.evidence:+.3f}")
    say(f"the best first, eight frames of each: {save_image(sheet(take.video for take in found), picture)}")
    say(f"to make it: --seed {found[0].seed}")
