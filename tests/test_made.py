"""What recipes over the trained sprite experts make, as small pictures that are kept beside this file.

Result lines of benchmarks say by which recipe, weights and measures they were made; that the code still makes the same
is said here. Where a change is meant, `python tests/test_made.py` writes the pictures anew, and the tables under
benchmarks/results that hold this recipe are to be made again.
"""

import json
from pathlib import Path

import numpy as np
import pytest

import dovetail
from dovetail import recipe as recipes

FILE = Path(__file__).with_name("made.json")
RECIPES = {
    "sprites": 16,
    "sprites-flowblending": 16,
    "sprites-long": 24,
    "sprites-long-control": 24,
    "sprites-story": 24,
}
"""Frames: two windows of what has windows."""
SIDE = 4
"""Of a small picture, in blocks of pixels."""
CLOSE = 0.4
"""What pictures may differ by in the mean, of 255. More threads, which round otherwise, change nothing here; the fault this
was written for, unlike noises averaged where windows overlap, .8 to 1.2."""


def small(name: str) -> list[list[int]]:
    """Red, green and blue of the blocks of the first, the middle and the last frame."""
    told = {"story.events": ["it moves right", "it moves down"]} if "story" in name else {}
    recipe = recipes.changed(recipes.load(name), {"video.frames": RECIPES[name], **told})
    frames = dovetail.generate(recipe=recipe).frames
    few = frames[[0, len(frames) // 2, -1]].astype(float)
    side = few.shape[1] // SIDE
    blocks = few.reshape(3, SIDE, side, SIDE, side, 3).mean((2, 4))
    return [picture.ravel().round().astype(int).tolist() for picture in blocks]


@pytest.mark.weights
@pytest.mark.parametrize("name", RECIPES)
def test_recipes_make_what_they_made(name: str) -> None:
    kept = json.loads(FILE.read_text(encoding="utf-8"))
    apart = np.abs(np.subtract(small(name), kept[name])).mean()
    assert apart <= CLOSE, f"{name} makes another video; if that is meant, see the top of {Path(__file__).name}"


if __name__ == "__main__":
    import torch

    torch.set_num_threads(1)
    made = {name: small(name) for name in RECIPES}
    lines = ",\n".join(f"{json.dumps(name)}: {json.dumps(pictures)}" for name, pictures in made.items())
    FILE.write_text(f"{{\n{lines}\n}}\n", encoding="utf-8")
