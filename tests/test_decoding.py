"""Videos decoded while they grow: what comes in pieces decodes to what the whole decodes to, for every autoencoder."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from diffusers import AutoencoderKLCogVideoX, AutoencoderKLLTXVideo, AutoencoderKLWan
from torch import Tensor

from dovetail import recipe as recipes
from dovetail.core.excerpts import Excerpt, Reach, Trail
from dovetail.experts.codec import Conditioning, codec_of
from dovetail.experts.decoders import reach_of
from dovetail.experts.residency import CODEC
from dovetail.experts.space import space_of
from dovetail.experts.wfvae.autoencoder import WFVAEModel
from dovetail.recipe import Recipe
from dovetail.run import Piece, folder_of, keep, load, resume
from dovetail.run.budget import foreseen
from dovetail.run.decoding import Decoding
from dovetail.run.sizes import decoders
from dovetail.video import Video, read


def decoder(make: Callable[[], Any], dtype: torch.dtype = torch.float64, **options: Any) -> Any:
    """A codec over a tiny autoencoder. In double precision: random decoders make much of what single precision rounds."""
    module = make().to(dtype)
    space = space_of({**module.config, "_class_name": type(module).__name__})
    return codec_of(module, space, torch.device("cpu"), dtype, **options)


DECODERS: dict[str, Callable[[], Any]] = {
    "wan": partial(decoder, tiny.wan_vae),
    "ltx": partial(decoder, tiny.ltx_vae),
    "ltx, told": partial(decoder, partial(tiny.ltx_vae, True), torch.float32, conditioning=Conditioning()),
    "wfvae": partial(decoder, tiny.wfvae),
    "images": partial(decoder, tiny.vae),
}


def grain(frames: int) -> Tensor:
    return torch.randn(1, tiny.CHANNELS, frames, 1, 1, generator=torch.Generator().manual_seed(6))


def grown(codec: Any, latent: Tensor, lengths: Sequence[int]) -> list[Any]:
    """Frames of a latent that comes in pieces of such lengths."""
    decoding, pieces = Decoding(codec), torch.split(latent, list(lengths), 2)
    return [frames for i, one in enumerate(pieces, 1) for frames, _ in decoding.add(one, i == len(pieces))]


@pytest.mark.parametrize("lengths", [(6,) * 6, (1, 2, 30, 3)], ids=str)
@pytest.mark.parametrize("kind", DECODERS)
def test_a_video_that_comes_in_pieces_decodes_to_what_the_whole_does(kind: str, lengths: tuple[int, ...]) -> None:
    codec, latent = DECODERS[kind](), grain(36)
    whole = Video.of(codec.decode(latent), 1.0).frames
    made = grown(codec, latent, lengths)
    each = codec.space.compression
    assert [len(frames) for frames in made] == [each * n - (each - 1) * (i == 0) for i, n in enumerate(lengths)]
    # LTX-Video's decoder works out some things in single precision, whatever it is given.
    assert abs(np.concatenate(made).astype(int) - whole).max() <= ("ltx" in kind)


@pytest.mark.parametrize(("kind", "back", "ahead"), [("wan", 30, 0), ("ltx", 9, 9), ("wfvae", 26, 1), ("images", 0, 0)])
def test_a_decoder_looks_as_far_as_its_convolutions_say_and_no_farther(kind: str, back: int, ahead: int) -> None:
    """Of a latent frame that is one further away, its frames know nothing; of the last that counts, they do."""
    codec, latent, place = DECODERS[kind](), grain(back + ahead + 4), back + 2
    reach = getattr(codec, "reach", Reach())
    assert (reach.back, reach.ahead) == (back, ahead)
    frames = Excerpt(0, place, place + 1).frames(codec.space.compression)
    whole = codec.decode(latent)[:, frames]
    for away, known in ((-back, True), (-back - 1, False), (ahead, True), (ahead + 1, False)):
        changed = latent.clone()
        changed[:, :, place + away] *= -1e3
        assert torch.equal(codec.decode(changed)[:, frames], whole) != known, away


def test_published_decoders_look_farther() -> None:
    """From their configs: Wan 2.1's, LTX-Video's, CogVideoX's and Open-Sora Plan's, in latent frames."""
    found = {}
    for kind in (AutoencoderKLWan, AutoencoderKLLTXVideo, AutoencoderKLCogVideoX, WFVAEModel):
        with torch.device("meta"):
            found[kind] = reach_of(kind())
    assert list(found.values()) == [Reach(38), Reach(24, 24), Reach(77, 1, pairs=True), Reach(32, 1)]


def test_a_causal_ltx_decoder_waits_for_nothing() -> None:
    with torch.device("meta"):
        assert reach_of(AutoencoderKLLTXVideo(decoder_causal=True)) == Reach(48, 0)


@pytest.mark.parametrize("tiles", [None, 4])
def test_what_wan_keeps_spares_it_looking_back_and_changes_nothing(tiles: int | None) -> None:
    """To the bit, in single precision: a run that goes on has nothing kept."""
    codec = decoder(tiny.wan_vae, torch.float32, tiles=tiles)
    latent = torch.randn(1, tiny.CHANNELS, 40, 5, 2, generator=torch.Generator().manual_seed(6))
    shown: list[int] = []
    codec.module.decoder.register_forward_pre_hook(lambda _, told: shown.append(told[0].shape[2]))
    trail = Trail()
    list(codec.part(latent[:, :, :36], Excerpt(0, 0, 36), trail))
    made = []
    for kept in (trail, Trail()):
        shown.clear()
        made.append(torch.cat(list(codec.part(latent[:, :, 6:], Excerpt(6, 36, 40, True), kept)), 1))
        several = 1 if tiles is None else 2
        assert len(shown) == several * (4 if kept is trail else 34)
    assert torch.equal(made[0], made[1])


def test_a_run_goes_on_in_single_precision_where_half_was_black() -> None:
    """What was kept in half precision is of no use then."""
    codec = decoder(tiny.wan_vae, torch.bfloat16)
    first, *_, last = grown(codec, grain(12), (4, 4, 4))
    single = decoder(tiny.wan_vae, torch.float32)
    assert first.shape[0] + 3 == last.shape[0] == 16
    trail = Trail()
    list(codec.part(grain(12)[:, :, :8], Excerpt(0, 0, 8), trail))
    asked = Excerpt(0, 8, 12, True)
    both = [torch.cat(list(single.part(grain(12), asked, one)), 1) for one in (trail, Trail())]
    assert torch.equal(both[0], both[1])


# --- runs -------------------------------------------------------------------------------------------------------------

GRID = {"wan": (8, 4), "ltx": (32, 8), "cogvideox": (8, 4)}
"""Pixels per cell and frames per latent frame."""


def windowed(folder: Path, family: str, latent_frames: int) -> Recipe:
    """A long video in windows of three latent frames."""
    factor, compression = GRID[family]
    data = {
        "prompt": "a red ring",
        "video": {
            "frames": compression * (latent_frames - 1) + 1,
            "height": 2 * factor,
            "width": 2 * factor,
            "fps": 8.0,
        },
        "experts": {"it": {"family": family, "weights": str(folder)}},
        "codec": {"weights": str(folder)},
        "chain": [{"stage": "make", "ladder": {"even": {"steps": 1}}, "window": 3, "denoise": "it"}],
    }
    return recipes.checked(data)


@pytest.mark.parametrize("family", [*GRID, "wfvae"])
def test_a_run_makes_and_goes_on_to_the_frames_of_its_whole_latent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, family: str
) -> None:
    monkeypatch.setattr("dovetail.video.frames.SHOWN", 32)  # small files are quick
    expert = "wan" if family == "wfvae" else family
    recipe = windowed(tiny.MAKERS[expert](tmp_path / "weights"), expert, 14)
    if family == "wfvae":  # Its latents are of the size of Wan's.
        codec = str(tiny.wfvae_published(tmp_path / "codec"))
        recipe = recipes.changed(recipe, {"codec.weights": codec, "experts.it.trust_space": True})
    cast = load(recipe)
    cast = replace(cast, codec=replace(cast.codec, module=cast.codec.module.double(), dtype=torch.float64))
    out = tmp_path / "a.npz"
    events = list(keep(recipe, out, cast=cast))
    pieces = [event for event in events if isinstance(event, Piece)]
    assert [piece.latent.shape[2] for piece in pieces] == [3, 3, 3, 3, 2]
    whole = Video.of(cast.codec.decode(torch.cat([piece.latent for piece in pieces], 2)), 1.0).frames
    near = family == "ltx"  # works out some things in single precision, whatever it is given
    assert abs(np.concatenate([piece.frames for piece in pieces]).astype(int) - whole).max() <= near
    frames, film = read(out).frames, folder_of(out) / "video.mp4"
    data = film.read_bytes()
    assert abs(frames.astype(int) - whole).max() <= near
    for size in (len(data) // 2, 0):
        film.write_bytes(data[:size])
        list(resume(folder_of(out), cast))
        assert film.read_bytes() == data, size
        assert (read(out).frames == frames).all()


def test_a_budget_foresees_what_is_shown_to_a_decoder_that_looks_around(tmp_path: Path) -> None:
    """Nine latent frames on both sides of a piece of three; no more than there are."""
    folder = tiny.MAKERS["ltx"](tmp_path)
    for length, shown in ((3, 3), (14, 14), (40, 21)):
        assert decoders(foreseen(windowed(folder, "ltx", length), []))[CODEC].shape[1] == shown
    assert decoders(foreseen(windowed(tiny.MAKERS["wan"](tmp_path / "wan"), "wan", 40), []))[CODEC].shape[1] == 3
