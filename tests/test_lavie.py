"""LaVie: the names and shapes of its published tensors, its attention over time against plain formulas, the image network
inside it against diffusers' own, loading, what is refused, sampling, what a plan counts."""

import argparse
import json
import math
import os
import re
import shutil
from functools import cache
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import tiny
import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from safetensors.torch import save_file
from tiny import apart, noise, shapes
from torch import Tensor, nn

import dovetail
from dovetail import recipe as recipes
from dovetail.core.combine import Guided, Windowed
from dovetail.core.denoiser import Condition, Expert, timeline
from dovetail.core.sampler import Euler, last, sample
from dovetail.core.schedules import VariancePreserving
from dovetail.costs import costs
from dovetail.errors import RecipeError, WeightsError
from dovetail.experts import checkpoint, load
from dovetail.experts.checkpoint import Location
from dovetail.experts.flops import flops
from dovetail.experts.lavie import facts
from dovetail.experts.lavie.attention import RelativeBias, Rotary, TemporalAttention, buckets, turned
from dovetail.experts.lavie.unet import LaVieUNet
from dovetail.experts.lavie.weights import sizes
from dovetail.experts.loading import scheduler_config
from dovetail.experts.outline import outline
from dovetail.experts.schedulers import ladder_of
from dovetail.experts.tensors import opened

BETAS = VariancePreserving.betas("linear", 1e-4, 0.02)
PROMPT, AWAY = "a red circle, moving left", "blurred"
FRAMES = 5


def grown(module: nn.Module) -> Any:
    """The module with noise on every weight; as they are made, some are zero."""
    return tiny.grown(lambda: module, 3, 0.3)


# --- the published architecture ---------------------------------------------------------------------------------------


def published() -> dict[str, tuple[int, ...]]:
    """Names and shapes in lavie_base.pt, as `base/models` of github.com/Vchitect/LaVie (6ce851e) makes them: all of Stable
    Diffusion 1.4's image network, which `UNet3DConditionModel.from_pretrained_2d` loads under its own names, and beside
    each `attn2` of width c with 8 heads an `attn_temp` and its norm. `rotary_emb` is one module of
    rotary_embedding_torch, `RotaryEmbedding(32)`, that stands in each of them."""
    with torch.device("meta"):
        image = shapes(UNet2DConditionModel(cross_attention_dim=768))
    found = dict(image)
    for name, (c, *_) in image.items():
        if name.endswith("attn2.to_q.weight"):
            block = name.removesuffix("attn2.to_q.weight")
            found |= {f"{block}attn_temp.to_{part}.weight": (c, c) for part in ("q", "k", "v", "out.0")}
            found |= {
                f"{block}{part}": (c,) for part in ("attn_temp.to_out.0.bias", "norm_temp.weight", "norm_temp.bias")
            }
            found[f"{block}attn_temp.time_rel_pos_bias.relative_attention_bias.weight"] = (32, 8)
            found[f"{block}attn_temp.rotary_emb.freqs"] = (16,)
    return found


def test_names_and_shapes_are_those_of_the_published_file() -> None:
    with torch.device("meta"):
        found = shapes(LaVieUNet())
    assert found == published()
    assert len(found) == 686 + 16 * 9
    # Of the 859 520 964 of Stable Diffusion 1.4, and per block of width c: 4 c^2 + 3 c + 32 * 8 + 16.
    widths = [c for c, blocks in ((320, 5), (640, 5), (1280, 6)) for _ in range(blocks)]
    assert sum(4 * c**2 + 3 * c + 272 for c in widths) + 859_520_964 == 909_124_356
    assert sum(math.prod(shape) for shape in found.values()) == 909_124_356


def test_its_sizes_are_those_of_stable_diffusion() -> None:
    with torch.device("meta"):
        config = UNet2DConditionModel(cross_attention_dim=768).config
    assert {k: tuple(v) if isinstance(v, list) else v for k, v in sizes(config, "").items()} == facts.SIZES
    assert sizes({"down_block_types": config["down_block_types"], "cross_attention_dim": 768}, "") == {
        "cross_attention_dim": 768
    }


