"""WF-VAE, Open-Sora Plan's autoencoder: the names and shapes of its published tensors, wavelets and layers against plain
formulas, what it sees of a video's past, decoding and encoding in pieces, its files, what is refused, what a plan counts."""

import json
import math
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from fakehub import Hub, Repo, installed
from safetensors.torch import save_file
from tiny import apart, noise, shapes
from torch import Tensor, nn
from torch.nn.functional import conv3d, interpolate

from dovetail.core.excerpts import Excerpt, Reach, Trail
from dovetail.errors import RecipeError, SpaceError, WeightsError
from dovetail.experts.checkpoint import Location, find, quietly
from dovetail.experts.codec import KINDS, VideoCodec, codec_of, load_codec, space_at
from dovetail.experts.decoders import WFVAE, reach_of
from dovetail.experts.footprint import _decoded, decoding, held
from dovetail.experts.hub import Want
from dovetail.experts.outline import codec_outline, parameters_of, written
from dovetail.experts.space import LatentSpace, same_space, space_of
from dovetail.experts.tensors import opened
from dovetail.experts.tuning import Tuning
from dovetail.experts.wfvae import facts
from dovetail.experts.wfvae.autoencoder import WFVAEModel
from dovetail.experts.wfvae.layers import Attention, CausalConv, Double, Half, Norm, Past, between
from dovetail.experts.wfvae.wavelets import PLANE, VOLUME, bands, joined
from dovetail.experts.wholeness import examined


def codec(dtype: torch.dtype = torch.float64, **options: Any) -> Any:
    """A codec over a tiny WF-VAE. In double precision: random decoders make much of what single precision rounds."""
    module = tiny.wfvae().to(dtype)
    space = space_of({**module.config, "_class_name": WFVAE})
    return codec_of(module, space, torch.device("cpu"), dtype, **options)


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As the real one; tests do not change it."""
    return tiny.wfvae_published(tmp_path_factory.mktemp("wfvae") / "Open-Sora-Plan-v1.3.0")


# --- the published architecture ---------------------------------------------------------------------------------------


def published() -> dict[str, tuple[int, ...]]:
    """Names and shapes as `opensora/models/causalvideovae` (f7fa604) makes them with the published config, without the
    wavelets' filters: the tables of docs/open-sora-plan.md."""
    found: dict[str, tuple[int, ...]] = {}

    def put(name: str, *shape: int) -> None:
        found[f"{name}.weight"], found[f"{name}.bias"] = shape, shape[:1]

    def block(name: str, a: int, b: int, time: bool = True) -> None:
        put(f"{name}.norm1.norm", a)
        put(f"{name}.norm2.norm", b)
        for conv, width in (("conv1", a), ("conv2", b)):
            put(f"{name}.{conv}{'.conv' if time else ''}", b, width, *(3,) * (3 if time else 2))
        if a != b:
            put(f"{name}.nin_shortcut.conv", b, a, 1, 1, 1)

    def middle(name: str, a: int, b: int) -> None:
        block(f"{name}.0", a, 512)
        put(f"{name}.1.norm.norm", 512)
        for part in ("q", "k", "v", "proj_out"):
            put(f"{name}.1.{part}.conv", 512, 512, 1, 1, 1)
        block(f"{name}.2", 512, b)

    put("encoder.down1.0", 128, 24, 3, 3)
    put("encoder.down1.3.conv", 128, 128, 3, 3)
    put("encoder.down2.0", 256, 192, 3, 3)
    put("encoder.down2.3.conv.conv", 256, 256, 3, 3, 3)
    for number in (1, 2):
        block(f"encoder.down1.{number}", 128, 128, time=False)
        block(f"encoder.down2.{number}", 256, 256)
        put(f"encoder.connect_l{number}", 64, 12 * number, 3, 3)
        put(f"decoder.connect_l{number}.2", 12 * number, 128, 3, 3)
    middle("encoder.mid", 320, 512)
    put("encoder.norm_out.norm", 512)
    put("encoder.conv_out.conv", 16, 512, 3, 3, 3)
    put("decoder.conv_in.conv", 512, 8, 3, 3, 3)
    middle("decoder.mid", 512, 640)
    blocks = {"up2.0": (512, 512), "up2.1": (512, 512), "up2.3": (512, 640)}
    blocks |= {
        "up1.0": (512, 256),
        "up1.1": (256, 256),
        "up1.3": (256, 256),
        "layer.0": (256, 128),
        "layer.1": (128, 128),
    }
    blocks |= {f"connect_l{number}.{place}": (128, 128) for number in (1, 2) for place in (0, 1)}
    for name, (a, b) in blocks.items():
        block(f"decoder.{name}", a, b)
    put("decoder.up2.2.conv.conv", 512, 512, 3, 3, 3)
    put("decoder.up1.2.conv", 256, 256, 3, 3)
    put("decoder.norm_out.norm", 128)
    put("decoder.conv_out", 24, 128, 3, 3)
    return found


