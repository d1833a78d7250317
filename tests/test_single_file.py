"""Community checkpoints: one file in the original layout loads as the folder does, offline."""

import pickle
import re
from pathlib import Path
from typing import Any

import originals
import pytest
import tiny
import torch
from diffusers import AutoencoderKL, AutoencoderKLWan, UNet2DConditionModel, UNetMotionModel
from safetensors.torch import load_file, save_file
from transformers import CLIPTextModel

from dovetail.core.denoiser import Condition, Expert
from dovetail.errors import RecipeError, SpaceError, WeightsError
from dovetail.experts import load, load_codec, same_space
from dovetail.experts.checkpoint import Location
from dovetail.experts.loading import scheduler_config
from dovetail.experts.outline import outline
from dovetail.experts.schedulers import ladder_of
from dovetail.experts.shelf import SHELF
from dovetail.experts.single_file import FULL_SD1, hollow, single
from dovetail.experts.tensors import opened


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same networks in diffusers' layout."""
    return tiny.stable_diffusion(tmp_path_factory.mktemp("single") / "base")


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return originals.stable_diffusion(tmp_path_factory.mktemp("single") / "dreamshaper.safetensors")


def answer(expert: Expert, frames: int = 1) -> torch.Tensor:
    x = torch.randn(1, 4, frames, 8, 8, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        return expert.network(x, 400.0, [Condition("a red fox")], torch.arange(frames)[None])


def apart(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).abs().max())


def test_one_file_answers_as_the_folder(file: Path, base: Path) -> None:
    """Network, text model and latents; the tokenizer is the base's."""
    one = load("it", "stable-diffusion", str(file), base=str(base))
    two = load("it", "stable-diffusion", str(base))
    assert apart(answer(one), answer(two)) <= 1e-5
    same_space(one.network.space, two.network.space)
    assert one.network.scheduler == two.network.scheduler


def test_motion_modules_over_one_file(file: Path, base: Path, tmp_path: Path) -> None:
    bare = str(tiny.lightning(tmp_path / "lightning.safetensors"))
    one = load("it", "animatediff", str(file), base=str(base), adapter=bare)
    two = load("it", "animatediff", str(base), adapter=bare)
    assert apart(answer(one, 4), answer(two, 4)) <= 1e-5


@pytest.mark.parametrize("name", ["whole.safetensors", "bare.safetensors", "diffusers.safetensors", "vae.ckpt"])
def test_the_autoencoder_in_one_file(tmp_path: Path, base: Path, name: str) -> None:
    """Inside a whole model, alone as vae-ft-mse-840000-ema-pruned is, under diffusers' names, and pickled."""
    if name == "whole.safetensors":
        found = originals.stable_diffusion(tmp_path / name)
    elif name == "diffusers.safetensors":
        found = originals.written(tmp_path / name, tiny.vae().state_dict())
    else:
        found = originals.written(tmp_path / name, originals.vae(tiny.vae(), ""))
    codec, stock = load_codec(str(found), base=str(base)), load_codec(str(base))
    frames = torch.rand(1, 2, 3, 16, 16, generator=torch.Generator().manual_seed(1)) * 2 - 1
    latent = stock.encode(frames)
    assert apart(codec.encode(frames), latent) <= 1e-5
    assert apart(codec.decode(latent), stock.decode(latent)) <= 1e-5
    same_space(codec.space, stock.space)


def test_a_network_alone_takes_the_rest_of_its_base(tmp_path: Path, base: Path) -> None:
    """As ComfyUI keeps networks: without text model and autoencoder."""
    other = tiny.grown(tiny.unet2d, 77, 0.05)
    found = originals.written(tmp_path / "finetune.safetensors", originals.unet(other))
    expert = load("it", "stable-diffusion", str(found), base=str(base))
    assert all(torch.equal(a, b) for a, b in zip(expert.network.module.parameters(), other.parameters(), strict=True))
    same_space(expert.network.space, load_codec(str(base)).space)
    assert expert.network.space.encoder is not None