@pytest.mark.skipif("LAVIE_SOURCE" not in os.environ, reason="LAVIE_SOURCE names no clone of github.com/Vchitect/LaVie")
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("widths", "heads", "shape"), [((40, 80), 1, (5, 8, 8)), ((80, 80, 160), 2, (16, 10, 6)), ((40, 80), 1, (40, 7, 5))]
)
def test_the_authors_code_gives_the_same(
    monkeypatch: pytest.MonkeyPatch, widths: tuple[int, ...], heads: int, shape: tuple[int, ...]
) -> None:
    """Against a clone, with the package rotary_embedding_torch installed: LAVIE_SOURCE=CLONE pytest tests/test_lavie.py"""
    monkeypatch.syspath_prepend(str(Path(os.environ["LAVIE_SOURCE"]) / "base"))
    import diffusers.models.attention as moved
    from diffusers.models.normalization import AdaLayerNorm

    monkeypatch.setattr(moved, "AdaLayerNorm", AdaLayerNorm, raising=False)  # It stood there in diffusers 0.16.
    from models.unet import UNet3DConditionModel

    config = {**tiny.LAVIE, "block_out_channels": widths, "attention_head_dim": heads}
    down = (*("CrossAttnDownBlock3D",) * (len(widths) - 1), "DownBlock3D")
    up = ("UpBlock3D", *("CrossAttnUpBlock3D",) * (len(widths) - 1))
    theirs = grown(UNet3DConditionModel(down_block_types=down, up_block_types=up, **config))
    ours = LaVieUNet(**config).eval()
    ours.load_state_dict(theirs.state_dict())
    x, words, time = noise(2, 4, *shape), noise(2, 7, tiny.CROSS), torch.tensor([601.0, 20.0])
    with torch.no_grad():
        assert apart(ours(x, time, words).sample, theirs(x, time, words).sample) <= 1e-5
    with torch.device("meta"):
        assert shapes(UNet3DConditionModel(cross_attention_dim=768)) == published()


# --- attention over time ----------------------------------------------------------------------------------------------


def test_turning_is_multiplication_with_a_phase() -> None:
    """Neighbours (2k, 2k + 1) of frame i are a complex number, times e^(i * i * 10000^(-2k/32)); the last 8 of 40 stay."""
    x, found = noise(2, 3, 7, 40).double(), turned(noise(2, 3, 7, 40).double(), Rotary().freqs.double())
    for i in range(7):
        for k in range(16):
            angle = i * 10_000 ** (-2 * k / 32)
            pair = torch.complex(x[:, :, i, 2 * k], x[:, :, i, 2 * k + 1]) * complex(math.cos(angle), math.sin(angle))
            assert torch.allclose(found[:, :, i, 2 * k], pair.real, atol=1e-5)
            assert torch.allclose(found[:, :, i, 2 * k + 1], pair.imag, atol=1e-5)
    assert torch.equal(found[..., 32:], x[..., 32:])
    assert torch.equal(found[:, :, 0], x[:, :, 0])


def test_only_distances_count() -> None:
    """The product of two turned vectors is the same wherever both are moved to."""
    q, k = (noise(2, 1, 40)[i].expand(9, -1) for i in range(2))
    scores = turned(q, Rotary().freqs) @ turned(k, Rotary().freqs).T
    for distance in range(-8, 9):
        along = scores.diagonal(distance)
        assert torch.allclose(along, along[:1].expand_as(along), atol=1e-4)
    assert scores[0].std() > 0.1
    table = buckets(9)
    assert all(len(set(table.diagonal(distance).tolist())) == 1 for distance in range(-8, 9))


