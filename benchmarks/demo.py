"""What `make demo` costs on this machine: seconds after imports, and peak memory, in a process of its own.

python benchmarks/demo.py --threads 2
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

CHILD = """
import json, sys
from time import perf_counter
begun = perf_counter()
import torch
torch.set_num_threads(int(sys.argv[2]))
import dovetail.run, dovetail.experts, dovetail.video
from machine import machine
imported = perf_counter()
video = dovetail.generate(recipe=sys.argv[1], seed=0)
made = perf_counter()
video.save(sys.argv[3])
print(json.dumps({"imports": imported - begun, "generation": made - imported, "writing": perf_counter() - made,
                  "peak_megabytes": dovetail.run.peak_memory(), "calls": video.settings["calls"], "machine": machine()}))
"""
"""Loading the weights counts as generation: it is part of what a user waits for."""


def measured(recipe: str, threads: int) -> dict[str, object]:
    """One demo in a fresh process."""
    with TemporaryDirectory() as folder:
        command = [sys.executable, "-c", CHILD, recipe, str(threads), f"{folder}/demo.mp4"]
        environment = {"PYTHONPATH": str(Path(__file__).parent), "HF_HUB_OFFLINE": "1", "PATH": ""}
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    found: dict[str, object] = json.loads(done.stdout.splitlines()[-1])
    return found


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="sprites")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args(argv)
    runs = [measured(args.recipe, args.threads) for _ in range(args.rounds)]
    print(f"Recipe {args.recipe}. {runs[0]['machine']}\ncalls: {runs[0]['calls']}")
    for name, unit in (("imports", "s"), ("generation", "s"), ("writing", "s"), ("peak_megabytes", "MB")):
        values = sorted(float(str(run[name])) for run in runs)
        print(
            f"{name:15} median {values[len(values) // 2]:8.2f} {unit}, of {len(values)}: {values[0]:.2f} .. {values[-1]:.2f}"
        )
    print("targets: generation <= 10 s on 2 cores after imports, peak memory <= 1536 MB")


if __name__ == "__main__":
    main()
