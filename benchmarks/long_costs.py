"""What long video costs: memory and time at lengths, the share outside networks, and diffusers' FreeNoise beside it.

    python benchmarks/long_costs.py lengths --frames 32 64 600 6000 --threads 2
    python benchmarks/long_costs.py lengths --recipe sprites-story --frames 96 192 384 --threads 2
    python benchmarks/long_costs.py against --frames 64 128 --rounds 5 --threads 2

`lengths` makes one video per length, each in a process of its own, kept in a run's folder as `dovetail generate` does, into
an .mp4: once with experts loaded, and as a user waits for it, from the start of the process on. A length
that has its line in benchmarks/results/long-lengths.jsonl (same recipe, weights and machine) is not made again. What a
method that holds the whole video takes for each further 100 frames is said as well.
`against` takes ConFiner-Long's first stage alone, and diffusers' AnimateDiff with FreeNoise, both with the sprites'
control expert, the same steps and guidance: every frame is looked at equally often, which is checked. Time is taken in
turns in one process, memory in a process for each.
"""

import argparse
import json
import subprocess
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any
from unittest.mock import patch

import torch
from harness import RESULTS, read
from long import keys
from machine import machine
from overhead import PACKAGED, fresh, pipeline

import dovetail
from dovetail import recipe as recipes
from dovetail import run
from dovetail.recipe import Recipe
from dovetail.run import growing
from dovetail.run.growing import encoded

SIDES = ("ours", "diffusers")
CONTEXT, STRIDE = 16, 4
"""Of FreeNoise, as published."""


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("verb", choices=["lengths", "against", "child"])
    parser.add_argument("--frames", type=int, nargs="+", required=True)
    parser.add_argument("--recipe", default="sprites-long", help="of lengths")
    parser.add_argument("--rounds", type=int, default=5, help="of against")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--side", choices=["length", *SIDES], default="length", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    if args.verb == "child":
        print(json.dumps(child(args.side, args.recipe, args.frames[0])))
    elif args.verb == "lengths":
        print(lengths(args.recipe, args.frames, args.threads, args.results), end="")
    else:
        print("\n".join(against(frames, args.rounds, args.threads) for frames in args.frames))


def alone(side: str, frames: int, recipe: str, threads: int) -> dict[str, Any]:
    """A child's answer."""
    command = [sys.executable, __file__, "child", "--side", side, "--frames", str(frames), "--recipe", recipe]
    begun = perf_counter()
    done = subprocess.run([*command, "--threads", str(threads)], capture_output=True, text=True, check=False)
    seconds = perf_counter() - begun
    if done.returncode:
        raise SystemExit(done.stderr)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found | {"seconds_in_all": round(seconds, 3)}


def child(side: str, recipe: str, frames: int) -> dict[str, Any]:
    """One video, and the most memory that this process has held."""
    if side == "length":
        return written(recipes.changed(recipes.load(recipe), {"video.frames": frames}))
    act = ours(structure(frames))[0] if side == "ours" else theirs(structure(frames))[0]
    act()
    return {"peak_megabytes": run.peak_memory()}


# --- memory and time at lengths ----------------------------------------------------------------------------------


def written(recipe: Recipe) -> dict[str, Any]:
    """A video in a run's folder, as `dovetail generate` keeps it, and its file: seconds in all, in networks and
    autoencoder, in the encoder."""
    cast, encoding = run.load(recipe), [0.0]

    def encoder(*given: Any) -> Any:
        begun = perf_counter()
        try:
            return encoded(*given)
        finally:
            encoding[0] += perf_counter() - begun

    with TemporaryDirectory() as folder, patch.object(growing, "encoded", encoder):
        begun = perf_counter()
        # Pieces are let go of as they come.
        (end,) = (one for one in run.keep(recipe, Path(folder) / "long.mp4", cast=cast) if isinstance(one, run.End))
        seconds = perf_counter() - begun
    found = {"seconds": round(seconds, 3), "seconds_in_networks": end.settings["seconds_in_networks"]}
    return found | {"seconds_in_encoder": round(encoding[0], 3), "peak_megabytes": run.peak_memory()}


def lengths(name: str, frames: Sequence[int], threads: int, results: Path) -> str:
    """A line per length, and the targets."""
    results.mkdir(parents=True, exist_ok=True)
    file, rows = results / "long-lengths.jsonl", {}
    for count in frames:
        recipe = recipes.changed(recipes.load(name), {"video.frames": count})
        known = {"recipe": name, "frames": count, "key": keys({name: recipe}, 0)[name], "machine": machine()}
        there = [line for line in read(file) if line.items() >= known.items()]
        if not there:
            there = [known | alone("length", count, name, threads)]
            with file.open("a", encoding="utf-8") as out:
                out.write(json.dumps(there[0]) + "\n")
        rows[count] = there[-1]
    return table(name, rows)


