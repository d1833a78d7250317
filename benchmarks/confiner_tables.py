"""ConFiner's Tables 1, 3, 4 and 5 on sprites, as far as a budget reaches.

    python benchmarks/confiner_tables.py run --experts trained --budget 90
    python benchmarks/confiner_tables.py report --experts trained

`run` adds one JSON line per method, prompt and seed to benchmarks/results/confiner-EXPERTS.jsonl, and
never makes a line twice, so it may be killed and started again; a changed recipe or changed weights
are new lines. Two processes, `--part 0/2 --threads 1` and `--part 1/2 --threads 1`, share a file and use two
cores better than one does. `report` writes the tables beside it as text. Prompts are captions of scenes that
training never draws. Noise is the same for all methods of a prompt and seed.
"""

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any

import torch
from harness import HELD, add, arguments, key, mend, mine, must_be_rows, part_of, read, told, weights_of
from machine import machine
from methods import CORE, OPEN, REFERENCES, rows
from report import report
from torch import Tensor

from dovetail import recipe as recipes
from dovetail import run
from dovetail.errors import PromptWarning
from dovetail.eval.pixel import measure
from dovetail.recipe import Recipe
from dovetail.recipe.planning import plan
from dovetail.sprites.degrade import degrade
from dovetail.sprites.oracle import judge
from dovetail.sprites.world import Ask, Scene, caption, imagine, render

RECIPES = {"trained": "sprites", "exact": "sprites-exact"}


@dataclass(frozen=True)
class Cell:
    """One prompt and one seed; every method is shown the same."""

    prompt: int
    seed: int

    @property
    def scene(self) -> Scene:
        return imagine(Ask(), HELD + self.prompt)

    def asked(self, row: str) -> Ask:
        """What a row's prompt says of the scene: all, or not how it looks."""
        whole = self.scene.ask
        return Ask(shape=whole.shape, motion=whole.motion) if row.startswith(OPEN) else whole

    @property
    def noise(self) -> int:
        """No two prompts share noise, or the bootstrap over prompts would not see how much it matters."""
        return 1000 * self.prompt + self.seed


def main(argv: Sequence[str] | None = None) -> None:
    parser = arguments(__doc__, RECIPES, 100, "minutes, after which no new video is begun")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--frames", type=int, default=16)
    args = parser.parse_args(argv)
    part = part_of(args)
    base = recipes.changed(recipes.load(RECIPES[args.experts]), {"video.frames": args.frames})
    known = fingerprints(base)
    must_be_rows(parser, args.only, known)
    file = args.results / f"confiner-{args.experts}.jsonl"
    if args.verb == "run":
        args.results.mkdir(parents=True, exist_ok=True)
        cells = [Cell(p, s) for s in range(args.seeds) for p in range(args.prompts) if mine(p, part)]
        play(base, known, cells, args.only, file, args.budget * 60)
    text = report([line for line in read(file) if line["key"] == known.get(line["row"])], args.experts, args.frames)
    out = file.with_suffix(".txt")
    out.write_text(text, encoding="utf-8")
    print(text)


def fingerprints(base: Recipe) -> dict[str, str]:
    """For each row, what its results depend on: its recipe, and the packaged weights."""
    weights = weights_of(base)
    texts = {name: told(recipe) + OPEN * name.startswith(OPEN) for name, recipe in rows(base).items()}
    texts |= dict.fromkeys(REFERENCES, f"{base.codec} {base.video}")
    return {name: key(weights, text) for name, text in texts.items()}


def wanted(cells: Sequence[Cell], names: Sequence[str], only: Sequence[str] | None) -> Iterator[tuple[Cell, str]]:
    """What to make, in order, so that a run that ends anywhere leaves balanced tables."""
    for cell in cells:
        for name in names:
            if name in only if only is not None else name in (*CORE, *REFERENCES) or cell.prompt % 2 == 0:
                yield cell, name


def play(
    base: Recipe, known: dict[str, str], cells: Sequence[Cell], only: Sequence[str] | None, file: Path, budget: float
) -> None:
    """Make what is missing, until the budget is spent."""
    begun, made = monotonic(), rows(base)
    there = {(line["row"], line["key"], line["prompt"], line["seed"]) for line in read(file)}
    todo = [
        (cell, name)
        for cell, name in wanted(cells, [*REFERENCES, *made], only)
        if (name, known[name], cell.prompt, cell.seed) not in there
    ]
    cast, last = run.load(base), -1
    mend(file)
    for done, (cell, name) in enumerate(todo):
        if monotonic() - begun > budget:
            print(f"budget spent: {done} of {len(todo)} videos made; run again to go on", flush=True)
            return
        if base.experts["control"].family == "exact" and cell.prompt != last:
            # Exact experts keep the candidates of the prompts they were asked for last.
            cast, last = run.load(base), cell.prompt
        result = (
            reference(name, cell, cast, base)
            if name in REFERENCES
            else one(made[name], cell.asked(name), cell.noise, cast)
        )
        line = {"row": name, "key": known[name], "prompt": cell.prompt, "seed": cell.seed, **result}
        line["machine"] = machine()
        add(file, line)
        print(f"{done + 1}/{len(todo)}  {(monotonic() - begun) / 60:.1f} min  {name}, {cell}", flush=True)


def one(recipe: Recipe, ask: Ask, seed: int, cast: run.Cast) -> dict[str, Any]:
    """A method's video of what is asked, measured."""
    asked = run.resolved(caption(ask), recipe, seed=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PromptWarning)
        video = run.finished(run.play(asked, cast))
    ahead = plan(asked, run.known_of(cast))
    facts = {name: video.settings[name] for name in ("calls", "seconds", "seconds_in_networks")}
    # A plan is an upper bound where calls depend on what is seen; what was called is known now.
    looks = {name: ahead.passes(name) * facts["calls"][name] / ahead.counts[name].calls for name in ahead.counts}
    return {"scores": scores(video.pixels[0], ask), **facts, "looks": looks}


@torch.no_grad()
def reference(name: str, cell: Cell, cast: run.Cast, base: Recipe) -> dict[str, Any]:
    """The world itself, measured: ceilings and floor."""
    scene = Cell(cell.prompt + 1, cell.seed).scene if name == "wrong caption" else cell.scene
    video = render(scene, range(cell.seed * 100, cell.seed * 100 + base.video.frames))
    if name == "renderer, degraded":
        video = degrade(video)
    if name in ("renderer, codec", "renderer, degraded"):
        video = cast.codec.decode(cast.codec.encode(video[None]))[0]
    return {
        "scores": scores(video, cell.scene.ask),
        "calls": {},
        "seconds": 0.0,
        "seconds_in_networks": 0.0,
        "looks": {},
    }


def scores(video: Tensor, asked: Ask) -> dict[str, float]:
    """The oracle's numbers and the stand-ins. Texture is a score of dotted objects alone: solid ones have none."""
    found = judge(video, asked).scores()
    found["identity"] = 1 - found.pop("switches")
    texture = found.pop("texture_contrast")
    if asked.texture == "dotted":
        found["texture"] = texture
    return found | measure(video).scores()


if __name__ == "__main__":
    main()
