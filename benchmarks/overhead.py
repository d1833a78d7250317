"""What the engine costs on top of the networks.

    python benchmarks/overhead.py --experts random --rounds 7

1. The share of a recipe's wall time that is spent inside networks (experts, VAE, text models).
2. Our engine with one expert against the stock diffusers pipeline over the same networks: prompt in, frames out, equal
   calls, in turns.
3. What it costs that two experts, the packaged ones, take steps in turns, against the same steps of each alone.

`--experts random` are networks of the shipped sizes with random weights, written to a temporary folder by the
code in training/: speed does not ask what a network has learned. `trained` are the packaged ones, and
`exact` has no networks worth the name, so that its share says how much the rest takes in absolute terms.
"""

import argparse
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

import torch
from machine import machine

import dovetail.sprites
from dovetail import recipe as recipes
from dovetail import run
from dovetail.core.ladders import Ladder, shifted
from dovetail.eval.stats import Interval
from dovetail.methods.placements import interleaved, sandwich
from dovetail.recipe import Recipe

TRAINING = Path(__file__).parents[1] / "training"
PACKAGED = Path(dovetail.sprites.__file__).parent / "weights"
EXPERTS = ("control", "temporal")
"""Experts that have a stock pipeline of video."""


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--experts", choices=["trained", "random", "exact"], default="trained")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--steps", type=int, default=5, help="of each expert alone")
    parser.add_argument("--frames", type=int, default=16)
    parser.add_argument("--threads", type=int, default=None)
    args = parser.parse_args(argv)
    if args.threads is not None:
        torch.set_num_threads(args.threads)
    print(f"{args.experts} experts, {args.frames} frames. {machine()}")
    with weights(args.experts) as folder:
        recipe = placed(args.experts, folder, args.frames)
        print(inside(recipe, args.rounds), flush=True)
        for name in EXPERTS if folder is not None else ():
            print(against(recipe, name, folder, args.steps, args.rounds), flush=True)
        if folder is not None:
            print(switching(args.frames, args.rounds), flush=True)


@contextmanager
def weights(experts: str) -> Iterator[Path | None]:
    """The folder that holds vae, spatial, control and temporal."""
    if experts != "random":
        yield PACKAGED if experts == "trained" else None
        return
    with TemporaryDirectory() as folder:
        untrained(Path(folder))
        yield Path(folder)


def untrained(folder: Path) -> None:
    """Checkpoints of the shipped architectures, as they are before training."""
    sys.path.insert(0, str(TRAINING))
    try:
        from networks import SPECS, network, scheduler
        from text import text_model, tokenizer
        from vae import autoencoder
    finally:
        sys.path.remove(str(TRAINING))
    autoencoder().save_pretrained(folder / "vae")
    for name, spec in SPECS.items():
        network(name).save_pretrained(folder / name / "unet")
        text_model(len(tokenizer())).save_pretrained(folder / name / "text_encoder")
        tokenizer().save_pretrained(folder / name / "tokenizer")
        scheduler(spec).save_pretrained(folder / name / "scheduler")


def placed(experts: str, folder: Path | None, frames: int) -> Recipe:
    """The default recipe, its weights taken from a folder."""
    if folder is None:
        return recipes.changed(recipes.load(f"sprites-{experts}"), {"video.frames": frames})
    base = recipes.load("sprites")
    paths = {f"experts.{name}.weights": str(folder / name) for name in base.experts}
    return recipes.changed(base, {**paths, "codec.weights": str(folder / "vae"), "video.frames": frames})


def fresh(cast: run.Cast) -> run.Cast:
    """The same networks, without texts that they have encoded before: stock pipelines encode anew in each run."""
    experts = {name: replace(one, network=replace(one.network)) for name, one in cast.experts.items()}  # type: ignore[type-var]
    return run.Cast(experts, cast.codec)


def inside(recipe: Recipe, rounds: int) -> str:
    """The share of wall time inside networks, of runs of a loaded recipe."""
    cast = run.load(recipe)
    shares, seconds = [], []
    for at in range(rounds + 1):
        settings = run.finished(run.play(recipe, fresh(cast))).settings
        if at:  # the first one warms up
            shares.append(settings["seconds_in_networks"] / settings["seconds"])
            seconds.append(settings["seconds"])
    return (
        f"inside networks: {middle(shares)}, median of {rounds} runs, "
        f"{median(seconds):.2f} s each, {1000 * median((1 - a) * b for a, b in zip(shares, seconds, strict=True)):.0f} ms "
        "outside. Target >= .95 for the default recipe"
    )


