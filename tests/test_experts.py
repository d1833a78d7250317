"""Loading experts, what their adapters promise, and the latent codec; on tiny checkpoints made here."""

import json
import pickle
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import tiny
import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from tiny import apart
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer

from dovetail.core.combine import Framewise, Guided
from dovetail.core.denoiser import Condition, Denoiser, Expert, predicts_eps, predicts_v, timeline
from dovetail.core.schedules import VariancePreserving
from dovetail.errors import NetworkError, PromptWarning, RecipeError, SpaceError, WeightsError
from dovetail.experts import FAMILIES, Adapter, LatentSpace, checkpoint, load, load_codec, same_space
from dovetail.experts.checkpoint import Location
from dovetail.experts.loading import scheduler_config

ROWS, FRAMES, TIME = 5, 3, 601.0
TEXTS = ("a red circle", "", "a blue ring", "a red circle", "it moves up")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A checkpoint of each family; tests do not change them."""
    return {family: make(tmp_path_factory.mktemp(family)) for family, make in tiny.MAKERS.items()}


@pytest.fixture(scope="module")
def experts(folders: dict[str, Path]) -> dict[str, Expert]:
    """An expert of each family; tests do not change them."""
    return {family: load("it", family, str(folder)) for family, folder in folders.items()}


@pytest.fixture
def image(folders: dict[str, Path], tmp_path: Path) -> Path:
    """A copy of the image checkpoint, to be damaged."""
    return Path(shutil.copytree(folders["stable-diffusion"], tmp_path / "image"))


def network(expert: Expert) -> Adapter:
    assert isinstance(expert.network, Adapter)
    return expert.network


def latent(frames: int = FRAMES, rows: int = ROWS) -> Tensor:
    shape = (rows, tiny.CHANNELS, frames, tiny.SIZE, tiny.SIZE)
    return torch.randn(shape, generator=torch.Generator().manual_seed(7))


def answer(expert: Expert, x: Tensor | None = None, time: float = TIME) -> Tensor:
    x = latent(network(expert).max_frames == 1 or FRAMES) if x is None else x
    return expert.network(x, time, [Condition(text) for text in TEXTS[: len(x)]], timeline(x.shape[2]))


# --- what an adapter promises -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_the_size_of_the_pieces_does_not_change_the_answer(experts: dict[str, Expert], family: str) -> None:
    whole = replace(experts[family], network=replace(network(experts[family]), batch=ROWS))
    for batch in (1, 2, 3, 64):
        pieces = replace(whole, network=replace(network(whole), batch=batch))
        assert apart(answer(pieces), answer(whole)) <= 1e-5


@pytest.mark.parametrize("family", FAMILIES)
def test_the_module_is_called_with_at_most_batch_rows(folders: dict[str, Path], family: str) -> None:
    expert = load("it", family, str(folders[family]), batch=2)
    rows: list[int] = []
    network(expert).module.register_forward_pre_hook(
        lambda module, inputs, named: rows.append(len((*inputs, *named.values())[0])), with_kwargs=True
    )
    answer(expert)
    assert rows == [2, 2, 1]


@pytest.mark.parametrize("family", FAMILIES)
def test_every_row_is_seen_with_its_own_text_and_time(experts: dict[str, Expert], family: str) -> None:
    expert = experts[family]
    same = latent(network(expert).max_frames == 1 or FRAMES, 1).expand(ROWS, -1, -1, -1, -1)
    out = answer(expert, same)
    assert apart(out[3], out[0]) <= 1e-6
    assert min(apart(out[i], out[0]) for i in (1, 2, 4)) > 1e-4
    assert apart(answer(expert, same, 20.0), out) > 1e-3


@pytest.mark.parametrize("family", ["animatediff", "text-to-video-sd", "lavie", "wan", "ltx", "cogvideox"])
def test_video_networks_look_across_frames(experts: dict[str, Expert], family: str) -> None:
    expert, x = experts[family], latent()
    changed = x.clone()
    changed[:, :, 2] += 1
    assert apart(answer(expert, changed)[:, :, 0], answer(expert, x)[:, :, 0]) > 1e-4


@pytest.mark.parametrize("family", FAMILIES)
def test_guidance_in_one_call_is_guidance_in_two(experts: dict[str, Expert], family: str) -> None:
    expert = experts[family]
    positive, negative = expert.given("a red circle"), expert.given("blurred")

    def seen(joint: bool) -> Tensor:
        guided: Denoiser = Guided(positive, negative, 4.0, joint)
        guided = Framewise(guided) if family == "stable-diffusion" else guided
        return guided(latent(rows=2), 0.6, timeline(FRAMES).expand(2, -1)).x0

    assert apart(seen(joint=True), seen(joint=False)) <= 1e-5


@pytest.mark.parametrize("family", FAMILIES)
def test_half_precision_inside_single_precision_outside(
    folders: dict[str, Path], experts: dict[str, Expert], family: str
) -> None:
    half = load("it", family, str(folders[family]), dtype="bfloat16", device="cpu")
    kept = getattr(network(half).module, "_keep_in_fp32_modules", None) or []
    halved = {p.dtype for key, p in network(half).module.named_parameters() if not any(k in key for k in kept)}
    assert halved == {torch.bfloat16}
    out = answer(half)
    assert out.dtype == torch.float32
    assert 0 < apart(out, answer(experts[family])) < 0.1


def test_a_text_is_encoded_once(folders: dict[str, Path]) -> None:
    expert = load("it", "stable-diffusion", str(folders["stable-diffusion"]))
    calls: list[Any] = []
    network(expert).text.borrowed.network.register_forward_hook(lambda *call: calls.append(call))  # type: ignore[attr-defined]
    answer(expert)
    answer(expert)
    assert len(calls) == len(set(TEXTS))


@pytest.mark.parametrize("masked", [False, True])
def test_text_is_encoded_as_the_stock_pipeline_does(tmp_path: Path, masked: bool) -> None:
    folder = tiny.save(tmp_path, tiny.unet2d(), vae=tiny.vae(), masked=masked)
    pipeline = StableDiffusionPipeline(
        vae=AutoencoderKL.from_pretrained(folder / "vae"),
        text_encoder=CLIPTextModel.from_pretrained(folder / "text_encoder"),
        tokenizer=CLIPTokenizer.from_pretrained(folder / "tokenizer"),
        unet=UNet2DConditionModel.from_pretrained(folder / "unet"),
        scheduler=DDIMScheduler.from_pretrained(folder / "scheduler"),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    with torch.no_grad():
        stock, _ = pipeline.encode_prompt("a red circle", "cpu", 1, False)
    (found,) = network(load("it", "stable-diffusion", str(folder))).text("a red circle")
    assert torch.equal(found, stock)
    assert pipeline.text_encoder.config.use_attention_mask is masked


def test_a_mask_changes_what_is_said(tmp_path: Path) -> None:
    said = [
        network(load("it", "stable-diffusion", str(tiny.save(tmp_path / str(m), tiny.unet2d(), masked=m)))).text("a")[0]
        for m in (False, True)
    ]
    assert apart(said[0], said[1]) > 1e-3


def test_a_long_prompt_is_quoted_where_it_is_cut(tmp_path: Path) -> None:
    # One token per letter, and a mark at each end: of 12 tokens, 10 are letters.
    expert = load("it", "stable-diffusion", str(tiny.save(tmp_path, tiny.unet2d(), limit=12)))
    text = network(expert).text
    assert network(expert).text_limit == 12
    with pytest.warns(PromptWarning, match="'it' reads 12 tokens.*: 'klm, Nop. '"):
        cut = text("abcdefghij  klm, Nop. ")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        whole = text("abcdefghij")
    assert torch.equal(cut[0], whole[0])


@pytest.mark.parametrize("family", FAMILIES)
def test_nan_names_the_expert_and_its_time(folders: dict[str, Path], family: str) -> None:
    expert = load("culprit", family, str(folders[family]))
    with torch.no_grad():
        next(network(expert).module.parameters()).fill_(float("inf"))
    with pytest.raises(NetworkError, match=r"'culprit'.* time 601") as caught:
        answer(expert)
    there = pickle.loads(pickle.dumps(caught.value.at("refine", 3)))
    assert "in stage 'refine', step 3" in str(there)


def test_too_many_frames_is_an_error_that_says_what_to_do(experts: dict[str, Expert]) -> None:
    motion = experts["animatediff"]
    assert network(motion).max_frames == 32
    assert answer(motion, latent(32, 1)).shape[2] == 32
    with pytest.raises(RecipeError, match=r"'it'.* at most 32 .* not 33\. .* windowed"):
        answer(motion, latent(33, 1))
    with pytest.raises(RecipeError, match=r"at most 1 .* not 3\. .* framewise"):
        answer(experts["stable-diffusion"], latent(3, 1))


def test_latents_of_other_channels_are_an_error(experts: dict[str, Expert]) -> None:
    with pytest.raises(RecipeError, match="4 channels, not 3"):
        answer(experts["text-to-video-sd"], latent()[:, :3])


# --- loading ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_an_expert_knows_what_it_is(folders: dict[str, Path], experts: dict[str, Expert], family: str) -> None:
    expert = load("it", family, str(folders[family]), batch=3)
    found = network(expert)
    saved = load_file(folders[family] / FAMILIES[family].part / "diffusion_pytorch_model.safetensors")
    assert (expert.name, found.family, found.weights, found.batch) == ("it", family, str(folders[family]), 3)
    assert found.parameters == sum(v.numel() for k, v in saved.items() if not k.endswith("pos_embed.pe"))
    assert not any(p.requires_grad for p in found.module.parameters())
    assert not found.module.training
    assert network(experts[family]).batch == FAMILIES[family].batch


def test_schedule_and_target_come_from_the_scheduler_config(tmp_path: Path) -> None:
    eps = load("it", "stable-diffusion", str(tiny.stable_diffusion(tmp_path / "eps")))
    assert eps.target is predicts_eps
    assert eps.schedule == VariancePreserving.betas("scaled_linear", 0.00085, 0.012)
    other = {"prediction_type": "v_prediction", "beta_schedule": "linear", "rescale_betas_zero_snr": True}
    v = load("it", "stable-diffusion", str(tiny.stable_diffusion(tmp_path / "v", **other)))
    assert v.target is predicts_v
    assert v.schedule == VariancePreserving.betas("linear", 0.00085, 0.012, zero_terminal_snr=True)


def test_motion_modules_come_whole_or_as_a_folder_or_as_a_bare_file(folders: dict[str, Path], tmp_path: Path) -> None:
    base = str(folders["stable-diffusion"])
    tiny.motion_adapter().save_pretrained(tmp_path / "motion")
    bare = tiny.lightning(tmp_path / "lightning_4step.safetensors")
    whole = load("it", "animatediff", str(folders["animatediff"]))
    joined = load("it", "animatediff", base, adapter=str(tmp_path / "motion"))
    lightning = load("it", "animatediff", base, adapter=str(bare))
    assert apart(answer(joined), answer(whole)) <= 1e-6
    assert apart(answer(lightning), answer(whole)) <= 1e-6
    # Motion modules were trained on linear betas, whatever the image network was trained on.
    linear = VariancePreserving.betas("linear", 0.00085, 0.012)
    assert whole.schedule == joined.schedule == lightning.schedule == linear
    assert network(lightning).scheduler["timestep_spacing"] == "trailing"


def test_a_bare_file_tells_how_many_frames_it_knows(folders: dict[str, Path], tmp_path: Path) -> None:
    save_file(tiny.motion_adapter(longest=24).state_dict(), tmp_path / "bare.safetensors")
    base = str(folders["stable-diffusion"])
    assert network(load("it", "animatediff", base, adapter=str(tmp_path / "bare.safetensors"))).max_frames == 24


def test_of_motion_modules_a_plan_fetches_the_schedule_alone(
    folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: dict[str, Any] = {}
    monkeypatch.setattr(
        huggingface_hub, "snapshot_download", lambda repo, **options: asked.update(options) or str(tmp_path / "none")
    )
    config = scheduler_config("it", "animatediff", Location(str(folders["stable-diffusion"])), "some/motion")
    assert config["beta_schedule"] == "linear"
    patterns = {key: asked[key] for key in ("allow_patterns", "ignore_patterns")}
    there = ["config.json", "diffusion_pytorch_model.safetensors", "scheduler/scheduler_config.json"]
    assert list(huggingface_hub.utils.filter_repo_objects(there, **patterns)) == there[2:]


def test_an_adapter_with_a_scheduler_of_its_own_brings_it(folders: dict[str, Path], tmp_path: Path) -> None:
    tiny.motion_adapter().save_pretrained(tmp_path)
    shutil.copytree(folders["stable-diffusion"] / "scheduler", tmp_path / "scheduler")
    expert = load("it", "animatediff", str(folders["stable-diffusion"]), adapter=str(tmp_path))
    assert expert.schedule == VariancePreserving.betas("scaled_linear", 0.00085, 0.012)


def test_a_variant_is_another_file_of_the_same_parts(image: Path) -> None:
    with pytest.raises(WeightsError, match=r"no variant 'fp16' in unet/.*; variant: null takes what is there"):
        load("it", "stable-diffusion", str(image), variant="fp16")
    for file in [*image.glob("unet/*.safetensors"), *image.glob("text_encoder/*.safetensors")]:
        halves = {key: value.half() for key, value in load_file(file).items()}
        save_file(halves, file.with_suffix(".fp16.safetensors"), metadata={"format": "pt"})
    half, full = (load("it", "stable-diffusion", str(image), variant=variant) for variant in ("fp16", None))
    assert {p.dtype for p in network(half).module.parameters()} == {torch.float32}
    assert 0 < apart(answer(half), answer(full)) < 1e-2
    assert network(half).space == network(full).space


def test_an_old_folder_without_tokenizer_json_loads(folders: dict[str, Path], image: Path) -> None:
    saved = json.loads((image / "tokenizer" / "tokenizer.json").read_text())["model"]
    (image / "tokenizer" / "tokenizer.json").unlink()
    (image / "tokenizer" / "vocab.json").write_text(json.dumps(saved["vocab"]))
    (image / "tokenizer" / "merges.txt").write_text("#version: 0.2\n")
    new = load("it", "stable-diffusion", str(folders["stable-diffusion"]))
    assert torch.equal(answer(load("it", "stable-diffusion", str(image))), answer(new))


def test_packaged_weights_have_names(folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "files", lambda package: tmp_path)
    with pytest.raises(WeightsError, match=r"'sprites/spatial'.*ships none"):
        load("it", "stable-diffusion", "sprites/spatial")
    shutil.copytree(folders["stable-diffusion"], tmp_path / "sprites" / "weights" / "spatial")
    assert answer(load("it", "stable-diffusion", "sprites/spatial")).isfinite().all()
    with pytest.raises(WeightsError, match="did you mean 'spatial'"):
        load("it", "stable-diffusion", "sprites/spatail")


def test_weights_that_are_nowhere_say_where_to_get_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(WeightsError, match=r"nobody/nothing.*stable-diffusion-v1-5"):
        load("it", "stable-diffusion", "nobody/nothing")
    with pytest.raises(WeightsError, match=r"no such folder.*text-to-video-ms"):
        load("it", "text-to-video-sd", str(tmp_path / "absent"))


ON_THE_HUB = [
    "config.json",
    "diffusion_pytorch_model.safetensors",
    "diffusion_pytorch_model.fp16.safetensors",
    "v1-5-pruned.safetensors",
    "unet/config.json",
    "unet/diffusion_pytorch_model.bin",
    "unet/diffusion_pytorch_model.safetensors",
    "unet/diffusion_pytorch_model.fp16.safetensors",
    "text_encoder/model-00001-of-00002.safetensors",
    "text_encoder/model.fp16-00001-of-00002.safetensors",
    "tokenizer/merges.txt",
    "safety_checker/model.safetensors",
]
FETCHED = {
    (("unet", "text_encoder", "tokenizer"), None): {4, 6, 8, 10},
    (("unet", "text_encoder", "tokenizer"), "fp16"): {4, 7, 9, 10},
    (("",), None): {0, 1},
    (("", "unet"), "fp16"): {0, 2, 4, 7},
}


@pytest.mark.parametrize(("parts", "variant"), FETCHED)
def test_only_what_is_needed_is_downloaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, parts: tuple[str, ...], variant: str | None
) -> None:
    asked: dict[str, Any] = {}
    monkeypatch.setattr(
        huggingface_hub, "snapshot_download", lambda repo, **options: asked.update(options, repo=repo) or str(tmp_path)
    )
    found = checkpoint.find(Location("owner/repo", revision="abc", variant=variant), parts)
    assert (found.path, asked["repo"], asked["revision"]) == (tmp_path, "owner/repo", "abc")
    patterns = {key: asked[key] for key in ("allow_patterns", "ignore_patterns")}
    files = list(huggingface_hub.utils.filter_repo_objects(ON_THE_HUB, **patterns))
    assert files == [ON_THE_HUB[i] for i in sorted(FETCHED[parts, variant])]


def test_motion_modules_that_are_nowhere(folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    base = str(folders["stable-diffusion"])
    with pytest.raises(WeightsError, match="AnimateDiff-Lightning"):
        load("it", "animatediff", base)
    for adapter in ("nobody/nothing", "nobody/nothing/bare.safetensors", "bare.safetensors"):
        with pytest.raises(WeightsError, match=f"'{adapter}'"):
            load("it", "animatediff", base, adapter=adapter)


@pytest.mark.parametrize("part", ["unet", "text_encoder", "tokenizer", "scheduler"])
def test_a_missing_part_is_named(image: Path, part: str) -> None:
    shutil.rmtree(image / part)
    with pytest.raises(WeightsError, match=f"has no {part}/"):
        load("it", "stable-diffusion", str(image))


@pytest.mark.parametrize("part", ["unet", "text_encoder"])
def test_pickles_that_hold_more_than_tensors_are_not_opened(image: Path, part: str) -> None:
    for file in (image / part).glob("*.safetensors"):
        torch.save({**load_file(file), "more": subprocess.Popen}, file.with_suffix(".bin"))
        file.unlink()
    with pytest.raises(WeightsError, match=f"{part}/.* is a pickle that holds more than tensors.*run any code"):
        load("it", "stable-diffusion", str(image))


@pytest.mark.parametrize("part", ["unet", "text_encoder"])
def test_weights_that_lack_a_tensor_are_not_filled_with_noise(image: Path, part: str) -> None:
    (file,) = (image / part).glob("*.safetensors")
    tensors = load_file(file)
    first = sorted(tensors)[0]
    save_file({k: v for k, v in tensors.items() if k != first}, file, metadata={"format": "pt"})
    with pytest.raises(WeightsError, match=f"{part} of .* lacks 1 tensors .*{first}"):
        load("it", "stable-diffusion", str(image))


def test_layers_that_a_config_leaves_no_place_for_are_not_left_out(image: Path) -> None:
    path = image / "text_encoder" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"num_hidden_layers": 1}))
    with pytest.raises(WeightsError, match=r"text_encoder of .* holds \d+ tensors .* '.*layers\.1\..*more blocks"):
        load("it", "stable-diffusion", str(image))


def test_a_damaged_file_is_named(image: Path) -> None:
    (image / "unet" / "diffusion_pytorch_model.safetensors").write_bytes(b"half a download")
    with pytest.raises(WeightsError, match=r"unet of .* cannot be loaded"):
        load("it", "stable-diffusion", str(image))


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "family": ({"family": "stable-difusion"}, "did you mean 'stable-diffusion'"),
    "network": ({"family": "text-to-video-sd"}, "UNet2DConditionModel; its family: stable-diffusion"),
    "dtype": ({"dtype": "bfloat"}, "did you mean 'bfloat16'"),
    "device": ({"device": "gpu"}, "unknown device 'gpu'"),
    "batch": ({"batch": 0}, "at least 1, not 0"),
    "adapter": ({"adapter": "some/motion"}, "takes none"),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_does_not_fit_is_an_error_that_teaches(folders: dict[str, Path], what: str) -> None:
    asked, message = WRONG[what]
    options = {"family": "stable-diffusion", "weights": str(folders["stable-diffusion"]), **asked}
    with pytest.raises(RecipeError, match=message):
        load("it", **options)


def test_motion_modules_that_do_not_fit(folders: dict[str, Path], image: Path, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="a UNetMotionModel in family 'animatediff' takes none"):
        load("it", "animatediff", str(folders["animatediff"]), adapter="some/motion")
    save_file({"conv": torch.zeros(1)}, tmp_path / "odd.safetensors")
    with pytest.raises(WeightsError, match="holds no motion modules: none of its names"):
        load("it", "animatediff", str(image), adapter=str(tmp_path / "odd.safetensors"))


def test_an_unknown_prediction_type_is_an_error(image: Path) -> None:
    file = image / "scheduler" / "scheduler_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"prediction_type": "v-prediction"}))
    with pytest.raises(RecipeError, match="did you mean 'v_prediction'"):
        load("it", "stable-diffusion", str(image))


def test_importing_experts_does_not_import_diffusers() -> None:
    code = "import sys, dovetail.experts; assert not {'diffusers', 'transformers'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_scheduler_config_is_known_without_loading(
    folders: dict[str, Path], experts: dict[str, Expert], tmp_path: Path
) -> None:
    for family, folder in folders.items():
        assert scheduler_config("it", family, Location(str(folder))) == network(experts[family]).scheduler
    bare, base = tiny.lightning(tmp_path / "bare.safetensors"), str(folders["stable-diffusion"])
    expert = load("it", "animatediff", base, adapter=str(bare))
    assert scheduler_config("it", "animatediff", Location(base), str(bare)) == network(expert).scheduler


# --- latents and frames -----------------------------------------------------------------------------------------------


def test_decoding_does_not_depend_on_the_chunk(folders: dict[str, Path]) -> None:
    folder, x = folders["stable-diffusion"], latent(7, 2)
    codec = load_codec(str(folder))
    vae = AutoencoderKL.from_pretrained(folder / "vae")
    with torch.no_grad():
        stock = torch.stack([vae.decode(x[:, :, f] / 0.18215)[0].clamp(-1, 1) for f in range(7)], 1)
    assert codec.decode(x).shape == (2, 7, 3, 16, 16)
    for chunk in (1, 2, 5, 100):
        pieces = list(replace(codec, chunk=chunk).stream(x))
        assert max(piece.shape[0] * piece.shape[1] for piece in pieces) <= max(chunk, 2)
        assert apart(torch.cat(pieces, 1), stock) <= 1e-5


def test_encoding_is_the_posterior_mean_scaled(folders: dict[str, Path]) -> None:
    frames = torch.rand(2, 5, 3, 16, 16, generator=torch.Generator().manual_seed(1)) * 2 - 1
    folder = folders["stable-diffusion"]
    vae = AutoencoderKL.from_pretrained(folder / "vae")
    with torch.no_grad():
        stock = torch.stack([vae.encode(frames[:, f]).latent_dist.mean * 0.18215 for f in range(5)], 2)
    for chunk in (1, 3, 100):
        assert apart(load_codec(str(folder), chunk=chunk).encode(frames), stock) <= 1e-5


def test_scale_and_shift_of_the_config_are_used(tmp_path: Path) -> None:
    plain, shifted = tiny.vae(), tiny.vae()
    shifted.register_to_config(scaling_factor=2.0, shift_factor=0.5)
    plain.register_to_config(scaling_factor=1.0)
    plain.save_pretrained(tmp_path / "plain")
    shifted.save_pretrained(tmp_path / "shifted" / "vae")
    one, two = load_codec(str(tmp_path / "plain"), subfolder=""), load_codec(str(tmp_path / "shifted"))
    frames = torch.zeros(1, 2, 3, 16, 16)
    assert apart(two.encode(frames), (one.encode(frames) - 0.5) * 2) <= 1e-6
    assert apart(two.decode((latent() - 0.5) * 2), one.decode(latent())) <= 1e-5
    assert load_codec(str(tmp_path / "plain")).space == one.space != two.space


def test_a_codec_in_half_precision(folders: dict[str, Path]) -> None:
    folder = str(folders["animatediff"])
    frames = load_codec(folder, dtype="bfloat16").decode(latent())
    assert frames.dtype == torch.float32
    assert 0 < apart(frames, load_codec(folder).decode(latent())) < 0.1


CODEC_ERRORS: dict[str, tuple[Callable[[str], Any], type[Exception], str]] = {
    "chunk": (lambda folder: load_codec(folder, chunk=0), RecipeError, "at least 1, not 0"),
    "channels": (lambda folder: load_codec(folder).decode(latent()[:, :3]), RecipeError, "4 channels, not 3"),
    "size": (lambda folder: load_codec(folder).encode(torch.zeros(1, 1, 3, 16, 15)), RecipeError, "multiples of 2.*15"),
    "part": (lambda folder: load_codec(folder, subfolder="vea"), WeightsError, "has no vea/config.json"),
    "network": (lambda folder: load_codec(folder, subfolder="unet"), RecipeError, "Known: AutoencoderKL"),
}


@pytest.mark.parametrize("what", CODEC_ERRORS)
def test_what_a_codec_refuses(folders: dict[str, Path], what: str) -> None:
    attempt, kind, message = CODEC_ERRORS[what]
    with pytest.raises(kind, match=message):
        attempt(str(folders["stable-diffusion"]))


# --- latent spaces ----------------------------------------------------------------------------------------------------


def test_experts_of_one_autoencoder_share_a_space(folders: dict[str, Path], experts: dict[str, Expert]) -> None:
    spaces = [network(expert).space for expert in experts.values()]
    assert spaces[0] == spaces[1] == spaces[2] == load_codec(str(folders["animatediff"])).space
    assert (spaces[0].channels, spaces[0].factor, spaces[0].scaling) == (4, 2, 0.18215)
    same_space(spaces[0], spaces[1])


def test_a_finetuned_decoder_and_half_precision_keep_the_space(tmp_path: Path) -> None:
    one, two, other = tiny.vae(), tiny.vae(), tiny.vae(seed=6)
    two.decoder.load_state_dict(other.decoder.state_dict())
    one.save_pretrained(tmp_path / "one")
    two.half().save_pretrained(tmp_path / "two")
    a, b = (load_codec(str(tmp_path / name), subfolder="").space for name in ("one", "two"))
    same_space(a, b)
    assert a.encoder is not None


def test_another_encoder_or_scaling_is_another_space(tmp_path: Path) -> None:
    for name, vae in {"a": tiny.vae(), "b": tiny.vae(seed=6), "c": tiny.vae(scaling=0.5)}.items():
        tiny.save(tmp_path / name, tiny.unet2d(), vae=vae)
    a, b, c = (network(load(n, "stable-diffusion", str(tmp_path / n))).space for n in "abc")
    with pytest.raises(SpaceError, match="spatial and temporal live in different latent spaces: encoder"):
        same_space(a, b, ("spatial", "temporal"))
    with pytest.raises(SpaceError, match=r"different latent spaces: scaling 0\.18215 against 0\.5\."):
        same_space(a, c)


def test_what_is_not_known_of_a_space_is_taken_to_agree(tmp_path: Path, image: Path) -> None:
    bare = network(load("it", "stable-diffusion", str(tiny.save(tmp_path / "bare", tiny.unet2d())))).space
    known = network(load("it", "stable-diffusion", str(image))).space
    assert bare == LatentSpace(channels=4)
    same_space(bare, known)
    (image / "vae" / "diffusion_pytorch_model.safetensors").unlink()
    assert network(load("it", "stable-diffusion", str(image))).space == replace(known, encoder=None)
    with pytest.raises(SpaceError, match="channels 4 against 16"):
        same_space(bare, LatentSpace(channels=16))