def test_buckets_are_whole_numbers() -> None:
    """Bucket 8 + k begins at distance 8 * 4^(k / 8); fourth powers tell that without rounding. Ahead is 16 more."""

    def bucket(i: int, j: int) -> int:
        distance = abs(j - i)
        far = 8 + max(k for k in range(8) if distance**4 >= 8**4 * 2**k) if distance >= 8 else distance
        return far + 16 * (j > i)

    for frames in (1, 16, 61):
        assert buckets(frames).tolist() == [[bucket(i, j) for j in range(frames)] for i in range(frames)]


def test_attention_over_time_is_the_plain_formula() -> None:
    """softmax_j(<turned q_i, turned k_j> / sqrt(d) + bias[bucket(i, j)]) v_j, head by head, cell by cell."""
    heads, head, frames = 2, 40, 12
    attention: TemporalAttention = grown(TemporalAttention(heads * head, heads))
    x = noise(3, frames, heads * head)
    bias = attention.time_rel_pos_bias.relative_attention_bias.weight
    angles = torch.outer(torch.arange(frames), attention.rotary_emb.freqs)
    phases = torch.polar(torch.ones_like(angles), angles)

    def turn(rows: Tensor) -> Tensor:
        pairs = torch.view_as_complex(rows[:, :32].reshape(frames, 16, 2)) * phases
        return torch.cat((torch.view_as_real(pairs).reshape(frames, 32), rows[:, 32:]), 1)

    with torch.no_grad():
        found = attention(x)
        for cell in range(3):
            parts = []
            for h in range(heads):
                mine = slice(h * head, (h + 1) * head)
                q, k, v = (x[cell] @ to.weight[mine].T for to in (attention.to_q, attention.to_k, attention.to_v))
                scores = turn(q) @ turn(k).T / head**0.5
                for i in range(frames):
                    for j in range(frames):
                        scores[i, j] += bias[buckets(frames)[i, j], h]
                parts.append(scores.exp() / scores.exp().sum(1, keepdim=True) @ v)
            out = attention.to_out[0]
            assert apart(found[cell], torch.cat(parts, 1) @ out.weight.T + out.bias) <= 1e-5


def test_the_formula_would_show_a_mistake() -> None:
    """What is compared above depends on the bias, on the frequencies and on the order of frames."""
    attention: TemporalAttention = grown(TemporalAttention(80, 2))
    x = noise(3, 12, 80)
    with torch.no_grad():
        right = attention(x)
        assert apart(attention(x.flip(1)).flip(1), right) > 1e-3
        other = attention.rotary_emb.freqs
        other.copy_(other / 2)
        assert apart(attention(x), right) > 1e-3
        other.copy_(other * 2)
        attention.time_rel_pos_bias.relative_attention_bias.weight[3] += 1
        assert apart(attention(x), right) > 1e-3


def test_a_bias_has_a_value_for_each_head() -> None:
    assert RelativeBias(8)(16).shape == (8, 16, 16)


# --- the network ------------------------------------------------------------------------------------------------------


def timeless() -> LaVieUNet:
    """A tiny network that does not look over time."""
    network = tiny.lavie_unet()
    with torch.no_grad():
        for part in network.modules():
            if isinstance(part, TemporalAttention):
                part.to_out[0].weight.zero_()
                part.to_out[0].bias.zero_()
    return network


def answer(network: LaVieUNet, x: Tensor) -> Tensor:
    with torch.no_grad():
        return network(x, torch.full((len(x),), 601.0), noise(len(x), 7, tiny.CROSS)).sample


@pytest.mark.parametrize("size", [(8, 8), (7, 5), (2, 12)])
def test_on_one_frame_again_and_again_it_is_the_image_network(size: tuple[int, int]) -> None:
    """All but attention over time is Stable Diffusion's network; where frames are equal, a norm over the clip is a norm
    over each frame."""
    network, image = timeless(), tiny.image_unet()
    image.load_state_dict({k: v for k, v in network.state_dict().items() if "_temp" not in k})
    x = noise(2, tiny.CHANNELS, 1, *size)
    with torch.no_grad():
        right = image(x[:, :, 0], 601, noise(2, 7, tiny.CROSS)).sample
    for frames in (1, 3):
        found = answer(network, x.expand(-1, -1, frames, -1, -1))
        assert all(apart(found[:, :, frame], right) <= 1e-5 for frame in range(frames))


