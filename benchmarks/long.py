"""Long videos of sprites: ConFiner-Long beside plain concatenation and FreeNoise, and without each of its strategies.

    python benchmarks/long.py run --experts trained --budget 90 --part 0/2 --threads 1
    python benchmarks/long.py report --experts trained

`run` adds one JSON line per way and prompt to benchmarks/results/long-EXPERTS.jsonl, and never makes a line twice, so
it may be killed and started again; a changed recipe, changed weights or changed measures are new lines. Parts share a
file. `report` writes the tables and answers beside it as text. Prompts are of scenes that training never draws, and
leave attributes free: what a prompt does not say is what a long video may lose. Noise is the same for all ways of a
prompt. Frames are measured as they are made, before any lossy file.
"""

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import monotonic, process_time
from typing import Any

import numpy as np
import torch
from harness import HELD, add, along, arguments, key, mend, mine, must_be_rows, opened, part_of, read, told, weights_of
from long_report import report
from long_rows import CLIPS, LONG, SEGMENT, SHORT, rows
from machine import machine
from torch import Tensor

from dovetail import recipe as recipes
from dovetail import run
from dovetail.core.still import Still
from dovetail.errors import PromptWarning
from dovetail.eval.kept import kept
from dovetail.eval.long import measures
from dovetail.eval.seams import borders, seams
from dovetail.eval.series import follow
from dovetail.recipe import Recipe
from dovetail.run.decoding import Holding, still_of
from dovetail.sprites.world import Ask, Scene, caption, imagine, render
from dovetail.video import Frames, Video

RECIPES = {"trained": "sprites-long", "exact": "sprites-long-exact"}
FIRST = HELD + 10_000
"""Scenes of other seeds than those that the default of the short recipes is chosen on."""
MEASURES = 3
"""To be raised when measures change, so that results are made anew."""
REFERENCE = "renderer"
"""The world itself at the long length: what a video keeps that loses nothing."""
MOST = 10.0
"""A border that stands out by more counts as so much, so that one cut does not outweigh all others."""


@dataclass(frozen=True)
class Cell:
    """One prompt; every way is shown the same."""

    prompt: int

    @property
    def scene(self) -> Scene:
        return imagine(Ask(), FIRST + self.prompt)

    @property
    def asked(self) -> Ask:
        """The scene's attributes without some of them, one of the look at least."""
        return opened(self.scene.ask, 1000 * self.prompt)


def main(argv: Sequence[str] | None = None) -> None:
    parser = arguments(__doc__, RECIPES, 60, "core-minutes, after which no new video is begun")
    parser.add_argument("--long", type=int, default=LONG, help="frames of the long ways")
    parser.add_argument("--short", type=int, default=SHORT, help="frames of the ablations")
    args = parser.parse_args(argv)
    part = part_of(args)
    made = rows(recipes.load(RECIPES[args.experts]), args.long, args.short)
    known = keys(made, args.long)
    must_be_rows(parser, args.only, known)
    file = args.results / f"long-{args.experts}.jsonl"
    if args.verb == "run":
        args.results.mkdir(parents=True, exist_ok=True)
        cells = [Cell(p) for p in range(args.prompts) if mine(p, part)]
        play(made, known, list(wanted(cells, list(known), args.only)), file, args.budget * 60)
    text = report([line for line in read(file) if line["key"] == known.get(line["row"])], args.long, args.short)
    out = file.with_suffix(".txt")
    out.write_text(text, encoding="utf-8")
    print(text)


def keys(made: dict[str, Recipe], long: int) -> dict[str, str]:
    """For each row, what its results depend on: its recipe, the packaged weights, the measures."""
    texts = {f"{REFERENCE} {long}": str(MEASURES)}
    texts |= {name: f"{MEASURES} {weights_of(recipe)} {told(recipe)}{along(recipe)}" for name, recipe in made.items()}
    return {name: key(text) for name, text in texts.items()}


def wanted(cells: Sequence[Cell], names: Sequence[str], only: Sequence[str] | None) -> Iterator[tuple[Cell, str]]:
    """What to make, in order, so that a run that ends anywhere leaves balanced tables. FreeNoise, which costs most, is
    made for every second prompt."""
    for cell in cells:
        for name in names:
            if name in only if only is not None else not name.startswith("freenoise") or cell.prompt % 2 == 0:
                yield cell, name