def table(name: str, rows: dict[int, dict[str, Any]]) -> str:
    """Time per frame, memory and overhead at each length, and which targets they meet."""
    said = [
        f"{name}. {next(iter(rows.values()))['machine']}",
        "frames   s/frame   with the start   peak MB   outside networks and codecs",
    ]
    for count, row in rows.items():
        times = f"{each(row, count):7.4f}   {each(row, count, 'seconds_in_all'):14.4f}"
        said.append(f"{count:>6}   {times}   {row['peak_megabytes']:7.1f}   {outside(row):.1%}")
    peaks = {count: row["peak_megabytes"] for count, row in rows.items()}
    for long, short, most in ((6000, 600, 1.05), (600, 32, 1.25)):
        if long in peaks and short in peaks:
            ratio = peaks[long] / peaks[short]
            said.append(f"peak memory at {long} / at {short}: {ratio:.3f}, target <= {most}: {yes(ratio <= most)}")
    if len(peaks) > 1:
        short, long = min(peaks), max(peaks)
        more = (peaks[long] - peaks[short]) / (long - short) * 100
        said.append(f"memory for each further 100 frames, from {short} to {long}: {more:.1f} MB")
    if 600 in rows and 64 in rows:
        for clock, what in (("seconds_in_all", "from the start of the process"), ("seconds", "with experts loaded")):
            ratio = each(rows[600], 600, clock) / each(rows[64], 64, clock)
            said.append(f"time per frame at 600 / at 64, {what}: {ratio:.3f}, target <= 1: {yes(ratio <= 1)}")
        said.append(f"looks at a frame at 600 / at 64, whose ends lie in fewer windows: {looks(name, 600, 64)}")
    worst = max(outside(row) for row in rows.values())
    said.append(f"outside networks and codecs: {worst:.1%} at most, target <= 5 %: {yes(worst <= 0.05)}")
    return "\n".join(said) + "\n"


def looks(name: str, long: int, short: int) -> str:
    """How much more often each expert of a recipe sees a frame of the longer video."""
    changed = [recipes.changed(recipes.load(name), {"video.frames": frames}) for frames in (long, short)]
    more, less = (dovetail.plan(recipe).counts for recipe in changed)
    return ", ".join(f"{who} {more[who].frames / long / (less[who].frames / short):.3f}" for who in more)


def each(row: dict[str, Any], frames: int, clock: str = "seconds") -> float:
    return float(row[clock]) / frames


def outside(row: dict[str, Any]) -> float:
    return 1 - float(row["seconds_in_networks"] + row["seconds_in_encoder"]) / float(row["seconds"])


def yes(holds: bool) -> str:
    return "yes" if holds else "no"


# --- beside diffusers --------------------------------------------------------------------------------------------


def structure(frames: int) -> Recipe:
    """ConFiner-Long's first stage alone, its windows side by side as published, so that frames are looked at equally often."""
    data = recipes.plain(recipes.load("sprites-long-paper"))
    return recipes.changed(recipes.checked({**data, "chain": data["chain"][:1]}), {"video.frames": frames})


def ours(recipe: Recipe) -> tuple[Callable[[], Any], torch.nn.Module]:
    """A run of ours, and its network."""
    cast = run.load(recipe)

    def act() -> None:
        # Frames are let go as they come, as they are when they go to a file.
        for _ in run.play(recipe, fresh(cast)):
            pass

    return act, cast.experts["control"].network.module  # type: ignore[attr-defined]


def theirs(recipe: Recipe) -> tuple[Callable[[], Any], torch.nn.Module]:
    """A run of diffusers' AnimateDiff with FreeNoise: the same weights, steps, guidance and size."""
    from diffusers import MotionAdapter

    # Networks of its own: FreeNoise changes them.
    stock, video = pipeline("control", PACKAGED, run.load(recipe)), recipe.video
    # FreeNoise asks the adapter for the longest clip; the motion modules themselves are in the network already.
    longest = stock.unet.config.motion_max_seq_length
    stock.register_modules(
        motion_adapter=MotionAdapter(
            (64,), motion_norm_num_groups=8, motion_num_attention_heads=4, motion_max_seq_length=longest
        )
    )
    stock.enable_free_noise(context_length=CONTEXT, context_stride=STRIDE)
    leaf = recipe.chain[0].denoise.of  # type: ignore[union-attr]

    def act() -> None:
        stock(
            recipe.prompt,
            negative_prompt=recipe.negative,
            num_frames=video.frames,
            height=video.height,
            width=video.width,
            num_inference_steps=recipe.chain[0].ladder.steps,  # type: ignore[union-attr]
            guidance_scale=leaf.guidance,
            generator=torch.Generator().manual_seed(0),
            output_type="np",
        )

    return act, stock.unet


def looked(module: torch.nn.Module, act: Callable[[], Any]) -> int:
    """How many frames a network is shown meanwhile, both branches of guidance counted."""
    seen: list[int] = []

    def count(_: torch.nn.Module, args: Any, options: Any) -> None:
        x = args[0] if args else options["sample"]
        seen.append(x.shape[0] * x.shape[2])

    handle = module.register_forward_pre_hook(count, with_kwargs=True)
    try:
        act()
    finally:
        handle.remove()
    return sum(seen)


def against(frames: int, rounds: int, threads: int) -> str:
    """Both sides at a length: time in turns, each first in every other round; memory alone."""
    recipe = structure(frames)
    sides = dict(zip(SIDES, (ours(recipe), theirs(recipe)), strict=True))
    looks = {side: looked(module, act) for side, (act, module) in sides.items()}
    if len(set(looks.values())) > 1:
        raise SystemExit(f"frames looked at: {looks}; they differ, so there is nothing to compare")
    times: dict[str, list[float]] = {side: [] for side in SIDES}
    for at in range(rounds):
        for side in SIDES if at % 2 else reversed(SIDES):
            begun = perf_counter()
            sides[side][0]()
            times[side].append((perf_counter() - begun) / frames)
    ratios = sorted(a / b for a, b in zip(*times.values(), strict=True))
    peaks = {side: alone(side, frames, "sprites-long", threads)["peak_megabytes"] for side in SIDES}
    shown = ", ".join(f"{side} {median(times[side]):.4f} s per frame, {peaks[side]:.0f} MB" for side in SIDES)
    return (
        f"{frames} frames, {looks['ours']} looks each: {shown}; ratio of times, median of {rounds} pairs "
        f"{median(ratios):.3f} ({ratios[0]:.3f} .. {ratios[-1]:.3f}), target < 1: {yes(median(ratios) < 1)}. {machine()}"
    )


if __name__ == "__main__":
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        main()
