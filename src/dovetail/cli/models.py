"""The commands `dovetail models` and `dovetail doctor`."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from dovetail.cli.saying import err, out, say, taught

if TYPE_CHECKING:
    from dovetail.experts.hub import Stock, Want

WhatArgument = Annotated[
    str,
    typer.Argument(metavar="WHAT", help="A recipe (its name, or a .yaml file), or a model of the hub: OWNER/REPO."),
]
WholeArgument = Annotated[
    str,
    typer.Argument(
        metavar="WHAT",
        help="A recipe, a model of the hub (OWNER/REPO), or weights here: a folder, a file, sprites/NAME.",
    ),
]
RevisionOption = Annotated[
    str | None, typer.Option("--revision", metavar="NAME", help="Of a model: a branch, a tag or a commit, for main.")
]
VariantOption = Annotated[
    str | None, typer.Option("--variant", metavar="NAME", help="Of a model: the files of another precision, as fp16.")
]
OfflineOption = Annotated[bool, typer.Option("--offline", help="Ask the cache alone; nothing goes over the network.")]


def models() -> typer.Typer:
    """The commands under `dovetail models`."""
    app = typer.Typer(
        help="Published weights: which there are, how large, bringing and checking them.", no_args_is_help=True
    )
    for command in (list_, size, pull, verify):
        app.command(command.__name__.rstrip("_"))(taught(command))
    return app


def list_() -> None:
    """The models that shipped recipes take from the hub, then others that experts can be: licence, size, how much of it
    is here, who uses it."""
    from dovetail.experts.hub import cached
    from dovetail.experts.shelf import licence_of
    from dovetail.run.wants import commit_said, shelved, shipped, state

    for want, users in (*shipped().items(), *((want, []) for want in shelved())):
        out.print(f"[bold]{escape(str(want))}[/]{escape(_which(want))}", soft_wrap=True)
        say(f"  {licence_of(want.repo)}")
        stock = cached(want)
        say(f"  {state(stock)}")
        if commit := commit_said(stock):
            say(f"  {commit}")
        say(f"  used by {', '.join(users)}" if users else "  in no shipped recipe")


def size(
    what: WhatArgument,
    offline: OfflineOption = False,
    revision: RevisionOption = None,
    variant: VariantOption = None,
) -> None:
    """How large what is needed is, file by file, and how much of it is still to come."""
    from dovetail.errors import WeightsError
    from dovetail.experts.shelf import SHELF, meant
    from dovetail.run.wants import state

    stocks = _stocks(what, revision, variant, offline)
    for stock in stocks:
        _head(stock)
        for file in stock.files:
            mark = "here" if file.here else "damaged" if file.place is not None else "to come"
            say(f"  {_giga(file.size)}  {mark:<8} {file.name}")
        if not stock.files:
            say(f"  {state(stock)}")
    _total(stocks)
    if stocks and not any(stock.files or stock.want.repo in SHELF for stock in stocks):
        raise WeightsError(
            f"nothing here tells how large '{what}' is{meant(stocks[0].want.repo)}; without --offline, the hub is asked"
        )


def pull(
    what: WhatArgument,
    offline: OfflineOption = False,
    revision: RevisionOption = None,
    variant: VariantOption = None,
) -> None:
    """Bring what a recipe takes, or all of a model that experts can load, into the cache: only that, each file checked.
    What was broken off goes on."""
    from dovetail.errors import WeightsError
    from dovetail.experts.pulling import pull as pulled
    from dovetail.experts.refusals import pulls
    from dovetail.run.wants import state

    stocks = _stocks(what, revision, variant, offline)
    for stock in stocks:
        _head(stock)
    _total(stocks)
    if offline:
        lacks = [f"{stock.want.pinned}: {state(stock)}" for stock in stocks if not stock.whole]
        if lacks:
            raise WeightsError("not all is here, and --offline brings nothing. " + "; ".join(lacks))
        return
    for stock in stocks:
        if stock.missing:
            total = sum(file.size or 0 for file in stock.missing)
            with _stopped(pulls(what, revision, variant)), _bar(str(stock.want), total) as told:
                for file in pulled(stock, told):
                    say(f"  {_giga(file.size)}  {stock.want.repo}/{file.name}")
    say(f"all of {what} is here")


def verify(what: WholeArgument, revision: RevisionOption = None, variant: VariantOption = None) -> None:
    """Hash the files that are here, and compare with what the hub has said of them; asks nobody. Weights that are not the
    hub's are read through: whether they are whole, and all numbers finite."""
    from dovetail.errors import WeightsError
    from dovetail.experts.hub import cached, verified
    from dovetail.experts.refusals import pulls
    from dovetail.experts.shelf import meant
    from dovetail.experts.soundness import again
    from dovetail.run.wants import local_of, wants_of

    damaged: list[str] = []
    counts = dict.fromkeys(("right", "whole", "damaged", "missing", "unknown"), 0)
    wants, ours = wants_of(what, revision, variant), local_of(what)
    for stock in map(cached, wants):
        if not stock.files:
            damaged.append(f"{stock.want.pinned} is not in the cache{meant(stock.want.repo)}")
        else:
            say(f"{stock.want} @ {stock.commit}")
        for file, verdict in verified(stock):
            counts[verdict] += 1
            if verdict == "damaged":
                assert file.place is not None
                damaged.append(f"{stock.want.repo}/{file.name} is damaged; delete {file.place.resolve()}")
            elif verdict == "missing":
                damaged.append(f"{stock.want.repo}/{file.name} is missing")
            say(f"  {verdict:<8} {stock.want.repo}/{file.name}")
    remedies = [f"{pulls(what, revision, variant)} brings what is not here"] if damaged else []
    for weights in ours:
        states = list(_examined(weights, counts))
        damaged += states
        remedies += [again(weights)] if states else []
    say(", ".join(f"{count} {verdict}" for verdict, count in counts.items() if count) or "nothing to verify")
    if counts["whole"]:
        say(
            "whole: no digest tells whether these are their author's, but nothing is lacking and all numbers are finite"
        )
    if damaged:
        raise WeightsError("\n".join(dict.fromkeys((*damaged, *remedies))))