def test_half_precision_in_the_file_and_on_the_device(tmp_path: Path, file: Path, base: Path) -> None:
    half = originals.stable_diffusion(tmp_path / "half.safetensors", half=True)
    one = load("it", "stable-diffusion", str(half), base=str(base))
    assert {part.dtype for part in one.network.module.parameters()} == {torch.float32}
    assert 0 < apart(answer(one), answer(load("it", "stable-diffusion", str(file), base=str(base)))) < 0.02
    two = load("it", "stable-diffusion", str(file), base=str(base), dtype="bfloat16")
    assert {part.dtype for part in two.network.module.parameters()} == {torch.bfloat16}


TRANSFORMERS = {
    "wan": (tiny.wan, lambda: tiny.wan_transformer(1, 2), originals.wan),
    "ltx": (tiny.ltx, lambda: tiny.ltx_transformer(1, 2), originals.ltx),
}


@pytest.mark.parametrize("family", TRANSFORMERS)
def test_a_transformer_in_one_file(tmp_path: Path, family: str) -> None:
    """Text model, scheduler and autoencoder are the base's."""
    repository, made, named = TRANSFORMERS[family]
    base, other = repository(tmp_path / "base"), tiny.grown(made, 50, 0.05)
    found = originals.written(tmp_path / "finetune.safetensors", named(other))
    expert = load("it", family, str(found), base=str(base))
    ours, theirs = expert.network.module.state_dict(), other.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    same_space(expert.network.space, load_codec(str(base)).space)


def test_ltx_video_in_its_authors_file_has_its_own_autoencoder(tmp_path: Path) -> None:
    """Network and autoencoder, as ltxv-2b-0.9.8-distilled.safetensors has them; a base says their sizes and reads."""
    base = tiny.ltx(tmp_path / "base", conditioned=True)
    other, vae = tiny.grown(lambda: tiny.ltx_transformer(1, 2), 50, 0.05), tiny.ltx_vae(conditioned=True)
    moved = tiny.grown(lambda: tiny.ltx_vae(conditioned=True), 5)
    for name, inside in (("same", vae), ("other", moved)):
        originals.written(tmp_path / f"{name}.safetensors", originals.ltx(other), originals.ltx_vae(inside))
    expert, stranger = (
        load("it", "ltx", str(tmp_path / f"{name}.safetensors"), base=str(base)) for name in ("same", "other")
    )
    ours, theirs = expert.network.module.state_dict(), other.state_dict()
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)
    assert expert.network.space.encoder is not None
    same_space(expert.network.space, load_codec(str(base)).space)
    with pytest.raises(SpaceError, match="encoder weights are"):
        same_space(stranger.network.space, load_codec(str(base)).space)


LTX_VAES = {
    "0.9.0": tiny.ltx_vae,
    "0.9.1": lambda: tiny.ltx_vae(conditioned=True),
    "0.9.5": tiny.ltx_vae_late,
}


@pytest.mark.parametrize("release", LTX_VAES)
def test_the_autoencoder_in_ltx_videos_authors_file(tmp_path: Path, release: str) -> None:
    """Of each of the ways in which its blocks are counted, the file's whole or cut down to it."""
    vae = LTX_VAES[release]()
    named = originals.ltx_vae(vae) | {"vae.per_channel_statistics.mean-of-stds": torch.ones(4)}
    whole = originals.written(tmp_path / "ltxv.safetensors", originals.ltx(tiny.ltx_transformer(1, 2)), named)
    bare = {key.removeprefix("vae."): tensor for key, tensor in named.items()}
    vae.save_pretrained(tmp_path / "base" / "vae")
    for file in (whole, originals.written(tmp_path / "vae.safetensors", bare)):
        codec = load_codec(str(file), base=str(tmp_path / "base"))
        ours = codec.module.state_dict()  # type: ignore[attr-defined]
        assert ours.keys() == vae.state_dict().keys()
        assert all(torch.equal(ours[key], tensor) for key, tensor in vae.state_dict().items())
        assert codec.space.statistics == pytest.approx((0.3, -0.2, 0.1, 0.0, 1.5, 0.5, 2.0, 1.0))