def against(recipe: Recipe, name: str, folder: Path, steps: int, rounds: int) -> str:
    """Our engine and the stock pipeline with one expert, in turns, each first in every other round."""
    alone = single(recipe, name, steps)
    cast = run.load(alone)
    stock = pipeline(name, folder, cast)
    guidance = alone.chain[0].denoise.guidance  # type: ignore[union-attr]

    def ours() -> None:
        run.finished(run.play(alone, fresh(cast)))

    def theirs() -> None:
        video = alone.video
        stock(
            alone.prompt,
            negative_prompt=alone.negative,
            num_frames=video.frames,
            height=video.height,
            width=video.width,
            num_inference_steps=steps,
            guidance_scale=guidance,
            generator=torch.Generator().manual_seed(0),
            output_type="np",
        )

    calls = counted(cast.experts[name].network.module, ours), counted(stock.unet, theirs)  # type: ignore[attr-defined]
    if calls[0] != calls[1]:
        raise SystemExit(f"{name}: {calls[0]} calls here, {calls[1]} in the stock pipeline; nothing to compare")
    times: dict[Callable[[], None], list[float]] = {ours: [], theirs: []}
    for at in range(rounds):
        for one in (ours, theirs) if at % 2 else (theirs, ours):
            begun = perf_counter()
            one()
            times[one].append(perf_counter() - begun)
    ratios = [a / b for a, b in zip(times[ours], times[theirs], strict=True)]
    return (
        f"{name} alone, {steps} steps, {calls[0]} calls each: ours {min(times[ours]):.3f} s, {type(stock).__name__} "
        f"{min(times[theirs]):.3f} s (best of {rounds}); ratio of the best {min(times[ours]) / min(times[theirs]):.3f}, "
        f"median of paired ratios {middle(ratios)}. Target <= 1.02"
    )


def switching(frames: int, rounds: int) -> str:
    """FlowBlending's two experts over 20 steps: nine of the large one, early and late or evenly spread, against each
    alone, in turns."""
    base = recipes.changed(recipes.load("sprites-flowblending"), {"video.frames": frames})
    ladder, cast = shifted(20, 3.0), run.load(base)
    letters = {"LLL": "L" * 20, "SSS": "S" * 20, "LSL": sandwich(20, 5, 4), "interleaved": interleaved(20, 9)}
    ways = {
        name: recipes.changed(base, {"chain.video.denoise": shared(ladder, word)}) for name, word in letters.items()
    }
    took: dict[str, list[float]] = {name: [] for name in ways}
    for at in range(rounds + 1):
        for name in list(ways) if at % 2 else reversed(ways):
            begun = perf_counter()
            run.finished(run.play(ways[name], fresh(cast)))
            took[name] += [perf_counter() - begun] if at else []  # the first one warms up
    said = []
    for name in ("LSL", "interleaved"):
        part = letters[name].count("L") / 20
        unmixed = [part * large + (1 - part) * small for large, small in zip(took["LLL"], took["SSS"], strict=True)]
        lost = middle([mixed / alone - 1 for mixed, alone in zip(took[name], unmixed, strict=True)])
        said.append(f"{name}, {sum(a != b for a, b in pairwise(letters[name]))} switches: {lost} of the time")
    return f"{'; '.join(said)}; median of {rounds} rounds. Target <= 0.02"


def shared(ladder: Ladder, letters: str) -> dict[str, Any]:
    """A recipe's blend, a letter per step."""
    who, steps = {"L": "large", "S": "small"}, range(1, ladder.steps)
    changes = {f"above {ladder.between(k):.4f}": who[letters[k - 1]] for k in steps if letters[k] != letters[k - 1]}
    if not changes:
        return {"expert": who[letters[0]], "guidance": 3.0}
    return {"blended": {**changes, "else": who[letters[-1]], "guidance": 3.0}}


def middle(values: Sequence[float], draws: int = 2000) -> Interval:
    """The median, and where it lies in 95 % of resamplings of the rounds."""
    known = torch.tensor(values, dtype=torch.float64)
    drawn = torch.randint(len(values), (draws, len(values)), generator=torch.Generator().manual_seed(0))
    low, high = known[drawn].quantile(0.5, dim=1).quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return Interval(median(values), low, high)


def single(recipe: Recipe, name: str, steps: int) -> Recipe:
    """One expert from noise, guided as the recipe guides it."""
    data = recipes.plain(recipe)
    leaf = data["chain"][0]["denoise"] if name == "control" else data["chain"][1]["denoise"]["coordinated"]["temporal"]
    stage = {"stage": "structure", "ladder": {"trailing": {"of": name, "steps": steps}}, "denoise": leaf}
    return recipes.checked({**data, "chain": [stage]})


def pipeline(name: str, folder: Path, cast: run.Cast) -> Any:
    """The stock pipeline of an expert's family, over the very networks that a cast has loaded: two copies of them lie
    elsewhere in memory, which alone makes a difference of percents."""
    from diffusers import AnimateDiffPipeline, DDIMScheduler, TextToVideoSDPipeline

    leaf: Any = cast.experts[name].network
    parts = {
        "unet": leaf.module,
        "vae": cast.codec.module,  # type: ignore[attr-defined]
        "text_encoder": leaf.text.borrowed.network,
        "tokenizer": leaf.text.tokenizer,
        "scheduler": DDIMScheduler.from_pretrained(folder / name / "scheduler"),
    }
    made = TextToVideoSDPipeline(**parts) if name == "temporal" else AnimateDiffPipeline(**parts, motion_adapter=None)
    made.set_progress_bar_config(disable=True)
    return made


def counted(module: torch.nn.Module, act: Callable[[], None]) -> int:
    """How often a module is called meanwhile."""
    calls = []
    handle = module.register_forward_pre_hook(lambda *_: calls.append(1))
    try:
        act()
    finally:
        handle.remove()
    return len(calls)


if __name__ == "__main__":
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        main()