def test_names_and_shapes_are_those_of_the_published_config() -> None:
    with torch.device("meta"):
        found = shapes(WFVAEModel(**facts.SIZES))
        assert found == shapes(WFVAEModel())
    assert found == published()
    assert len(found) == 220
    assert sum(math.prod(shape) for shape in found.values()) == 147_347_660
    assert parameters_of(*facts.CODEC) == 147_347_660
    assert len(tiny.haar()) == 40, "and these are no part of it"


# --- wavelets ---------------------------------------------------------------------------------------------------------


def test_bands_of_frames_are_the_plain_formula() -> None:
    """Of cells ((a, b), (c, d)): all, above less below, left less right, one diagonal less the other, halved."""
    x = noise(2, 3, 5, 4, 6)
    a, b, c, d = x[..., ::2, ::2], x[..., ::2, 1::2], x[..., 1::2, ::2], x[..., 1::2, 1::2]
    right = torch.cat((a + b + c + d, a + b - c - d, a - b + c - d, a - b - c + d), 1) / 2
    assert torch.allclose(bands(x, PLANE), right, atol=1e-6)


def test_bands_of_a_video_are_the_filters_that_files_hold() -> None:
    x, filters = noise(2, 3, 4, 4, 6), tiny.haar()
    order = ("h", "g", "hh", "gh", "h_v", "g_v", "hh_v", "gh_v")
    rows = x.flatten(0, 1)[:, None]
    found = [conv3d(rows, filters[f"encoder.wavelet_transform_in.{name}_conv.conv.weight"], stride=2) for name in order]
    right = torch.cat([band.view(2, 3, 2, 2, 3) for band in found], 1)
    assert torch.allclose(bands(x, VOLUME), right, atol=1e-6)


@pytest.mark.parametrize(("along", "rounding"), [(PLANE, 1.0), (VOLUME, 8 * 0.3536**2)])
def test_wavelets_are_orthonormal_and_turn_back(along: tuple[int, ...], rounding: float) -> None:
    """But for the rounding that the authors write."""
    x = noise(2, 3, 4, 4, 6).double()
    there = bands(x, along)
    assert there.shape[1] == 3 * 2 ** len(along)
    assert float(there.square().sum() / x.square().sum()) == pytest.approx(rounding, abs=1e-9)
    assert torch.allclose(joined(there, along), rounding * x)
    assert torch.allclose(bands(joined(there, along), along), rounding * there)
    assert rounding == pytest.approx(1, abs=3e-4)


# --- layers -----------------------------------------------------------------------------------------------------------


def test_a_causal_convolution_repeats_the_first_frame() -> None:
    conv = tiny.grown(lambda: CausalConv(2, 3), 1)
    x = noise(1, 2, 5, 4, 4)
    padded = torch.cat((x[:, :, :1], x[:, :, :1], x), 2)
    right = conv3d(padded, conv.conv.weight, conv.conv.bias, padding=(0, 1, 1))
    assert torch.equal(conv(x, Past()), right)
    assert conv(x, Past()).shape == (1, 3, 5, 4, 4)