def test_without_attention_over_time_the_order_of_frames_does_not_matter() -> None:
    x, order = noise(1, tiny.CHANNELS, FRAMES, 8, 8), [3, 0, 4, 1, 2]
    assert apart(answer(timeless(), x[:, :, order]), answer(timeless(), x)[:, :, order]) <= 1e-5
    whole = tiny.lavie_unet()
    assert apart(answer(whole, x[:, :, order]), answer(whole, x)[:, :, order]) > 1e-3


def test_norms_see_the_whole_clip() -> None:
    """So frames are not free of each other even without attention over time."""
    x = noise(1, tiny.CHANNELS, FRAMES, 8, 8)
    changed = x.clone()
    changed[:, :, 4] *= 3
    assert apart(answer(timeless(), changed)[:, :, 0], answer(timeless(), x)[:, :, 0]) > 1e-4


def test_the_answer_comes_as_a_tuple_too() -> None:
    network, x = tiny.lavie_unet(), noise(1, tiny.CHANNELS, 2, 8, 8)
    with torch.no_grad():
        (found,) = network(x, torch.tensor([601.0]), noise(1, 7, tiny.CROSS), return_dict=False)
    assert torch.equal(found, answer(network, x))


# --- loading ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """LaVie's file and Stable Diffusion's folder, as published; tests do not change them."""
    return tiny.lavie_published(tmp_path_factory.mktemp("lavie"))


@cache
def expert_of(file: Path, image: Path) -> Expert:
    return load("it", "lavie", str(image), adapter=str(file))


@pytest.fixture
def expert(files: tuple[Path, Path]) -> Expert:
    return expert_of(*files)


def look(expert: Expert) -> Tensor:
    return expert.network(noise(1, tiny.CHANNELS, 3, 8, 8), 601.0, [Condition("red")], timeline(3))


def test_the_authors_file_over_stable_diffusions_folder(files: tuple[Path, Path], expert: Expert) -> None:
    network: Any = expert.network
    assert expert.schedule == BETAS
    assert (network.scheduler["_class_name"], network.scheduler["set_alpha_to_one"]) == ("DDIMScheduler", False)
    assert not network.module.training
    assert not any(p.requires_grad for p in network.module.parameters())
    assert network.text_limit == 77
    assert (network.space.vae, network.space.channels, network.max_frames) == ("AutoencoderKL", tiny.CHANNELS, None)
    saved = opened(files[0])
    assert {name for name, tensor in network.module.state_dict().items() if torch.equal(tensor, saved[name])} == set(
        saved
    )


def kept(tensors: dict[str, Tensor], file: Path) -> Path:
    save_file({name: tensor.clone() for name, tensor in tensors.items()}, file)
    return file