def play(
    made: dict[str, Recipe], known: dict[str, str], asked: Sequence[tuple[Cell, str]], file: Path, budget: float
) -> None:
    """Make what is missing, until the budget is spent."""
    spent, begun = process_time(), monotonic()
    there = {(line["row"], line["key"], line["prompt"]) for line in read(file)}
    todo = [(cell, name) for cell, name in asked if (name, known[name], cell.prompt) not in there]
    casts: dict[str, run.Cast] = {}
    last = -1
    mend(file)
    for done, (cell, name) in enumerate(todo):
        if process_time() - spent > budget:
            print(f"budget spent: {done} of {len(todo)} videos made; run again to go on", flush=True)
            return
        if "exact" in {spec.family for spec in made[next(iter(made))].experts.values()} and cell.prompt != last:
            # Exact experts keep the candidates of the prompts they were asked for last.
            casts, last = {}, cell.prompt
        way = made.get(name)
        result = reference(name, cell) if way is None else one(way, cell, cast_of(way, casts), name.startswith(CLIPS))
        line = {"row": name, "key": known[name], "prompt": cell.prompt, "seed": 0, **result, "machine": machine()}
        add(file, line)
        print(f"{done + 1}/{len(todo)}  {(monotonic() - begun) / 60:.1f} min  {name}, {cell}", flush=True)


def cast_of(recipe: Recipe, casts: dict[str, run.Cast]) -> run.Cast:
    """Experts and autoencoder of a way, which most of them share."""
    whole = recipes.plain(recipe)
    mine = str((whole["experts"], whole["codec"]))
    return casts[mine] if mine in casts else casts.setdefault(mine, run.load(recipe))


def one(recipe: Recipe, cell: Cell, cast: run.Cast, apart: bool = False) -> dict[str, Any]:
    """A way's video of a cell, measured. apart: frames are held in each segment on its own."""
    asked = run.resolved(caption(cell.asked), recipe, seed=cell.prompt)
    still = still_of(asked) if apart else None
    if apart:
        asked = recipes.changed(asked, {"video.still": None})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PromptWarning)
        video = run.finished(run.play(asked, cast))
    frames = video.frames if still is None else segments_held(video.frames, still)
    own = borders(video.settings, len(frames))
    facts = {name: video.settings[name] for name in ("calls", "seconds", "seconds_in_networks")}
    return {
        "scores": scores(
            Video(frames, 1.0).pixels[0], cell.asked, sorted({b for stage in own.values() for b in stage})
        ),
        **facts,
    }


def segments_held(frames: Frames, still: Still) -> Frames:
    """Frames uint8 "f h w c", each segment held to what stands still in it, as a run would hold it by itself."""
    held = []
    for begin in range(0, len(frames), SEGMENT):
        piece = iter([(frames[begin : begin + SEGMENT], torch.zeros(0))])
        held += [done for done, _ in Holding(still).add(piece, last=True)]
    return np.concatenate(held)


def reference(name: str, cell: Cell) -> dict[str, Any]:
    """The world itself, measured at the borders of plain concatenation."""
    frames = int(name.rpartition(" ")[2])
    video = ((render(cell.scene, range(frames)) + 1) * 127.5).round() / 127.5 - 1
    return {"scores": scores(video, cell.asked, range(SEGMENT, frames, SEGMENT)), "seconds": 0.0}


@torch.no_grad()
def scores(video: Tensor, asked: Ask, own: Sequence[int]) -> dict[str, float]:
    """What is measured of a video. Seams are counted at its own borders, if it has any; `border` and the oracle's numbers on
    motion at those of segments, which all ways have in common."""
    series, common = follow([video]), list(range(SEGMENT, len(video), SEGMENT))
    found = measures(series, own or common).scores() | kept([video], asked, common).scores()
    found |= {f"{name}_e3": 1000 * found[name] for name in ("warping_error", "detail_drift")}
    found["border"] = float(seams(series)[common].clamp(max=MOST).mean())
    found["whole"] = found["identity_whole"] * found["ground_whole"]
    found["no_rhythm"] = float(found["rhythm"] < 4)
    return found


if __name__ == "__main__":
    main()
