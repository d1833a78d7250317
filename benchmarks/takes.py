"""Takes of sprites: of several seeds the one that an expert finds the prompt in, beside the first one and all of them.

    python benchmarks/takes.py run --experts trained --budget 60 --part 0/2 --threads 1
    python benchmarks/takes.py report --experts trained

`run` adds one JSON line per row and prompt to benchmarks/results/takes-EXPERTS.jsonl, with every take's evidence and what
the oracle sees in it, and never makes a line twice; `report` writes the tables beside it as text. In rows of long videos
two are made in full: of the first seed, and of the one that is chosen of four. Prompts are of scenes that training never
draws, leave attributes free, and had no part in how takes are judged.
"""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import monotonic, perf_counter, process_time
from typing import Any

import torch
from harness import HELD, add, arguments, key, mend, mine, must_be_rows, opened, part_of, read, told, weights_of
from machine import machine
from takes_report import report

from dovetail import recipe as recipes
from dovetail import run
from dovetail.errors import PromptWarning
from dovetail.eval.kept import kept
from dovetail.recipe import Recipe
from dovetail.run.choosing import check_takes, taken
from dovetail.sprites.world import Ask, Scene, caption, imagine
from dovetail.video import Video

ROWS = {
    "trained": {"clip": "sprites", "long 256": "sprites-long-control", "long 600": "sprites-long-control"},
    "exact": {"clip": "sprites-exact"},
}
FIRST = HELD + 40_000
"""Scenes of other seeds than those of any other benchmark, and than those by which it was settled how takes are judged."""
TAKES, CHOSEN = 8, 4
"""How many are made of a clip, and of a long video, of which two are made in full."""
MEASURES = 1
"""To be raised when measures change, so that results are made anew."""


@dataclass(frozen=True)
class Cell:
    """One prompt; all rows are shown the same."""

    prompt: int

    @property
    def scene(self) -> Scene:
        return imagine(Ask(), FIRST + self.prompt)

    @property
    def asked(self) -> Ask:
        """The scene's attributes without some of them."""
        return opened(self.scene.ask, FIRST + 1000 * self.prompt)


def main(argv: Sequence[str] | None = None) -> None:
    parser = arguments(__doc__, ROWS, 48, "core-minutes, after which no new line is begun")
    parser.add_argument("--takes", type=int, default=TAKES, help="takes of a clip")
    args = parser.parse_args(argv)
    part = part_of(args)
    must_be_rows(parser, args.only, ROWS[args.experts])
    made = {name: based(name, recipes.load(recipe)) for name, recipe in ROWS[args.experts].items()}
    known = {name: key(f"{MEASURES} {args.takes} {weights_of(one)} {told(one)}") for name, one in made.items()}
    file = args.results / f"takes-{args.experts}.jsonl"
    if args.verb == "run":
        args.results.mkdir(parents=True, exist_ok=True)
        cells = [Cell(p) for p in range(args.prompts) if mine(p, part)]
        play({name: made[name] for name in args.only or made}, known, cells, file, args.budget * 60, args.takes)
    text = report([line for line in read(file) if line["key"] == known.get(line["row"])], args.experts)
    file.with_suffix(".txt").write_text(text, encoding="utf-8")
    print(text)


def based(name: str, recipe: Recipe) -> Recipe:
    """A row's recipe, as decoded: what is held in pixels hides what a take does. Its name ends with the frames of a long
    video."""
    long = name.rpartition(" ")[2]
    bare = recipes.changed(recipe, {"video.still": None})
    return recipes.changed(bare, {"video.frames": int(long)}) if long.isdecimal() else bare


def play(
    made: Mapping[str, Recipe], known: Mapping[str, str], cells: Sequence[Cell], file: Path, budget: float, takes: int
) -> None:
    """Make what is missing, row after row, until the budget is spent."""
    spent, begun = process_time(), monotonic()
    there = {(line["row"], line["key"], line["prompt"]) for line in read(file)}
    mend(file)
    for name, recipe in made.items():
        todo = [cell for cell in cells if (name, known[name], cell.prompt) not in there]
        cast = run.load(recipe) if todo else None
        for cell in todo:
            if process_time() - spent > budget:
                print("budget spent; run again to go on", flush=True)
                return
            line = {"row": name, "key": known[name], "prompt": cell.prompt, **one(recipe, cell, cast, takes)}
            add(file, line | {"machine": machine()})
            print(f"{(monotonic() - begun) / 60:.1f} min  {name}, {cell}", flush=True)


def one(recipe: Recipe, cell: Cell, cast: run.Cast | None, takes: int) -> dict[str, Any]:
    """A prompt's takes, in the order of their seeds, judged and seen; of a long video, the first and the chosen one whole."""
    asked = run.resolved(caption(cell.asked), recipe, seed=1000 * cell.prompt)
    long = recipe.video.frames > 16
    assert cast is not None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PromptWarning)
        begun = perf_counter()
        of = CHOSEN if long else takes
        events = taken(asked, cast, of, check_takes(asked, of, None))
        ranked = [event for _, event in events if isinstance(event, run.Take)]
        seconds = perf_counter() - begun
        made = sum(take.video.settings["seconds"] for take in ranked)
        found: dict[str, Any] = {"seconds": seconds, "judging": max(0.0, seconds - made)}
        if long:
            for word, seed in (("first", asked.video.seed), ("chosen", ranked[0].seed)):
                whole = run.finished(run.play(recipes.changed(asked, {"video.seed": seed}), cast))
                found[word] = seen(whole, cell)
    by_seed = sorted(ranked, key=lambda take: take.seed)
    return found | {"takes": [{"evidence": take.evidence, "scores": seen(take.video, cell)} for take in by_seed]}


@torch.no_grad()
def seen(video: Video, cell: Cell) -> dict[str, float]:
    """What the oracle sees; `right`: all that was asked for, in every frame."""
    found = kept([video.pixels[0]], cell.asked).scores()
    right = found["prompt"] == 1 and found["presence"] == 1
    return found | {"right": float(right), "whole": found["identity_whole"] * found["ground_whole"]}


if __name__ == "__main__":
    main()