def _examined(weights: str, counts: dict[str, int]) -> Iterator[str]:
    """Say and count the state of each file of weights that are not the hub's; what is wrong comes out."""
    from dovetail.experts.wholeness import examined

    for name, state, wrong in examined(weights):
        counts[state] += 1
        say(f"  {state:<8} {name}")
        if wrong:
            yield f"{name}: {wrong}"


def doctor() -> None:
    """Versions, devices, memory, disk and cache of this machine, and which shipped recipes fit it and why not."""
    from dovetail.cli.doctor import examined

    for line in examined():
        say(line)


# --- saying ------------------------------------------------------------------------------------------------------


def _wants(what: str, revision: str | None, variant: str | None) -> tuple["Want", ...]:
    from dovetail.run.wants import wants_of

    found = wants_of(what, revision, variant)
    if not found:
        say(f"{what} takes nothing from the hub")
    return found


def _stocks(what: str, revision: str | None, variant: str | None, offline: bool) -> "list[Stock]":
    from dovetail.experts.hub import cached, listed
    from dovetail.experts.refusals import pulls

    there = pulls(what, revision, variant, "size").rstrip("`")
    remedy = (
        f"{pulls(what, revision, variant)} brings all that is asked for; without one, {there} --offline` says what of it is "
        "here, and the sizes that are written down"
    )
    return [cached(want) if offline else listed(want, remedy) for want in _wants(what, revision, variant)]


def _which(want: "Want") -> str:
    from dovetail.run.wants import EVERYTHING

    parts = [part for part in want.parts if part and want.parts != EVERYTHING]
    return f"{f', variant {want.variant}' if want.variant else ''}{': ' if parts else ''}{', '.join(parts)}"


def _head(stock: "Stock") -> None:
    from dovetail.experts.shelf import SHELF, licence_of

    licence = licence_of(stock.want.repo) if stock.want.repo in SHELF or not stock.licence else stock.licence
    commit = "" if stock.commit is None else f" @ {stock.commit[:12]}"
    name = stock.want.pinned if stock.commit is None else str(stock.want)
    out.print(f"[bold]{escape(name)}[/]{escape(commit)}  licence: {escape(licence)}", soft_wrap=True)


def _total(stocks: "list[Stock]") -> None:
    from dovetail.experts.cache import cache_folder
    from dovetail.experts.pulling import free, kept

    if not any(stock.files for stock in stocks):
        return
    come = sum(file.size or 0 for stock in stocks for file in stock.missing) - sum(map(kept, stocks))
    whole = sum(stock.size for stock in stocks)
    room = free(cache_folder())
    say(f"{whole / 1e9:.2f} GB in all, {come / 1e9:.2f} GB to come; {room / 1e9:.0f} GB free at {cache_folder()}")


@contextmanager
def _stopped(command: str) -> Iterator[None]:
    """Who presses Ctrl-C is told how to go on."""
    try:
        yield
    except KeyboardInterrupt:
        err.print(f"[yellow]note:[/] stopped; {escape(command)} goes on where it was", soft_wrap=True)
        raise


@contextmanager
def _bar(name: str, total: int) -> Iterator[Callable[[int], None]]:
    """A progress bar, where somebody looks; what it gives is told the bytes that have come."""
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns: list[Any] = [TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn()]
    with Progress(*columns, TimeRemainingColumn(), console=err, transient=True, disable=not err.is_terminal) as bar:
        task = bar.add_task(name, total=total)
        yield lambda count: bar.advance(task, count)


def _giga(size: int | None) -> str:
    return "      ?   " if size is None else f"{size / 1e9:>7.3f} GB"