def test_the_same_tensors_may_come_in_other_files(files: tuple[Path, Path], expert: Expert, tmp_path: Path) -> None:
    tensors, right = opened(files[0]), look(expert)
    once = {name: tensor for name, tensor in tensors.items() if not name.endswith("freqs")}
    torch.save(tensors, tmp_path / "bare.pt")
    torch.save({"ema": tensors, "args": argparse.Namespace(lr=1e-4)}, tmp_path / "training.pt")
    torch.save(tensors, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    places = [
        *tmp_path.glob("*.pt"),
        kept(tensors, tmp_path / "it.safetensors"),
        kept(once, tmp_path / "o.safetensors"),
    ]
    assert len(places) == 5
    for place in places:
        assert torch.equal(look(load("it", "lavie", str(files[1]), adapter=str(place))), right), place.name
    whole = tiny.lavie(tmp_path / "whole")
    assert load("it", "lavie", str(whole)).schedule == BETAS
    assert apart(look(load("it", "lavie", str(whole))), right) <= 1e-6


@pytest.mark.parametrize("whole", [False, True], ids=["file", "folder"])
def test_half_precision_leaves_the_frequencies(
    files: tuple[Path, Path], expert: Expert, tmp_path: Path, whole: bool
) -> None:
    """Of the authors' file, and of a LaVieUNet in diffusers' layout."""
    weights, adapter = (str(tiny.lavie(tmp_path)), None) if whole else (str(files[1]), str(files[0]))
    half = load("it", "lavie", weights, adapter=adapter, dtype="bfloat16")
    network: Any = half.network
    kinds = {name: p.dtype for name, p in network.module.named_parameters()}
    assert {kind for name, kind in kinds.items() if "rotary" not in name} == {torch.bfloat16}
    assert {kind for name, kind in kinds.items() if "rotary" in name} == {torch.float32}
    assert 0 < apart(look(half), look(expert)) < 0.1


def test_of_the_image_network_only_its_sizes_are_fetched(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: dict[str, Any] = {}
    monkeypatch.setattr(
        huggingface_hub, "snapshot_download", lambda repo, **options: asked.update(options) or str(tmp_path)
    )
    with pytest.raises(WeightsError, match="has no unet/"):
        load("it", "lavie", "CompVis/stable-diffusion-v1-4", adapter=facts.FILE)
    there = ["unet/config.json", "unet/diffusion_pytorch_model.safetensors", "vae/config.json", "tokenizer/merges.txt"]
    there += [
        "text_encoder/model.safetensors",
        "scheduler/scheduler_config.json",
        "v1-4.ckpt",
        "safety_checker/config.json",
    ]
    patterns = {key: asked[key] for key in ("allow_patterns", "ignore_patterns")}
    found = set(huggingface_hub.utils.filter_repo_objects(there, **patterns))
    assert set(there) - found == {there[1], "v1-4.ckpt", "safety_checker/config.json"}


def test_the_file_is_looked_for_on_the_hub(files: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(
        huggingface_hub, "hf_hub_download", lambda repo, file, **_: asked.extend((repo, file)) or str(files[0])
    )
    load("it", "lavie", str(files[1]), adapter=facts.FILE)
    assert asked == ["YaohuiW/LaVie", "lavie_base.pt"]


# --- what is refused --------------------------------------------------------------------------------------------------


class Harmful:
    """What a pickle may do when it is opened."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.place}",)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_that_holds_more_than_tensors_is_not_opened(
    files: tuple[Path, Path], tmp_path: Path, zipped: bool
) -> None:
    file, ran = tmp_path / "odd.pt", tmp_path / "ran"
    torch.save({**opened(files[0]), "more": Harmful(ran)}, file, _use_new_zipfile_serialization=zipped)
    with pytest.raises(WeightsError) as caught:
        load("it", "lavie", str(files[1]), adapter=str(file))
    said = str(caught.value)
    assert not ran.exists()
    assert f"'{file}' is a pickle that holds more than tensors (it asks for {os.system.__module__}.system)" in said
    assert "could run any code" in said
    code = re.search(r'python -c "(.*)"$', said)
    assert code is not None
    torch.save(opened(files[0]), file)  # The advice works, where the file is what one trusts it to be.
    monkey = str(Path.cwd())
    os.chdir(tmp_path)
    try:
        exec(code[1], {})
    finally:
        os.chdir(monkey)
    assert load("it", "lavie", str(files[1]), adapter=str(tmp_path / "odd.safetensors"))


DAMAGED = {
    "half": lambda whole: whole[: len(whole) // 2],
    "pointer": lambda whole: b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3636970957\n",
    "empty": lambda whole: b"",
}


@pytest.mark.parametrize("ending", ["pt", "safetensors"])
@pytest.mark.parametrize("how", DAMAGED)
def test_a_damaged_file_is_named(files: tuple[Path, Path], tmp_path: Path, how: str, ending: str) -> None:
    whole = files[0] if ending == "pt" else kept(opened(files[0]), tmp_path / "whole.safetensors")
    file = tmp_path / f"it.{ending}"
    file.write_bytes(DAMAGED[how](whole.read_bytes()))
    said = {
        "pt": "' cannot be read as weights.*fetch it again",
        "safetensors": r" is damaged: .*Copy it again from where",
    }
    with pytest.raises(WeightsError, match=rf"it\.{ending}{said[ending]}") as caught:
        load("it", "lavie", str(files[1]), adapter=str(file))
    assert "weights_only" not in str(caught.value)


def changed(tensors: dict[str, Tensor], how: str) -> Any:
    first = "conv_in.weight"
    if how == "lacks":
        return {name: tensor for name, tensor in tensors.items() if name != first}
    if how == "more":
        return tensors | {"class_embedding.weight": torch.zeros(3)}
    if how == "shape":
        return tensors | {first: torch.zeros(40, 9, 3, 3)}
    return list(tensors.values()) if how == "list" else {"step": 3}


OTHERS = {
    "lacks": "lacks 1 tensors of LaVie's base network, the first is 'conv_in.weight'",
    "more": "has 1 tensors that LaVie's base network has not, the first is 'class_embedding.weight'",
    "shape": r"'conv_in.weight' is of shape \(40, 9, 3, 3\), and \(40, 4, 3, 3\) fits",
    "list": "holds no tensors by name",
    "numbers": "holds no tensors by name",
}


@pytest.mark.parametrize("how", OTHERS)
def test_tensors_of_another_network_are_told(files: tuple[Path, Path], tmp_path: Path, how: str) -> None:
    torch.save(changed(opened(files[0]), how), tmp_path / "other.pt")
    with pytest.raises(WeightsError, match=rf"other\.pt'.*{OTHERS[how]}.*YaohuiW/LaVie/lavie_base\.pt"):
        load("it", "lavie", str(files[1]), adapter=str(tmp_path / "other.pt"))


def test_what_is_missing_is_told(files: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    file, image = map(str, files)
    with pytest.raises(WeightsError, match=r"is an image network; name LaVie's file as adapter\..*lavie_base\.pt"):
        load("it", "lavie", image)
    with pytest.raises(WeightsError, match=r"no weights 'YaohuiW/LaVie/lavie_base\.pt'"):
        load("it", "lavie", image, adapter=facts.FILE)
    with pytest.raises(
        WeightsError, match=r"is LaVie's own network, which is the `adapter` of .*stable-diffusion-v1-4"
    ):
        load("it", "lavie", file)
    with pytest.raises(WeightsError, match=r"no such folder.*stable-diffusion-v1-4 with adapter YaohuiW"):
        load("it", "lavie", f"{image}-not")
    with pytest.raises(RecipeError, match="a LaVieUNet in family 'lavie' takes none"):
        load("it", "lavie", str(tiny.lavie(tmp_path)), adapter=file)


OTHER_IMAGES: dict[str, dict[str, Any]] = {
    "linear": {"use_linear_projection": True},
    "heads": {"attention_head_dim": [5, 10]},
    "blocks": {"down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"]},
}


@pytest.mark.parametrize("how", OTHER_IMAGES)
def test_another_image_network_is_told(files: tuple[Path, Path], tmp_path: Path, how: str) -> None:
    """Stable Diffusion 2 and XL, for example."""
    image = Path(shutil.copytree(files[1], tmp_path / "other"))
    config = json.loads((image / "unet" / "config.json").read_text())
    (image / "unet" / "config.json").write_text(json.dumps(config | OTHER_IMAGES[how]))
    for attempt in (
        lambda: load("it", "lavie", str(image), adapter=str(files[0])),
        lambda: outline("it", "lavie", Location(str(image)), adapter=str(files[0])),
    ):
        with pytest.raises(RecipeError, match=r"'it': unet/ of .*other' is no image network.*stable-diffusion-v1-4"):
            attempt()


# --- sampling ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [1.0, 7.5])
def test_an_expert_alone_is_its_authors_loop(files: tuple[Path, Path], expert: Expert, scale: float) -> None:
    """`VideoGenPipeline` of base/pipelines/pipeline_videogen.py with `sample_method: ddim`: both branches in one call, the
    empty text or another first, and Stable Diffusion's scheduler with LaVie's betas."""
    network: Any = expert.network
    betas = {"beta_start": 0.0001, "beta_end": 0.02, "beta_schedule": "linear"}
    scheduler = DDIMScheduler.from_pretrained(files[1], subfolder="scheduler", **betas)
    scheduler.set_timesteps(4)
    (positive,), (negative,) = network.text(PROMPT), network.text(AWAY)
    x = start = noise(1, tiny.CHANNELS, FRAMES, 8, 8)
    for time in scheduler.timesteps:
        with torch.no_grad():
            both = network.module(torch.cat([x, x]), time.expand(2), torch.cat([negative, positive])).sample
        unguided, guided = both.chunk(2)
        x = scheduler.step(unguided + scale * (guided - unguided), time, x).prev_sample

    ladder = ladder_of(network.scheduler, 4)
    denoise = expert.given(PROMPT) if scale == 1 else Guided(expert.given(PROMPT), expert.given(AWAY), scale)
    end = last(sample(denoise, start * ladder.first, timeline(FRAMES), ladder.levels, Euler()))
    found = end.seen.mix(ladder.levels[-1]) * expert.schedule.scale(ladder.levels[-1])
    assert ladder.levels[-1] == expert.schedule.share(0) > 0, "as set_alpha_to_one: false leaves it"
    assert apart(found, x) <= 1e-5


def test_windows_begin_anywhere(expert: Expert) -> None:
    """Positions are distances, so a window shows a clip as if it were alone."""
    denoise, x = expert.given("red"), noise(1, tiny.CHANNELS, 6, 8, 8)
    inside = Windowed(denoise, size=3, stride=3)(x, 0.6, timeline(6)).x0
    alone = denoise(x[:, :, 3:], 0.6, timeline(6)[:, 3:]).x0
    assert apart(inside[:, :, 3:], alone) <= 1e-5


# --- plans and recipes ------------------------------------------------------------------------------------------------


def test_files_on_this_machine_are_counted_as_they_are(files: tuple[Path, Path], expert: Expert) -> None:
    found, shape = outline("it", "lavie", Location(str(files[1])), adapter=str(files[0])), (tiny.CHANNELS, FRAMES, 8, 8)
    assert found.parameters == expert.network.parameters  # type: ignore[attr-defined]
    assert (found.kind, found.words.limit, found.words.width) == ("LaVieUNet", 77, tiny.CROSS)
    assert found.look(shape).total == flops(expert, shape)
    # In blocks of 8x8 cells: cells with cells, cells with words, frames with frames; the deeper stage has no block.
    cells, width, blocks = 64, 40, 1 + 2
    seen = FRAMES * cells * (cells + 77) + cells * FRAMES * FRAMES
    middle = FRAMES * 16 * (16 + 77) + 16 * FRAMES * FRAMES
    assert found.look(shape).attention == 4 * (seen * width * blocks + middle * 80)
    with pytest.raises(RecipeError, match="no stack of blocks"):
        found.look(shape, skipped=(1,))


@pytest.mark.slow
def test_a_plan_knows_lavie_before_it_is_there() -> None:
    plan = dovetail.plan("confiner-sd15-lavie")
    found = costs(plan).experts["temporal"]
    assert found.parameters == 909_124_356
    assert found.bytes == 2 * found.parameters
    assert found.spent.total == found.look.total * 10, "5 steps, both branches of guidance"
    (note,) = [note for note in plan.notes if "'temporal'" in note]
    assert "stable-diffusion-v1-4' is not on this machine; planned by its published configuration" in note
    mine = {"experts.temporal.adapter": "/weights/lavie_base.pt", "experts.temporal.weights": "me/my-stable-diffusion"}
    assert costs(dovetail.plan("confiner-sd15-lavie", overrides=mine)).experts["temporal"] == found


def test_what_is_published_of_it_is_its_schedule(files: tuple[Path, Path]) -> None:
    """The clock by index shows whether a plan knows LaVie's betas: at a timestep they are another noise level."""
    assert scheduler_config("it", "lavie", Location(str(files[1])), str(files[0]))["beta_end"] == 0.02
    clock = {"chain.refine.denoise.coordinated.clock": "index", "chain.refine.ladder.below.timestep": 500}
    refine = dovetail.plan("confiner-sd15-lavie", overrides=clock).stages[1]
    there: Any = refine.denoise
    assert there.clock(refine.ladder.levels[0]) == pytest.approx(BETAS.share(499))


def test_what_is_downloaded_weighs_what_it_should() -> None:
    """Gigabytes that are written down are numbers of parameters, of Stable Diffusion's models as its libraries make them."""
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextModel

    from dovetail.experts.published import CLIP_L, IMAGE_CODEC, SD_15
    from dovetail.experts.shelf import SHELF

    with torch.device("meta"):
        made = [
            CLIPTextModel(CLIPTextModel.config_class(**CLIP_L.config)),
            AutoencoderKL(**IMAGE_CODEC[1]),
            LaVieUNet(),
            UNet2DConditionModel(**SD_15),
        ]
    text, codec, lavie, unet = (4 * sum(p.numel() for p in module.parameters()) / 1e9 for module in made)
    assert SHELF["YaohuiW/LaVie"].parts == {"lavie_base.pt": pytest.approx(lavie, abs=0.005)}
    assert SHELF["CompVis/stable-diffusion-v1-4"].parts == {
        "unet": pytest.approx(unet, abs=0.005),
        "text_encoder": pytest.approx(text, abs=0.001),
        "vae": pytest.approx(codec, abs=0.001),
    }


@pytest.fixture(scope="module")
def tiny_recipe(files: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> recipes.Recipe:
    """The recipe over tiny checkpoints laid out as the real ones."""
    folder = tmp_path_factory.mktemp("recipe")
    image = str(tiny.stable_diffusion(folder / "stable-diffusion-v1-5"))
    changes = {
        "experts.control.weights": image,
        "experts.control.adapter": str(tiny.lightning(folder / "lightning.safetensors")),
        "experts.spatial.weights": image,
        "experts.temporal.weights": str(files[1]),
        "experts.temporal.adapter": str(files[0]),
        "codec.weights": image,
        "video.frames": 3,
        "video.height": 16,
        "video.width": 16,
        "prompt": "red",
        **dict.fromkeys(("experts.control.variant", "experts.spatial.variant", "codec.variant")),
        **{f"experts.{name}.dtype": "float32" for name in ("control", "spatial", "temporal")},
        "codec.dtype": "float32",
    }
    return recipes.changed(recipes.load("confiner-sd15-lavie"), changes)


def test_the_recipe_makes_a_video_of_tiny_weights(tiny_recipe: recipes.Recipe) -> None:
    video = dovetail.generate(recipe=tiny_recipe)
    assert video.frames.shape == (3, 16, 16, 3)
    assert video.settings["calls"] == {"control": 4, "spatial": 10, "temporal": 5}
    assert not dovetail.plan(tiny_recipe).notes
    unguided = {"chain.refine.denoise.coordinated.temporal.guidance": 1.0}
    assert (dovetail.generate(recipe=tiny_recipe, overrides=unguided).frames != video.frames).any()


def test_it_can_be_long(tiny_recipe: recipes.Recipe) -> None:
    """In windows of two frames, over a draft in windows of its own."""
    inside = {"windowed": {"of": {"expert": "temporal", "guidance": 7.5}, "size": 2, "stride": 1}}
    changes = {"chain.refine.denoise.coordinated.temporal": inside, "video.frames": 6, "chain.structure.window": 3}
    assert len(dovetail.generate(recipe=tiny_recipe, overrides=changes).frames) == 6


def test_a_single_json_is_fetched_alone() -> None:
    assert checkpoint._wanted("unet/config.json", "fp16") == ["unet/config.json"]
