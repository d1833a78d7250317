"""Words below a row of pictures, previews of stories, and captions that say what an ask fixes."""

from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dovetail.cli.captions import captions
from dovetail.cli.progress import Preview
from dovetail.run import Piece
from dovetail.sprites.world import BACKGROUNDS, COLOURS, MOTIONS, PATTERNS, SHAPES, TEXTURES, Ask, ask, caption
from dovetail.video.frames import larger


def inked(band: np.ndarray) -> list[int]:
    """Columns with letters, which are white; the lines between captions are gray."""
    return sorted(set(np.nonzero((band > 200).any(-1).any(0))[0].tolist()))


def test_neighbours_share_a_caption_and_it_stands_below_them() -> None:
    apart = captions(["left", "", "right"], width=60)
    assert apart.shape[1] == 180
    assert {column // 60 for column in inked(apart)} == {0, 2}
    shared = captions(["it moves right"] * 3, width=40)
    assert max(inked(shared)) > 40, "a caption may take the room of all pictures that share it"
    assert len(shared) == len(captions(["x"], width=40)), "and is then one line"


def test_a_long_text_takes_lines_and_no_other_ones_room() -> None:
    band = captions(["it stands very still for a while", "up"], width=66)
    assert len(band) > 2 * len(captions(["up"], width=66)) - 8
    assert all(column < 66 for column in inked(band[20:])), "below its first line there is only the long text"


def test_a_preview_of_a_story_tells_each_event_below_its_frames(tmp_path) -> None:
    path, frames = tmp_path / "preview.png", np.zeros((16, 64, 64, 3), np.uint8)
    told = [(0, "it moves right"), (8, "it moves down")]
    Preview(path, told).add(Piece(frames, 0, torch.zeros(1, 16, 16, 8, 8)))
    Preview(tmp_path / "plain.png").add(Piece(frames, 0, torch.zeros(1, 16, 16, 8, 8)))
    with Image.open(path) as picture, Image.open(tmp_path / "plain.png") as plain:
        shown, width = np.asarray(picture), plain.width // 8
        assert picture.width == plain.width
        assert picture.height > plain.height
    first, second = ([column for column in inked(shown) if begin <= column // width < begin + 4] for begin in (0, 4))
    assert min(first) < width
    assert 4 * width <= min(second) < 5 * width


@pytest.mark.parametrize("apart", [False, True])
def test_a_caption_reads_back_as_what_was_asked(apart) -> None:
    """All of them: whatever is named or left open, but that what has no shape has no colour and no texture either."""
    kinds = [(None, *words) for words in (TEXTURES, COLOURS, SHAPES, MOTIONS, BACKGROUNDS, PATTERNS)]
    asks = [Ask(*words) for words in product(*kinds)]
    sayable = [one for one in asks if one.shape or (one.texture is None and one.colour is None)]
    assert len(sayable) > 4000
    wrong = [one for one in sayable if ask(caption(one, apart)) != (one, [])]
    assert not wrong


def test_a_preview_of_a_run_that_is_gone_on_with_shows_what_was_made_before(tmp_path: Path) -> None:
    """From its film, in which frames are larger, a few at a time."""
    shades = np.arange(32, dtype=np.uint8)[:, None, None, None] * np.ones((1, 16, 16, 3), np.uint8)
    whole, later = Preview(tmp_path / "whole.png"), Preview(tmp_path / "later.png")
    for first in (0, 16):
        whole.add(Piece(shades[first : first + 16], first, torch.zeros(1, 4, 16, 2, 2)))
    film = larger(shades, 4)
    piece = Piece(shades[16:], 16, torch.zeros(1, 4, 16, 2, 2))
    later.earlier(iter([film[:10], film[10:20], film[20:]]), piece)
    later.add(piece)
    assert (tmp_path / "later.png").read_bytes() == (tmp_path / "whole.png").read_bytes()