def test_names_in_ltx_videos_authors_file_in_its_published_sizes() -> None:
    from diffusers import AutoencoderKLLTXVideo

    from dovetail.experts.published import LTX_CODEC
    from dovetail.experts.single_file import STATISTICS, _renamed

    with torch.device("meta"):
        vae = AutoencoderKLLTXVideo(**LTX_CODEC[1])
    named = {key.removeprefix("vae."): tensor for key, tensor in originals.ltx_vae(vae).items()}
    assert "encoder.down_blocks.8.res_blocks.1.conv2.conv.weight" in named
    found = _renamed(
        "AutoencoderKLLTXVideo", {STATISTICS.get(key, key): named[key] for key in named}, dict(LTX_CODEC[1])
    )
    assert {key: tensor.shape for key, tensor in found.items()} == {
        key: tensor.shape for key, tensor in vae.state_dict().items()
    }


def test_statistics_of_ltx_videos_authors_file_are_compared(tmp_path: Path) -> None:
    """One encoder, other means: latents of the one say another thing to the other."""
    base, vae = tiny.ltx(tmp_path / "base", conditioned=True), tiny.ltx_vae(conditioned=True)
    vae.latents_mean.add_(1.0)
    file = tmp_path / "ltxv.safetensors"
    originals.written(file, originals.ltx(tiny.ltx_transformer(1, 2)), originals.ltx_vae(vae))
    expert = load("it", "ltx", str(file), base=str(base))
    with pytest.raises(SpaceError, match="spaces: means and deviations of the channels"):
        same_space(expert.network.space, load_codec(str(base)).space)
    same_space(expert.network.space, load_codec(str(file), base=str(base)).space)


PLACES = (
    (r"decoder\.up_blocks\.(\d)\.resnets\.(\d)", lambda at: f"decoder.upsamples.{4 * int(at[1]) + int(at[2])}"),
    (r"decoder\.up_blocks\.(\d)\.upsamplers\.0", lambda at: f"decoder.upsamples.{4 * int(at[1]) + 3}"),
    (r"encoder\.down_blocks", "encoder.downsamples"),
    (r"mid_block\.resnets\.(\d)", lambda at: f"middle.{2 * int(at[1])}"),
    (r"mid_block\.attentions\.0", "middle.1"),
    (r"conv_shortcut", "shortcut"),
    (r"\.norm(\d)\.", lambda at: f".residual.{3 * int(at[1]) - 3}."),
    (r"\.conv(\d)\.", lambda at: f".residual.{4 * int(at[1]) - 2}."),
    (r"norm_out", "head.0"),
    (r"conv_out", "head.2"),
    (r"conv_in", "conv1"),
    (r"^post_quant_conv", "conv2"),
    (r"^quant_conv", "conv1"),
)
"""How Wan's own code names what diffusers names so."""


def named(key: str) -> str:
    for theirs, ours in PLACES:
        key = re.sub(theirs, ours, key)
    return key


def test_the_autoencoder_of_wan_in_its_authors_file(tmp_path: Path) -> None:
    """Wan2.1_VAE.pth: as many blocks as it has, of fewer channels."""
    vae = tiny.grown(lambda: AutoencoderKLWan(base_dim=4), 5)
    vae.save_pretrained(tmp_path / "base" / "vae")
    tensors = {named(key): tensor for key, tensor in vae.state_dict().items()}
    assert len(tensors) == len(vae.state_dict()) == 194
    for name in ("decoder.upsamples.4.shortcut.weight", "encoder.middle.1.to_qkv.bias", "conv2.weight"):
        assert name in tensors
    file = originals.written(tmp_path / "Wan2.1_VAE.pth", tensors)
    codec, stock = load_codec(str(file), base=str(tmp_path / "base")), load_codec(str(tmp_path / "base"))
    frames = torch.rand(1, 5, 3, 16, 16, generator=torch.Generator().manual_seed(1)) * 2 - 1
    assert torch.equal(codec.encode(frames), stock.encode(frames))
    assert torch.equal(codec.decode(stock.encode(frames)), stock.decode(stock.encode(frames)))
    same_space(codec.space, stock.space)
    with pytest.raises(WeightsError, match=r"name a checkpoint .*as `base`, for its vae/config"):
        load_codec(str(file))