@pytest.mark.parametrize("lengths", [(1, 4, 4), (5, 2, 2), (1, 8)], ids=str)
@pytest.mark.parametrize("kind", [CausalConv(2, 2), Half(2, over_time=True), Half(2, over_time=False)], ids=str)
def test_a_layer_goes_on_where_it_was_left(kind: nn.Module, lengths: tuple[int, ...]) -> None:
    x, past, found = noise(1, 2, 9, 4, 4), Past(), []
    for piece in torch.split(x, list(lengths), 2):
        found.append(kind(piece, past))
        past = Past(past.now)
    whole = kind(x, Past())
    assert whole.shape[2] == (5 if isinstance(kind, Half) and isinstance(kind.conv, CausalConv) else 9)
    assert torch.allclose(torch.cat(found, 2), whole, atol=1e-6)


def test_a_norm_is_over_the_channels_of_a_cell() -> None:
    norm, x = tiny.grown(lambda: Norm(6), 2), noise(2, 6, 3, 4, 5)
    centred = x - x.mean(1, keepdim=True)
    right = centred / (centred.square().mean(1, keepdim=True) + 1e-6).sqrt()
    weight, bias = (value[:, None, None, None] for value in (norm.norm.weight, norm.norm.bias))
    assert torch.allclose(norm(x), right * weight + bias, atol=1e-5)


def test_attention_is_the_plain_formula_within_a_frame() -> None:
    look, x = tiny.grown(lambda: Attention(6), 4, 0.3), noise(2, 6, 3, 4, 5)
    given = look.norm(x)

    def made(part: CausalConv, cells: Tensor) -> Tensor:
        return cells @ part.conv.weight[:, :, 0, 0, 0].T + part.conv.bias

    found = look(x, Past())
    for row in range(2):
        for frame in range(3):
            cells = given[row, :, frame].flatten(1).T
            scores = made(look.q, cells) @ made(look.k, cells).T / math.sqrt(6)
            seen = made(look.proj_out, scores.softmax(1) @ made(look.v, cells))
            right = x[row, :, frame] + seen.T.view(6, 4, 5)
            assert torch.allclose(found[row, :, frame], right, atol=1e-5)


def test_frames_are_doubled_as_torch_interpolates() -> None:
    x = noise(2, 3, 7, 4, 4)
    whole = interpolate(x, scale_factor=(2, 1, 1), mode="trilinear")
    assert torch.allclose(between(x, None, None), whole, atol=1e-6)
    parts = [between(x[:, :, :3], None, x[:, :, 3:4]), between(x[:, :, 3:], x[:, :, 2:3], None)]
    assert torch.allclose(torch.cat(parts, 2), whole, atol=1e-6)
    double = Double(3, smooth=True)
    plain = interpolate(x.flatten(0, 1), scale_factor=2, mode="bilinear").view(2, 3, 7, 8, 8)
    assert torch.allclose(double(x, Past()), double.conv(plain, Past()), atol=1e-6)