@pytest.mark.parametrize(
    "name", ["./wan2.1-t2v-14b-Q4_K_M.gguf", "city96/Wan2.1-T2V-14B-gguf/wan2.1-t2v-14b-Q8_0.gguf"]
)
@pytest.mark.parametrize("there", [False, True])
def test_gguf_is_refused_by_name(tmp_path: Path, name: str, there: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    if there:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_bytes(b"GGUF")
    said = r"is a GGUF file.*take the \.safetensors.*`store: float8`"
    with pytest.raises(WeightsError, match=said):
        load("it", "wan", name)
    with pytest.raises(WeightsError, match=said):
        load_codec(name)


# --- without a base -----------------------------------------------------------------------------------------------


def test_the_configurations_of_stable_diffusion_1_are_known() -> None:
    """Their networks have the published numbers of parameters, and the published names when written as originals."""
    kinds = {"unet": UNet2DConditionModel, "text_encoder": CLIPTextModel, "vae": AutoencoderKL}
    made = {part: hollow(kind, FULL_SD1[part, "config.json"]) for part, kind in kinds.items()}
    counts = {part: sum(p.numel() for p in module.parameters()) for part, module in made.items()}
    assert counts == {"unet": 859_520_964, "text_encoder": 123_060_480, "vae": 83_653_863}
    names = originals.unet(made["unet"])
    assert names["model.diffusion_model.output_blocks.11.0.skip_connection.weight"].shape == (320, 640, 1, 1)
    assert names["model.diffusion_model.input_blocks.8.1.transformer_blocks.0.attn2.to_k.weight"].shape == (1280, 768)
    assert len(names) == 686
    assert len(originals.vae(made["vae"])) == 248
    assert len(originals.clip(made["text_encoder"])) == 197


def test_without_a_base_only_the_tokenizer_is_missing(file: Path, tmp_path: Path, base: Path, monkeypatch: Any) -> None:
    """It is the usual repository's, from the cache or the hub; the error says what else helps."""
    with pytest.raises(
        WeightsError, match=r"no weights 'stable-diffusion-v1-5/.*name another checkpoint that has tokenizer/"
    ):
        load("it", "stable-diffusion", str(file))
    assert scheduler_config("it", "stable-diffusion", Location(str(file)))["beta_schedule"] == "scaled_linear"
    assert outline("it", "stable-diffusion", Location(str(file))).parameters == 859_520_964
    monkeypatch.setattr("dovetail.experts.checkpoint.USUAL_BASE", str(base))
    with pytest.raises(WeightsError, match=r"of shape \(8, 4, 3, 3\) where a UNet2DConditionModel.* as `base`"):
        load("it", "stable-diffusion", str(file))


def test_sizes_that_nobody_knows_are_told_before_anything_is_fetched(tmp_path: Path) -> None:
    """Of a transformer, and of a network over time whose names are those of an image network."""
    video = {"conv_in.weight": 1, "down_blocks.0.temp_convs.0.conv1.0.weight": 1}
    for family, part, names in (
        ("wan", "transformer", {"patch_embedding.weight": 1}),
        ("text-to-video-sd", "unet", video),
    ):
        found = originals.written(tmp_path / f"{family}.safetensors", {name: torch.zeros(1) for name in names})
        asks = rf"is one file and says nothing of its sizes; name a checkpoint .*as `base`, for its {part}/config\.json"
        with pytest.raises(WeightsError, match=asks):
            load("it", family, str(found))
    with pytest.raises(WeightsError, match=r"as `base`, for its scheduler/scheduler_config\.json"):
        scheduler_config("it", "wan", Location(str(tmp_path / "wan.safetensors")))


REFUSED = {
    "lora": (
        {"lora_unet_mid_block_attentions_0_proj_in.lora_down.weight": 1},
        "holds no unet: it is LoRA weights, which",
    ),
    "motion": (
        {"down_blocks.0.motion_modules.0.temporal_transformer.norm.weight": 1},
        "motion modules, which are the `ad",
    ),
    "vae": ({"decoder.conv_in.weight": 1, "encoder.conv_in.weight": 1}, "an autoencoder, which belongs in .*`codec`"),
    "sdxl": (
        {"conditioner.embedders.1.model.ln_final.weight": 1, "model.diffusion_model.out.2.bias": 1},
        "Diffusion XL",
    ),
    "sd2": (
        {"cond_stage_model.model.ln_final.weight": 1, "model.diffusion_model.out.2.bias": 1},
        "diffusers' folders only",
    ),
    "none": ({"layers.0.weight": 1}, "holds no unet, but layers.0.weight"),
}


@pytest.mark.parametrize("what", REFUSED)
@pytest.mark.parametrize("told", [True, False])
def test_a_file_of_something_else_says_where_it_belongs(tmp_path: Path, base: Path, what: str, told: bool) -> None:
    names, message = REFUSED[what]
    found = originals.written(tmp_path / "it.safetensors", {name: torch.zeros(1) for name in names})
    with pytest.raises(WeightsError, match=message):
        load("it", "stable-diffusion", str(found), base=str(base) if told else None)


def test_a_network_is_no_codec(tmp_path: Path, base: Path) -> None:
    found = originals.written(tmp_path / "unet.safetensors", originals.unet(tiny.unet2d()))
    with pytest.raises(WeightsError, match="holds no vae: it is a network of Stable Diffusion's"):
        load_codec(str(found), base=str(base))


def test_what_is_missing_or_left_over_is_named(tmp_path: Path, base: Path) -> None:
    tensors = originals.unet(tiny.unet2d())
    less = {key: value for key, value in tensors.items() if not key.endswith("out.2.bias")}
    with pytest.raises(WeightsError, match=r"lacks 1 tensors of a UNet2DConditionModel, the first is 'conv_out\.bias'"):
        load("it", "stable-diffusion", str(originals.written(tmp_path / "a.safetensors", less)), base=str(base))
    bare = {**tiny.unet2d().state_dict(), "extra.weight": torch.zeros(1)}
    with pytest.raises(WeightsError, match=r"1 tensors that are none of a UNet2DConditionModel's.*extra.weight"):
        load("it", "stable-diffusion", str(originals.written(tmp_path / "b.safetensors", bare)), base=str(base))


def test_a_base_is_for_one_file(base: Path) -> None:
    with pytest.raises(WeightsError, match="is a checkpoint in itself, so it takes no base"):
        load("it", "stable-diffusion", str(base), base="some/other")


# --- pickles ------------------------------------------------------------------------------------------------------


class Harm:
    def __reduce__(self) -> Any:
        return (print, ("this must not run",))


def test_a_pickle_of_tensors_is_opened_and_any_other_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = originals.written(tmp_path / "good.ckpt", {"module.a": torch.ones(2)})
    assert opened(good).keys() == {"a"}
    state = {"state_dict": {"a": torch.ones(2)}, "ema": {"a": torch.zeros(2)}}
    torch.save(state, tmp_path / "training.ckpt")
    assert opened(tmp_path / "training.ckpt")["a"].sum() == 0, "of a training's state, the averaged ones"
    torch.save({"state_dict": {"a": torch.ones(2)}, "callback": Harm()}, tmp_path / "bad.ckpt")
    with pytest.raises(
        WeightsError, match=r"pickle that holds more than tensors .*if you trust this file, convert it once"
    ):
        single("bad.ckpt", tmp_path / "bad.ckpt")
    (tmp_path / "worse.ckpt").write_bytes(pickle.dumps(Harm()))
    with pytest.raises(WeightsError, match=r"worse\.ckpt"):
        opened(tmp_path / "worse.ckpt")
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("suffix", [".safetensors", ".ckpt"])
def test_a_file_that_is_cut_short_is_named(tmp_path: Path, file: Path, base: Path, suffix: str) -> None:
    whole = originals.stable_diffusion(tmp_path / f"whole{suffix}").read_bytes()
    (tmp_path / f"half{suffix}").write_bytes(whole[: len(whole) // 2])
    said = {
        ".safetensors": r" is damaged: .*cut short\. Copy it again",
        ".ckpt": "' cannot be read as weights .*fetch it",
    }
    with pytest.raises(WeightsError, match=f"half{suffix}{said[suffix]}"):
        load("it", "stable-diffusion", str(tmp_path / f"half{suffix}"), base=str(base))


def test_a_folder_whose_weights_are_pickles_alone(tmp_path: Path) -> None:
    """As zeroscope_v2_576w has them."""
    folder = tiny.text_to_video_sd(tmp_path / "zeroscope")
    stock = answer(load("it", "text-to-video-sd", str(folder)), 3)
    names = {
        "unet": "diffusion_pytorch_model.bin",
        "vae": "diffusion_pytorch_model.bin",
        "text_encoder": "pytorch_model.bin",
    }
    for part, name in names.items():
        for found in (folder / part).glob("*.safetensors"):
            torch.save(load_file(found), folder / part / name)
            found.unlink()
    expert = load("it", "text-to-video-sd", str(folder))
    assert torch.equal(answer(expert, 3), stock)
    assert expert.network.space.encoder is not None
    torch.save({"weight": torch.ones(1), "harm": Harm()}, folder / "unet" / names["unet"])
    with pytest.raises(WeightsError, match=r"unet/.*holds more than tensors"):
        load("it", "text-to-video-sd", str(folder))


# --- motion modules -----------------------------------------------------------------------------------------------

VERSIONS = {"mm_sd_v15.ckpt": (False, 24), "mm_sd_v15_v2.safetensors": (True, 32), "v3_sd15_mm.ckpt": (False, 32)}
"""File, whether the middle has modules, the longest video."""


@pytest.mark.parametrize("name", VERSIONS)
def test_motion_modules_in_the_original_layout(tmp_path: Path, base: Path, name: str) -> None:
    middle, longest = VERSIONS[name]
    modules = tiny.motion_adapter(longest)
    tensors = originals.motion(modules, longest)
    if not middle:
        tensors = {key: value for key, value in tensors.items() if not key.startswith("mid_block.")}
        modules.config["use_motion_mid_block"], modules.mid_block = False, None
    found = originals.written(tmp_path / name, tensors)
    expert = load("it", "animatediff", str(base), adapter=str(found))
    unet = UNet2DConditionModel.from_pretrained(base / "unet")
    stock = UNetMotionModel.from_unet2d(unet, modules).eval()
    ours, theirs = expert.network.module.state_dict(), stock.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    assert expert.network.max_frames == longest
    assert expert.network.scheduler["beta_schedule"] == "linear"
    with pytest.raises(RecipeError, match=f"at most {longest}"):
        answer(expert, longest + 1)


def test_lightning_is_sampled_at_trailing_steps_and_the_others_as_their_base(tmp_path: Path) -> None:
    folder = str(tiny.stable_diffusion(tmp_path / "base", timestep_spacing="leading"))
    tensors = originals.motion(tiny.motion_adapter())
    for name, spacing in {"animatediff_lightning_4step_comfyui": "trailing", "v3_sd15_mm": "leading"}.items():
        found = originals.written(tmp_path / f"{name}.safetensors", tensors)
        assert scheduler_config("it", "animatediff", Location(folder), str(found))["timestep_spacing"] == spacing


@pytest.mark.parametrize("layout", ["diffusers", "comfyui"])
@pytest.mark.parametrize("steps", [1, 2, 4, 8])
def test_each_file_of_lightning_loads_and_is_walked_in_its_steps(
    tmp_path: Path, base: Path, steps: int, layout: str
) -> None:
    """The names of ByteDance/AnimateDiff-Lightning; its own ladder begins at pure noise, at trailing timesteps."""
    name, modules = f"animatediff_lightning_{steps}step_{layout}.safetensors", tiny.motion_adapter()
    tensors = modules.state_dict() if layout == "diffusers" else originals.motion(modules)
    assert (name in SHELF["ByteDance/AnimateDiff-Lightning"].parts) == (layout == "diffusers")
    expert = load("it", "animatediff", str(base), adapter=str(originals.written(tmp_path / name, tensors)))
    stock = UNetMotionModel.from_unet2d(UNet2DConditionModel.from_pretrained(base / "unet"), modules).state_dict()
    ours = expert.network.module.state_dict()
    assert all(torch.equal(ours[key], stock[key]) for key in stock)
    ladder = ladder_of(expert.network.scheduler, steps)
    told = [expert.schedule.native(level) for level in ladder.levels[:-1]]
    assert told == pytest.approx([1000 - 1000 * i // steps - 1 for i in range(steps)], abs=0.01)


def test_motion_modules_of_another_network(tmp_path: Path, base: Path) -> None:
    tensors = originals.motion(tiny.motion_adapter())
    one = next(key for key in tensors if key.endswith("proj_in.weight"))
    less = {key: value for key, value in tensors.items() if key != one}
    found = originals.written(tmp_path / "mm.safetensors", less)
    with pytest.raises(WeightsError, match="no motion modules for this unet/: 1 tensors are missing"):
        load("it", "animatediff", str(base), adapter=str(found))
    wide = originals.written(tmp_path / "wide.safetensors", {**tensors, one: torch.zeros(3, 3)})
    with pytest.raises(WeightsError, match="no motion modules for this unet/"):
        load("it", "animatediff", str(base), adapter=str(wide))


# --- one space ----------------------------------------------------------------------------------------------------


def test_an_autoencoder_is_known_in_any_precision_and_under_any_names(tmp_path: Path) -> None:
    """bfloat16 rounds more than half; a finetuned decoder changes nothing."""
    one, other = tiny.vae(), tiny.vae(seed=6)
    one.save_pretrained(tmp_path / "one")
    space = load_codec(str(tmp_path / "one"), subfolder="").space
    one.decoder.load_state_dict(other.decoder.state_dict())
    one.to(torch.bfloat16).save_pretrained(tmp_path / "two")
    same_space(space, load_codec(str(tmp_path / "two"), subfolder="").space)
    renamed = originals.written(tmp_path / "vae.safetensors", originals.vae(one.half(), ""))
    same_space(space, load_codec(str(renamed), base=str(tiny.stable_diffusion(tmp_path / "base"))).space)


def test_an_encoder_that_was_trained_on_is_another_space_until_it_is_trusted(tmp_path: Path) -> None:
    spaces = []
    for by in (0.0, 0.2):
        vae = tiny.vae()
        with torch.no_grad():
            for weight in vae.encoder.parameters():
                weight.add_(torch.randn_like(weight) * weight.std().nan_to_num(), alpha=by)
        vae.save_pretrained(tmp_path / str(by))
        spaces.append(load_codec(str(tmp_path / str(by)), subfolder="").space)
    with pytest.raises(
        SpaceError, match=r"encoder weights are \d+% apart.*bridge: pixels.*trust_space: true on the expert"
    ):
        same_space(*spaces)
    same_space(*spaces, trusted=True)


def test_sizes_are_never_trusted() -> None:
    from dovetail.experts import LatentSpace

    with pytest.raises(SpaceError, match="channels 4 against 16"):
        same_space(LatentSpace(4), LatentSpace(16), trusted=True)


def test_statistics_of_another_precision_are_the_same(tmp_path: Path) -> None:
    wan = tiny.wan_vae()
    wan.save_pretrained(tmp_path / "wan")
    tiny.ltx_vae().save_pretrained(tmp_path / "one")
    tiny.ltx_vae().to(torch.bfloat16).save_pretrained(tmp_path / "two")
    moved = tiny.ltx_vae()
    moved.latents_mean.add_(0.5)
    moved.save_pretrained(tmp_path / "three")
    one, two, three = (load_codec(str(tmp_path / name), subfolder="").space for name in ("one", "two", "three"))
    same_space(one, two)
    with pytest.raises(SpaceError, match="means and deviations of the channels"):
        same_space(one, three)


def test_a_damaged_header_is_no_reason_to_stop(tmp_path: Path) -> None:
    save_file({"a": torch.ones(1)}, tmp_path / "a.safetensors", metadata={"format": "pt", "odd": "{not json"})
    from dovetail.experts.tensors import header

    assert header(tmp_path / "a.safetensors") == {"format": "pt", "odd": "{not json"}