# --- sizes, causality, pieces -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("frames", [1, 5, 9])
def test_four_frames_and_eight_pixels_a_side_become_one_cell(frames: int) -> None:
    vae = codec(torch.float32)
    assert (vae.channels, vae.factor, vae.compression, vae.reach) == (tiny.CHANNELS, 8, 4, Reach(26, 1))
    video = noise(2, frames, 3, 16, 24).clamp(-1, 1)
    latent = vae.encode(video)
    assert latent.shape == (2, tiny.CHANNELS, (frames + 3) // 4, 2, 3)
    made = vae.decode(latent)
    assert made.shape == video.shape
    assert float(made.abs().max()) <= 1
    code = vae.module.encode(video.transpose(1, 2)).latent_dist
    assert torch.allclose(latent, code.mode() * 0.18215, atol=1e-6)
    assert not torch.equal(code.sample(torch.Generator().manual_seed(1)), code.mode())
    clamped = vae.module.decode(latent / 0.18215, return_dict=False)[0].clamp(-1, 1)
    assert torch.allclose(made, clamped.transpose(1, 2), atol=1e-4)


def test_what_does_not_fit_is_told() -> None:
    vae = codec(torch.float32)
    with pytest.raises(RecipeError, match=r"encodes 4k \+ 1 frames, not 4"):
        vae.encode(torch.zeros(1, 4, 3, 16, 16))
    with pytest.raises(RecipeError, match="multiples of 8, not 16x12"):
        vae.encode(torch.zeros(1, 5, 3, 16, 12))
    with pytest.raises(RecipeError, match="decodes 4 channels, not 8"):
        vae.decode(torch.zeros(1, 8, 2, 2, 2))


def test_a_latent_frame_knows_nothing_of_later_frames() -> None:
    module, video = tiny.wfvae().double(), noise(1, 3, 17, 16, 16).double()
    whole = module.encode(video).latent_dist.mode()
    for last in range(5):  # The last of a latent frame's frames, and the first of the next one's.
        changed = video.clone()
        changed[:, :, 4 * last + 1 :] *= -2
        found = module.encode(changed).latent_dist.mode()
        assert torch.equal(found[:, :, : last + 1], whole[:, :, : last + 1])
        changed[:, :, 4 * last] *= -2
        assert not torch.equal(module.encode(changed).latent_dist.mode()[:, :, last], whole[:, :, last])


def test_frames_are_decoded_with_one_code_more() -> None:
    module, code = tiny.wfvae().double(), noise(1, tiny.CHANNELS, 6, 2, 2).double()
    whole = module.decode(code).sample
    for place in range(6):
        changed = code.clone()
        changed[:, :, place] *= -3
        same = (module.decode(changed).sample == whole).flatten(3).all(3).all(1)[0].tolist()
        # Frames 4 j - 3 to 4 j are of code j; the last two of the code before it are mixed with it, but in the first.
        first = max(0, 4 * place - 3 - (2 if place > 1 else 0))
        assert same == [number < first for number in range(21)]


def test_in_pieces_it_makes_what_it_makes_of_the_whole() -> None:
    module, code = tiny.wfvae().double(), noise(2, tiny.CHANNELS, 9, 2, 3).double()
    whole, _ = module.decoder(code)
    pieces = list(module.pieces(code))
    assert [piece.shape[2] for piece in pieces] == [1] + [4] * 8
    assert torch.allclose(torch.cat(pieces, 2), whole, atol=1e-9)
    first, kept = module.decoder(code[:, :, :4], ends=False)
    second, kept = module.decoder(code[:, :, 4:7], kept, ends=False)
    third, _ = module.decoder(code[:, :, 7:], kept)
    assert [part.shape[2] for part in (first, second, third)] == [9, 12, 12]
    assert torch.allclose(torch.cat((first, second, third), 2), whole, atol=1e-9)
    video = noise(2, 3, 33, 16, 24).double()
    at_once = module.encoder(video, Past())
    assert torch.allclose(module.encode(video).latent_dist.parameters, at_once, atol=1e-9)


def test_single_precision_only_rounds() -> None:
    module, code = tiny.wfvae().requires_grad_(False), noise(1, tiny.CHANNELS, 9, 2, 3)
    assert apart(module.decode(code).sample, module.decoder(code)[0]) <= 1e-5
    assert apart(module.decode(code).sample.double(), module.double().decode(code.double()).sample) <= 1e-5


@pytest.mark.parametrize("tiles", [None, 4])
def test_what_is_kept_spares_looking_back_and_changes_nothing(tiles: int | None) -> None:
    """To the bit, in single precision: a run that goes on has nothing kept."""
    vae = codec(torch.float32, tiles=tiles)
    latent = noise(1, tiny.CHANNELS, 40, 5, 2)
    reach = vae.reach
    shown: list[int] = []
    vae.module.decoder.register_forward_pre_hook(lambda _, told: shown.append(told[0].shape[2]))
    trail = Trail()
    list(vae.part(latent[:, :, : reach.end(36)], Excerpt(0, 0, 36), trail))
    begin, made = reach.begin(36), []
    for kept in (trail, Trail()):
        shown.clear()
        made.append(torch.cat(list(vae.part(latent[:, :, begin:], Excerpt(begin, 36, 40, True), kept)), 1))
        several = 1 if tiles is None else 2
        # One code is behind each that is made, so the last call is shown none.
        assert sum(shown) == several * (3 if kept is trail else 40 - begin)
    assert torch.equal(made[0], made[1])


def test_a_stream_is_handed_out_code_by_code() -> None:
    vae, latent = codec(torch.float32), noise(1, tiny.CHANNELS, 4, 2, 2)
    assert [piece.shape[1] for piece in vae.stream(latent)] == [1, 4, 4, 4]
    tiled = replace(vae, tiles=4).decode(noise(1, tiny.CHANNELS, 3, 6, 5))
    assert tiled.shape == (1, 9, 3, 48, 40)


@pytest.mark.parametrize("how", [{"offload": True}, {"store": "float8"}, {"channels_last": True}], ids=str)
def test_it_is_tuned_as_others(repository: Path, how: dict[str, Any]) -> None:
    latent = noise(1, tiny.CHANNELS, 3, 2, 2)
    stock = load_codec(str(repository)).decode(latent)
    found = load_codec(str(repository), tuning=Tuning(**how)).decode(latent)
    assert apart(found, stock) <= (0.2 if "store" in how else 1e-5)


# --- its space --------------------------------------------------------------------------------------------------------


def test_its_space(repository: Path) -> None:
    full = space_of({**facts.SIZES, "_class_name": WFVAE})
    assert full == LatentSpace(8, WFVAE, 8, scaling=0.18215, shift=0.0, compression=4)
    assert full.latent_frames(93) == 24
    assert space_at(Location(str(repository))) == replace(full, channels=tiny.CHANNELS)
    wan = LatentSpace(8, "AutoencoderKLWan", 8, compression=4)
    with pytest.raises(SpaceError, match="vae 'WFVAEModel' against 'AutoencoderKLWan'"):
        same_space(full, wan)


def test_channels_may_be_scaled_one_by_one() -> None:
    scale, shift = [0.5, 0.25, 2.0, 1.0], [0.0, 1.0, -1.0, 0.5]
    module = tiny.wfvae(scale=scale, shift=shift)
    space = space_of({**module.config, "_class_name": WFVAE})
    assert (space.scaling, space.statistics) == (None, (*shift, 2.0, 4.0, 0.5, 1.0))
    vae = codec_of(module, space, torch.device("cpu"), torch.float32)
    video = noise(1, 5, 3, 16, 16).clamp(-1, 1)
    code = module.encode(video.transpose(1, 2)).latent_dist.mode()
    over = [torch.tensor(values).view(1, 4, 1, 1, 1) for values in (scale, shift)]
    assert torch.allclose(vae.encode(video), (code - over[1]) * over[0], atol=1e-5)
    assert torch.allclose(
        vae.decode(vae.encode(video)),
        codec_of(
            tiny.wfvae(), space_of({**tiny.WFVAE, "_class_name": WFVAE}), torch.device("cpu"), torch.float32
        ).decode(code * 0.18215),
        atol=1e-4,
    )


# --- its files --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["ema_state_dict", "gen_model", "state_dict"])
def test_a_file_as_training_leaves_it_is_loaded(tmp_path: Path, how: str) -> None:
    folder = tiny.wfvae_published(tmp_path / "it", how)
    vae = load_codec(str(folder), dtype="bfloat16")
    assert isinstance(vae, VideoCodec)
    right = tiny.wfvae().state_dict()
    found = vae.module.state_dict()
    assert found.keys() == right.keys()
    assert all(torch.equal(found[name], right[name].bfloat16()) for name in right)
    assert not any(part.requires_grad for part in vae.module.parameters())
    assert {state for _, state, _ in examined(str(folder))} == {"whole"}
    latent = noise(1, tiny.CHANNELS, 2, 2, 2)
    single = load_codec(str(folder))
    assert torch.equal(single.decode(latent), codec(torch.float32).decode(latent))


def test_a_file_may_lack_the_filters_and_names_one_space_with_one_that_does_not(
    tmp_path: Path, repository: Path
) -> None:
    bare = Path(shutil.copytree(repository, tmp_path / "bare"))
    (bare / "vae" / "merged.ckpt").unlink()
    tensors = facts.learned(opened(repository / "vae" / "merged.ckpt"))
    save_file(tensors, bare / "vae" / "diffusion_pytorch_model.safetensors", {"format": "pt"})
    one, two = load_codec(str(repository)), load_codec(str(bare))
    assert one.space.encoder is not None
    same_space(one.space, two.space)
    other = replace(
        one.space,
        encoder=space_of({**tiny.WFVAE, "_class_name": WFVAE}, lambda *_: {"encoder.a": torch.ones(4)}).encoder,
    )
    with pytest.raises(SpaceError, match="encoder weights"):
        same_space(one.space, other)
    files = [file.name for file in sorted((bare / "vae").iterdir())]
    assert files == ["config.json", "diffusion_pytorch_model.safetensors"]


def test_what_it_saves_is_loaded(tmp_path: Path) -> None:
    tiny.wfvae().save_pretrained(tmp_path / "vae")
    with pytest.raises(RecipeError, match="norm_type 'groupnorm'"):
        load_codec(str(tmp_path))
    config = json.loads((tmp_path / "vae" / "config.json").read_text())
    (tmp_path / "vae" / "config.json").write_text(json.dumps(config | facts.KINDS))
    assert load_codec(str(tmp_path)).space.scaling == 0.18215


def test_one_file_takes_its_sizes_of_a_base(repository: Path) -> None:
    file = str(repository / "vae" / "merged.ckpt")
    latent = noise(1, tiny.CHANNELS, 2, 2, 2)
    alone, whole = load_codec(file, base=str(repository)), load_codec(str(repository))
    assert torch.equal(alone.decode(latent), whole.decode(latent))
    assert alone.space == whole.space
    with pytest.raises(WeightsError, match="says nothing of its sizes"):
        load_codec(file)


@pytest.fixture
def hub(repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    yield from installed(Hub({"some/plan": Repo.of(repository)}), tmp_path / "cache", monkeypatch)


def test_it_comes_from_the_hub(hub: Hub) -> None:
    assert load_codec("some/plan").space.encoder is not None
    assert Want("some/plan", ("vae",)).of(["vae/config.json", "vae/merged.ckpt", "any93x640x640/config.json"]) == [
        "vae/config.json",
        "vae/merged.ckpt",
    ]
    assert Want("some/old", ("vae",)).of(["vae/a.bin", "vae/b.ckpt"]) == ["vae/a.bin"]
    assert Want("some/new", ("vae",)).of(["vae/a.safetensors", "vae/b.ckpt"]) == ["vae/a.safetensors"]
    found: Any = find(Location("some/plan"), ["vae"])
    assert found.file("vae").name == "merged.ckpt"


# --- what is refused --------------------------------------------------------------------------------------------------

FIRST = "encoder.down1.0.weight"


def changed(tensors: dict[str, Tensor], how: str) -> dict[str, Any]:
    if how == "lacks":
        return {name: tensor for name, tensor in tensors.items() if name != FIRST}
    if how == "more":
        return tensors | {"decoder.up3.0.weight": torch.zeros(3)}
    if how == "shape":
        return tensors | {FIRST: torch.zeros(8, 24, 3, 3)}
    if how == "group norms":
        return {name.replace(".norm.", ".") if ".norm1." in name else name: part for name, part in tensors.items()}
    if how == "filters":
        return tensors | {"encoder.wavelet_transform_l1.aa": torch.full((1, 1, 2, 2), 0.7)}
    return {}


REFUSED = {
    "lacks": rf"lacks 1 tensors of this WF-VAE, the first is '{FIRST}'",
    "more": r"has 1 tensors that this WF-VAE has not, the first is 'decoder.up3.0.weight'.*of another generation",
    "shape": rf"'{FIRST}' is of shape \(8, 24, 3, 3\), and \(4, 24, 3, 3\) fits its config.*of another generation",
    "group norms": r"lacks \d+ tensors of this WF-VAE, the first is 'decoder.connect_l1.0.norm1.norm.bias'",
    "filters": r"'encoder.wavelet_transform_l1.aa' is no filter of Haar's wavelets",
    "nothing": r"lacks \d+ tensors of this WF-VAE",
}


@pytest.mark.parametrize("how", REFUSED)
def test_tensors_of_another_network_are_told(repository: Path, tmp_path: Path, how: str) -> None:
    folder = Path(shutil.copytree(repository, tmp_path / "it"))
    tensors = changed(opened(repository / "vae" / "merged.ckpt"), how)
    torch.save({"state_dict": {"gen_model": tensors}}, folder / "vae" / "merged.ckpt")
    with pytest.raises(WeightsError, match=rf"merged\.ckpt'.*{REFUSED[how]}.*LanguageBind|{REFUSED['filters']}"):
        load_codec(str(folder))


OTHERS: dict[str, dict[str, Any]] = {
    "norms": {"norm_type": "groupnorm"},
    "nearest": {"t_interpolation": "nearest"},
    "no attention": {"use_attention": False},
    "eight frames": {"l1_dowmsample_block": "Spatial2xTime2x3DDownsample"},
}


@pytest.mark.parametrize("how", OTHERS)
def test_another_autoencoder_is_told(repository: Path, tmp_path: Path, how: str) -> None:
    folder = Path(shutil.copytree(repository, tmp_path / "it"))
    config = json.loads((folder / "vae" / "config.json").read_text())
    (folder / "vae" / "config.json").write_text(json.dumps(config | OTHERS[how]))
    ((name, came),) = OTHERS[how].items()
    for attempt in (lambda: load_codec(str(folder)), lambda: codec_outline(Location(str(folder)))):
        with pytest.raises(RecipeError, match=rf"vae of '{folder}' is a WF-VAE with {name} {came!r}, and only"):
            attempt()


def test_a_config_that_says_less_means_what_the_authors_class_does(repository: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(repository, tmp_path / "it"))
    config = json.loads((folder / "vae" / "config.json").read_text())
    assert config.pop("connect_res_layer_num") == 2
    (folder / "vae" / "config.json").write_text(json.dumps(config))
    with pytest.raises(WeightsError, match=r"lacks 4 tensors of this WF-VAE, the first is 'decoder.connect_l1.1.bias'"):
        load_codec(str(folder))


def test_a_pickle_that_holds_more_than_tensors_is_not_opened(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The advice works, where the file is what one trusts it to be."""
    folder = Path(shutil.copytree(repository, tmp_path / "it"))
    ema = {f"module.{name}": tensor for name, tensor in opened(repository / "vae" / "merged.ckpt").items()}
    torch.save(
        {"state_dict": {"a": torch.ones(1)}, "ema_state_dict": ema, "more": Path}, folder / "vae" / "merged.ckpt"
    )
    with pytest.raises(WeightsError, match=r"merged\.ckpt' is a pickle that holds more than tensors") as caught:
        load_codec(str(folder))
    code = re.search(r'python -c "(.*)"$', str(caught.value))
    assert code is not None
    monkeypatch.chdir(folder / "vae")
    exec(code[1], {})
    assert load_codec(str(folder)).space == load_codec(str(repository)).space


# --- what a plan counts -----------------------------------------------------------------------------------------------


def test_a_plan_knows_it(repository: Path) -> None:
    found = codec_outline(Location(str(repository)))
    assert found is not None
    assert (found[0], found[1]["latent_dim"]) == (WFVAE, tiny.CHANNELS)
    assert parameters_of(*found) == sum(part.numel() for part in tiny.wfvae().parameters())
    assert WFVAE in KINDS


def test_what_it_works_in_does_not_grow_with_the_video() -> None:
    """As it is followed on meta tensors, to decode and to encode; to encode needs less."""
    sizes = written(facts.SIZES)
    steady, longer = (_decoded(WFVAE, sizes, 8, frames, 2) for frames in (4, 7))
    assert longer == steady
    wide = decoding(WFVAE, facts.SIZES, (8, 24, 44, 80), 2, 16, None)
    assert wide == steady * 44 * 80 // 64
    assert decoding(WFVAE, facts.SIZES, (8, 24, 44, 80), 2, 16, 22) == steady * 22 * 22 // 64
    encoded = []
    for frames in (9, 21):
        with quietly(), torch.device("meta"):
            module, video = WFVAEModel().to(torch.bfloat16), torch.zeros(1, 3, frames, 64, 64, dtype=torch.bfloat16)
        encoded.append(held(partial(module.encode, video), (*module.parameters(), video)))
    assert encoded[1] - encoded[0] < 0.01 * encoded[0], "the codes"
    assert encoded[1] < 0.3 * steady


def test_reach_grows_with_its_blocks() -> None:
    with torch.device("meta"):
        found = [reach_of(tiny.wfvae(decoder_num_resblocks=depth)) for depth in (1, 2)]
    assert found == [Reach(26, 1), Reach(32, 1)]
    assert np.diff([one.back for one in found]).tolist() == [6], "4 latent frames, and half of 4 half ones"
