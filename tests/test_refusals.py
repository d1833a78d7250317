"""What is wrong with weights, and what is said of it: which file, and what to do. Tiny checkpoints, damaged here."""

import json
import shutil
import struct
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import numpy as np
import originals
import pytest
import tiny
import torch
from safetensors.torch import load_file, save_file

import dovetail
from dovetail.core.denoiser import Condition, timeline
from dovetail.errors import DecodeError, EncodeError, NetworkError, RecipeError, RunWarning, SpaceError, WeightsError
from dovetail.experts import Tuning, load, load_codec, loading, same_space
from dovetail.experts.checkpoint import Location, find
from dovetail.experts.outline import outline
from dovetail.experts.schedulers import ladder_of
from dovetail.experts.soundness import damage
from dovetail.run.decoding import frames_of


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Checkpoints; tests do not change them."""
    makers = {name: tiny.MAKERS[name] for name in ("stable-diffusion", "wan", "ltx")}
    return {name: make(tmp_path_factory.mktemp(name)) for name, make in makers.items()}


@pytest.fixture
def image(whole: dict[str, Path], tmp_path: Path) -> Path:
    """A copy of the image checkpoint, to be damaged."""
    return Path(shutil.copytree(whole["stable-diffusion"], tmp_path / "image"))


def refused(folder: Path, family: str = "stable-diffusion", **options: Any) -> str:
    with pytest.raises((WeightsError, RecipeError)) as caught:
        load("it", family, str(folder), **options)
    return str(caught.value)


# --- files that are not what they were --------------------------------------------------------------------------------


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-100])


def longer(file: Path) -> None:
    file.write_bytes(file.read_bytes() + b"0" * 7)


def header(content: bytes) -> Callable[[Path], None]:
    return lambda file: file.write_bytes(struct.pack("<Q", len(content)) + content) and None


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n"
DAMAGED: dict[str, tuple[Callable[[Path], Any], str]] = {
    "truncated": (cut, r"it has \d+ bytes, and by its header \d+; it is cut short"),
    "longer": (longer, r"it has \d+ bytes, and by its header \d+\."),
    "empty": (lambda file: file.write_bytes(b""), "it is empty"),
    "half a header": (lambda file: file.write_bytes(file.read_bytes()[:200]), "its header is broken or cut off"),
    "noise": (lambda file: file.write_bytes(b"\xff" * 500), "its header is broken or cut off"),
    "no JSON": (header(b"{half of it"), "its header is no safetensors header"),
    "other JSON": (header(b'{"a": [1]}'), "its header is no safetensors header"),
    "pointer": (lambda file: file.write_bytes(POINTER), "it is a pointer of Git LFS.*`git lfs pull`"),
}


@pytest.mark.parametrize("how", DAMAGED)
@pytest.mark.parametrize("part", ["unet", "text_encoder", "vae"])
def test_a_damaged_file_is_named_with_what_is_wrong_and_a_remedy(image: Path, part: str, how: str) -> None:
    (file,) = (image / part).glob("*.safetensors")
    harm, said = DAMAGED[how]
    harm(file)
    with pytest.raises(
        WeightsError, match=f"{part} of '{image}' cannot be loaded: {file} is damaged: {said}"
    ) as caught:
        load("it", "stable-diffusion", str(image))
    assert "Copy it again from where it came" in str(caught.value)


def test_a_damaged_autoencoder_is_named_by_the_codec_too(image: Path) -> None:
    (file,) = (image / "vae").glob("*.safetensors")
    cut(file)
    with pytest.raises(WeightsError, match=f"{file} is damaged"):
        load_codec(str(image))


def test_damaged_motion_modules_are_named(image: Path, tmp_path: Path) -> None:
    bare = tiny.lightning(tmp_path / "bare.safetensors")
    cut(bare)
    assert f"{bare} is damaged" in refused(image, "animatediff", adapter=str(bare))


def test_the_remedy_for_a_model_of_the_hub_is_to_pull_it(image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cut(image / "unet" / "diffusion_pytorch_model.safetensors")
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda repo, **options: str(image))
    with pytest.raises(WeightsError, match=r"Delete it; `dovetail models pull owner/repo` brings it again"):
        load("it", "stable-diffusion", "owner/repo")


def test_whole_files_are_not_called_damaged(whole: dict[str, Path]) -> None:
    files = [file for folder in whole.values() for file in folder.rglob("*.safetensors")]
    assert len(files) >= 9
    assert {damage(file) for file in files} == {None}


def test_a_shard_that_is_not_there_is_named(image: Path) -> None:
    (file,) = (image / "unet").glob("*.safetensors")
    tensors = load_file(file)
    file.unlink()
    names = sorted(tensors)
    halves = {"00001": names[: len(names) // 2], "00002": names[len(names) // 2 :]}
    places = {k: f"diffusion_pytorch_model-{half}-of-00002.safetensors" for half, ks in halves.items() for k in ks}
    index = image / "unet" / "diffusion_pytorch_model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": places}))
    for half, keys in halves.items():
        part = {key: tensors[key] for key in keys}
        save_file(part, image / "unet" / f"diffusion_pytorch_model-{half}-of-00002.safetensors", {"format": "pt"})
    load("it", "stable-diffusion", str(image))
    gone = image / "unet" / "diffusion_pytorch_model-00002-of-00002.safetensors"
    gone.unlink()
    assert f"1 of its 2 files are not there, the first is {gone}" in refused(image)


@pytest.mark.parametrize("file", ["unet/config.json", "scheduler/scheduler_config.json"])
def test_a_damaged_config_is_named(image: Path, file: str) -> None:
    (image / file).write_text('{"_class_name": ')
    assert f"{image / file} is damaged: it is no JSON" in refused(image)


@pytest.mark.parametrize("file", ["unet/config.json", "scheduler/scheduler_config.json"])
@pytest.mark.parametrize("content", ["[]", "null", '"a"'])
def test_a_config_that_names_no_values_is_damaged_too(image: Path, file: str, content: str) -> None:
    (image / file).write_text(content)
    assert f"{image / file} is damaged: it names no values, but is " in (said := refused(image))
    assert "Copy it again from where it came" in said


ODD_VALUES = {
    "unet/config.json": {"attention_head_dim": None, "down_block_types": ["x"]},
    "vae/config.json": {"block_out_channels": None},
    "text_encoder/config.json": {"hidden_act": "x", "hidden_size": -1, "dtype": "x"},
    "scheduler/scheduler_config.json": {"beta_schedule": "x", "trained_betas": 1, "prediction_type": None},
}
"""Of each config, values that no library takes, and all but one of them answer with an error of their own."""


@pytest.mark.parametrize(
    ("file", "key", "value"), [(file, key, value) for file, odd in ODD_VALUES.items() for key, value in odd.items()]
)
def test_a_config_of_odd_values_is_named_with_the_remedy(image: Path, file: str, key: str, value: Any) -> None:
    _changed(image / file, {key: value})
    said = refused(image)
    assert f"{image / file}: its values make no " in said
    assert "If it was changed or is damaged: copy it again from where it came" in said


def test_a_scheduler_without_its_betas_is_named(image: Path) -> None:
    """As one of another program is written; on the hub, what brings it again is said."""
    _changed(image / "scheduler" / "scheduler_config.json", {"beta_schedule": ...})
    assert "it has neither beta_schedule nor trained_betas" in (said := refused(image))
    assert said.startswith(str(image / "scheduler" / "scheduler_config.json"))


@pytest.mark.parametrize("value", [{"act_fn": None}, {"norm_num_groups": 5}, {"block_out_channels": ...}], ids=str)
def test_a_codec_of_odd_values_is_named(image: Path, tmp_path: Path, value: dict[str, Any]) -> None:
    _changed(image / "vae" / "config.json", value)
    with pytest.raises(WeightsError, match=r"vae/config.json: its values make no AutoencoderKL"):
        load_codec(str(image))
    tiny.wan_vae().save_pretrained(tmp_path / "wan")
    _changed(tmp_path / "wan" / "config.json", {"latents_mean": None})
    with pytest.raises(WeightsError, match=r"wan/config.json: its values make no autoencoder \(RuntimeError"):
        load_codec(str(tmp_path / "wan"), subfolder="")


@pytest.mark.parametrize(
    ("family", "file", "key"), [("ltx", "transformer", "patch_size"), ("wan", "text_encoder", "architectures")]
)
def test_what_only_dovetail_reads_of_a_config_is_named(
    whole: dict[str, Path], tmp_path: Path, family: str, file: str, key: str
) -> None:
    place = Path(shutil.copytree(whole[family], tmp_path / "it"))
    _changed(place / file / "config.json", {key: -1 if key == "architectures" else "x"})
    assert f"{place / file / 'config.json'}: its values make no " in refused(place, family)


def test_a_plan_names_odd_values_too(whole: dict[str, Path], tmp_path: Path) -> None:
    """Where networks are counted without their weights, and where a ladder is a scheduler's own."""
    place = Path(shutil.copytree(whole["wan"], tmp_path / "it"))
    _changed(place / "transformer" / "config.json", {"num_layers": "x"})
    with pytest.raises(WeightsError, match=r"transformer/config.json: its values make no WanTransformer3DModel"):
        outline("it", "wan", Location(str(place)))
    _changed(place / "text_encoder" / "config.json", {"architectures": -1})
    with pytest.raises(WeightsError, match=r"text_encoder/config.json: its values make no text model"):
        outline("it", "wan", Location(str(place)))
    config = json.loads((place / "scheduler" / "scheduler_config.json").read_text())
    with pytest.raises(WeightsError, match=r"scheduler_config.json: its values make no UniPC.* take the one that came"):
        ladder_of({**config, "beta_end": "x"}, 4)


ODD: list[tuple[str, str, dict[str, Any], str]] = [
    ("wan", "transformer/config.json", {"eps": "x"}, "its values make no WanTransformer3DModel .*TypeError"),
    ("wan", "transformer/config.json", {"text_dim": 17}, "its values make no .* for words of 16 numbers"),
    ("wan", "transformer/config.json", {"patch_size": [1, 2, 0]}, "its values make no WanTransformer3DModel"),
    ("wan", "text_encoder/config.json", {"d_model": ...}, "its values make no UMT5EncoderModel .*hidden_size"),
    ("wan", "text_encoder/config.json", {"dense_act_fn": "x"}, "its values make no UMT5EncoderModel .*'x'"),
    ("wan", "text_encoder/config.json", {"relative_attention_num_buckets": 0}, "its values make no UMT5EncoderModel"),
    ("wan", "vae/config.json", {"base_dim": 0}, "its values make no AutoencoderKLWan"),
    ("wan", "vae/config.json", {"dim_mult": [1, 1, 1, 1, 1]}, "its values make no AutoencoderKLWan .IndexError"),
    ("wan", "vae/config.json", {"latents_mean": [0.3]}, "1 means and 4 deviations, where its latents have 4 channels"),
    ("wan", "vae/config.json", {"scale_factor_spatial": "x"}, "factor of its latents: 'x', which is no whole number"),
    (
        "wan",
        "vae/config.json",
        {"scale_factor_temporal": -1},
        "compression of its latents: -1, which is no whole number",
    ),
    ("wan", "scheduler/scheduler_config.json", {"flow_shift": None}, "its values make no UniPCMultistepScheduler"),
    ("wan", "scheduler/scheduler_config.json", {"num_train_timesteps": 0}, "its values make no UniPC.*ZeroDivision"),
    ("ltx", "transformer/config.json", {"norm_eps": "x"}, "its values make no LTXVideoTransformer3DModel"),
    ("ltx", "vae/config.json", {"decoder_inject_noise": [3]}, "its values make no AutoencoderKLLTXVideo"),
    (
        "ltx",
        "scheduler/scheduler_config.json",
        {"base_shift": "x"},
        "its values make no FlowMatchEulerDiscreteScheduler",
    ),
    ("stable-diffusion", "unet/config.json", {"norm_eps": "x"}, "its values make no UNet2DConditionModel"),
    ("stable-diffusion", "text_encoder/config.json", {"hidden_size": 9}, "its values make no CLIPTextModel"),
    ("stable-diffusion", "vae/config.json", {"norm_num_groups": 5}, "its values make no AutoencoderKL"),
    ("stable-diffusion", "vae/config.json", {"scaling_factor": "x"}, "its values make no autoencoder .*'x'"),
]
"""Of each family, values that only tell once a network is built, reads, looks or decodes, or a schedule is walked."""


@pytest.mark.parametrize(("family", "file", "odd", "says"), ODD, ids=lambda it: str(it) if isinstance(it, dict) else "")
def test_plans_and_runs_name_odd_values_before_weights_are_loaded(
    whole: dict[str, Path], tmp_path: Path, family: str, file: str, odd: dict[str, Any], says: str
) -> None:
    place = Path(shutil.copytree(whole[family], tmp_path / "it"))
    _changed(place / file, odd)
    for weights in place.glob("*/*.safetensors"):
        weights.unlink()
    with pytest.raises(WeightsError, match=says) as caught:
        dovetail.plan(_recipe(family, place))
    assert file in str(caught.value)


@pytest.mark.parametrize("family", ["animatediff", "lavie"])
def test_an_image_network_of_odd_values_is_named_before_it_is_grown(image: Path, family: str) -> None:
    _changed(image / "unet" / "config.json", {"down_block_types": None})
    with pytest.raises(WeightsError, match=r"unet/config.json: its values make no network .TypeError"):
        outline("it", family, Location(str(image)), adapter="some/motion")


@pytest.mark.parametrize(
    ("file", "odd"),
    [
        ("transformer", {"eps": None}),
        ("text_encoder", {"relative_attention_max_distance": 0}),
        ("vae", {"patch_size": "x"}),
    ],
    ids=str,
)
def test_a_run_names_values_that_load_and_do_not_run(
    whole: dict[str, Path], tmp_path: Path, file: str, odd: dict[str, Any]
) -> None:
    place = Path(shutil.copytree(whole["wan"], tmp_path / "it"))
    _changed(place / file / "config.json", odd)
    with pytest.raises(WeightsError, match=rf"{file}/config.json: its values make no "):
        dovetail.generate("a", recipe=_recipe("wan", place))


def test_a_schedule_that_needs_what_is_not_installed_says_what(
    whole: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("diffusers.schedulers.scheduling_unipc_multistep.is_scipy_available", lambda: False)
    place = Path(shutil.copytree(whole["wan"], tmp_path / "it"))
    _changed(place / "scheduler" / "scheduler_config.json", {"use_beta_sigmas": True})
    with pytest.raises(RecipeError, match=r"ladder: this UniPCMultistepScheduler asks for more than .* scipy"):
        dovetail.plan(_recipe("wan", place))


def _recipe(family: str, place: Path) -> Path:
    """A recipe of one expert, beside its weights."""
    frames, side = {"wan": (5, 32), "ltx": (9, 64), "stable-diffusion": (1, 16)}[family]
    told = {
        "about": "",
        "prompt": "a",
        "video": {"frames": frames, "seed": 0, "height": side, "width": side, "fps": 8.0},
        "experts": {"it": {"family": family, "weights": str(place)}},
        "codec": {"weights": str(place)},
        "chain": [{"stage": "video", "ladder": {"own": {"of": "it", "steps": 2}}, "denoise": "it"}],
    }
    (place / "recipe.yaml").write_text(json.dumps(told))
    return place / "recipe.yaml"


def test_a_base_of_odd_values_is_named_beside_one_file(image: Path, tmp_path: Path) -> None:
    file = originals.written(tmp_path / "vae.safetensors", originals.vae(tiny.vae()))
    _changed(image / "vae" / "config.json", {"act_fn": None})
    with pytest.raises(WeightsError, match=r"vae/config.json: its values make no AutoencoderKL"):
        load_codec(str(file), base=str(image))


def _changed(file: Path, changes: dict[str, Any]) -> None:
    """Values of a config put otherwise; ... takes one out."""
    told = {**json.loads(file.read_text()), **changes}
    file.write_text(json.dumps({key: value for key, value in told.items() if value is not ...}))


# --- folders that are something else ----------------------------------------------------------------------------------


def test_a_folder_that_is_no_model_says_what_a_model_has(tmp_path: Path) -> None:
    (tmp_path / "holiday.png").write_bytes(b"")
    said = refused(tmp_path)
    assert f"'{tmp_path}' has no unet/config.json" in said
    assert "no model in diffusers' layout, which has a folder for each part" in said
    assert "there is holiday.png. Copy it again from where it came" in said
    shutil.rmtree(tmp_path)
    tmp_path.mkdir()
    assert "there is nothing" in refused(tmp_path)


def test_a_missing_folder_says_which_there_are(image: Path) -> None:
    shutil.rmtree(image / "tokenizer")
    said = refused(image)
    assert f"has no tokenizer/ ({image / 'tokenizer'}); it has text_encoder/, unet/, vae/. Copy it again" in said


def test_what_a_model_of_the_hub_lacks_is_pulled_and_nothing_deleted(
    image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.rmtree(image / "scheduler")
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda repo, **options: str(image))
    with pytest.raises(WeightsError, match=r"it has .*vae/\. `dovetail models pull owner/repo` brings it again"):
        load("it", "stable-diffusion", "owner/repo")


def test_a_folder_of_another_family_names_its_own(whole: dict[str, Path]) -> None:
    for asked, there, kind in (("stable-diffusion", "wan", "Wan"), ("wan", "ltx", "LTXVideo"), ("ltx", "wan", "Wan")):
        said = refused(whole[there], asked)
        assert f"is a {kind}Transformer3DModel; its family: {there}" in said
        assert str(whole[there]) in said


def test_motion_modules_in_a_pickle_are_opened_if_it_holds_tensors_alone(image: Path, tmp_path: Path) -> None:
    tiny.motion_adapter().save_pretrained(tmp_path / "motion", safe_serialization=False)
    load("it", "animatediff", str(image), adapter=str(tmp_path / "motion"))
    file = tmp_path / "motion" / "diffusion_pytorch_model.bin"
    torch.save({"odd": Path("a")}, file)
    said = refused(image, "animatediff", adapter=str(tmp_path / "motion"))
    assert f"'{file}' is a pickle that holds more than tensors (it asks for pathlib" in said
    assert "opening it could run any code, so dovetail does not" in said


def test_code_that_comes_with_weights_is_not_run(image: Path, tmp_path: Path) -> None:
    code = f"from pathlib import Path\nPath({str(tmp_path / 'ran')!r}).touch()\n"
    for part, file, name in (
        ("unet", "config.json", "AutoModel"),
        ("text_encoder", "config.json", "AutoModel"),
        ("tokenizer", "tokenizer_config.json", "AutoTokenizer"),
    ):
        (image / part / "mine.py").write_text(code)
        config = json.loads((image / part / file).read_text())
        (image / part / file).write_text(json.dumps({**config, "auto_map": {name: "mine.Mine"}}))
    load("it", "stable-diffusion", str(image))
    assert not (tmp_path / "ran").exists()


# --- downloads --------------------------------------------------------------------------------------------------------


def test_a_disk_that_fills_while_loading_says_where_and_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(repo: str, **options: Any) -> str:
        raise RuntimeError("IO Error: No space left on device (os error 28)")  # As hf_xet does.

    def quota(repo: str, **options: Any) -> str:
        raise OSError(122, "Disk quota exceeded")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", quota)
    with pytest.raises(
        WeightsError, match=r"the disk of the cache \(.*\) is full: 'owner/repo'.*HF_HUB_CACHE.*goes on"
    ):
        find(Location("owner/repo"), ["unet"])
    monkeypatch.setattr(huggingface_hub, "snapshot_download", full)
    with pytest.raises(WeightsError, match="is full"):
        find(Location("owner/repo"), ["unet"])


def test_a_download_that_breaks_off_in_the_hubs_own_way_says_how_to_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(repo: str, **options: Any) -> str:
        raise RuntimeError("Data processing error: CAS service error")  # As hf_xet does.

    monkeypatch.setattr(huggingface_hub, "snapshot_download", broken)
    with pytest.raises(WeightsError, match=r"RuntimeError: Data processing.*`dovetail models pull owner/repo` brings"):
        find(Location("owner/repo"), ["unet"])


def test_what_is_no_refusal_of_the_hub_is_not_called_one(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(repo: str, **options: Any) -> str:
        raise AttributeError("a mistake of ours")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", broken)
    with pytest.raises(AttributeError, match="a mistake of ours"):
        find(Location("owner/repo"), ["unet"])


# --- parts that do not belong together --------------------------------------------------------------------------------


def test_an_autoencoder_of_another_generation_is_another_space(whole: dict[str, Path], tmp_path: Path) -> None:
    """As LTX-Video 0.9.1 beside 0.9.5: one shape of latents, other weights and statistics."""
    older = Path(shutil.copytree(whole["ltx"], tmp_path / "older"))
    shutil.rmtree(older / "vae")
    vae = tiny.ltx_vae()
    with torch.no_grad():
        next(vae.encoder.parameters()).add_(1)
    vae.latents_mean.add_(1)
    vae.save_pretrained(older / "vae")
    a, b = (load("it", "ltx", str(folder)).network.space for folder in (whole["ltx"], older))  # type: ignore[attr-defined]
    with pytest.raises(
        SpaceError,
        match=r"encoder weights are \d+% apart; means and deviations .*Join experts that were trained on one",
    ):
        same_space(a, b, ("expert 'large'", "expert 'small'"))


def test_weights_of_another_generation_than_their_config_are_told(whole: dict[str, Path], tmp_path: Path) -> None:
    """As a config of 0.9.5 beside weights of 0.9.1: the file is whole, and does not fit."""
    mixed = Path(shutil.copytree(whole["ltx"], tmp_path / "mixed"))
    config = json.loads((mixed / "vae" / "config.json").read_text())
    config["decoder_block_out_channels"] = [16, 16, 16, 16]
    (mixed / "vae" / "config.json").write_text(json.dumps(config))
    with pytest.raises(
        WeightsError, match=r"vae of '.*mixed' cannot be loaded as AutoencoderKLLTXVideo: .*generations: take"
    ):
        load_codec(str(mixed))


@pytest.mark.parametrize("family", ["wan", "ltx"])
def test_a_text_model_with_lost_embeddings_is_refused(
    whole: dict[str, Path], family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What releases of transformers did that did not tie them: the file has one name, and the other stays at zero."""
    load("it", family, str(whole[family]))
    honest = loading.model

    def untied(kind: Any, checkpoint: Any, part: str, dtype: torch.dtype) -> Any:
        found = honest(kind, checkpoint, part, dtype)
        if part == "text_encoder":
            found.encoder.embed_tokens.weight = torch.nn.Parameter(torch.zeros_like(found.shared.weight))
        return found

    monkeypatch.setattr(loading, "model", untied)
    said = refused(whole[family], family)
    assert (
        f"text_encoder of '{whole[family]}' ({whole[family] / 'text_encoder'}) has embeddings that are not tied" in said
    )
    assert "take another release" in said


# --- numbers that are none --------------------------------------------------------------------------------------------


def test_nan_of_a_network_names_it_and_the_remedies(whole: dict[str, Path]) -> None:
    expert = load("spatial", "stable-diffusion", str(whole["stable-diffusion"]), dtype="bfloat16")
    with torch.no_grad():
        next(expert.network.module.parameters()).mul_(1e38)  # type: ignore[attr-defined]
    says = rf"'spatial' \({whole['stable-diffusion']}\) answered with NaN.*half-precision overflow: try dtype float32"
    with pytest.raises(NetworkError, match=says) as caught:
        expert.network(torch.randn(1, 4, 1, 8, 8), 601.0, [Condition("a")], timeline(1))
    assert f"({whole['stable-diffusion']})" in str(caught.value.at("video", 2))
    assert "'it' answered" in str(NetworkError("it", 601.0)), "whose weights are not known"


def overflowing(folder: Path, dtype: str, tuning: Tuning | None = None) -> Any:
    """A codec whose decoder computes what half precision cannot hold."""
    codec = load_codec(str(folder), dtype=dtype, tuning=tuning)
    first = codec.module.decoder.conv_in
    first.register_forward_hook(lambda module, inputs, out: (out * 1e6) / 1e6)
    return codec


def test_frames_that_overflow_in_half_precision_are_decoded_again(image: Path) -> None:
    latent = torch.randn(1, 4, 3, 8, 8, generator=torch.Generator().manual_seed(2))
    half, single = overflowing(image, "float16"), overflowing(image, "float32")
    assert not half.decode(latent).isfinite().all()
    with pytest.warns(
        RunWarning, match=rf"'{image}' decoded to black or to no numbers in float16.*codec\.dtype=float32"
    ):
        frames = frames_of(half, latent, None)
    assert abs(frames.astype(int) - frames_of(single, latent, None)).max() <= 1
    assert {part.dtype for part in half.module.parameters()} == {torch.float16}, "as it was"


def test_a_calibration_compares_frames_that_are_numbers(image: Path) -> None:
    from dovetail.calibrate.running import _Work
    from dovetail.run import Cast

    nothing: Any = None
    work = _Work(nothing, Cast({}, overflowing(image, "float16")), nothing, "", image)
    with pytest.warns(RunWarning, match="done again in float32"):
        frames = work.decode(torch.randn(1, 4, 3, 8, 8))
    assert frames.shape == (3, 3, 16, 16)
    assert frames.isfinite().all()


def test_weights_in_8_bits_are_widened_to_single_precision_where_half_overflows(image: Path) -> None:
    latent = torch.randn(1, 4, 3, 8, 8, generator=torch.Generator().manual_seed(2))
    store = Tuning(store="float8")
    half, single = overflowing(image, "float16", store), overflowing(image, "float32", store)
    kept = {name: (part.dtype, part.clone()) for name, part in half.module.named_parameters()}
    with pytest.warns(RunWarning, match=r"decoded to black or to no numbers in float16.*codec\.dtype=float32"):
        frames = frames_of(half, latent, None)
    assert abs(frames.astype(int) - frames_of(single, latent, None)).max() <= 4, "norms were rounded to half"
    assert frames.max() > 0
    for name, part in half.module.named_parameters():
        assert part.dtype == kept[name][0], "as it was"
        assert torch.equal(part.float(), kept[name][1].float())
    with pytest.warns(RunWarning, match="in float16"):
        assert np.array_equal(frames_of(half, latent, None), frames), "and once more"


class Quantised(torch.Tensor):
    """Weights of a kind of their own, as packages that quantise have them."""


@pytest.mark.parametrize("kept", ["quantised", "in 8 bits", "elsewhere", "streamed"])
def test_weights_that_cannot_be_widened_are_an_error_and_no_black_video(image: Path, kept: str) -> None:
    codec = overflowing(image, "float16")
    unused = codec.module.encoder.conv_in
    if kept == "quantised":
        unused.weight = torch.nn.Parameter(unused.weight.data.as_subclass(Quantised), requires_grad=False)
    elif kept == "in 8 bits":
        unused.weight = torch.nn.Parameter(unused.weight.data.to(torch.int8), requires_grad=False)
    elif kept == "elsewhere":
        unused.to("meta")
    else:
        from diffusers.hooks import HookRegistry, ModelHook

        hook: Any = ModelHook()
        hook.group = SimpleNamespace(stream="a stream")
        HookRegistry.check_if_exists_or_initialize(unused).register_hook(hook, "group_offloading")
    with pytest.raises(DecodeError, match=r"in float16.*say codec\.dtype=float32 and codec\.store=null"):
        frames_of(codec, torch.randn(1, 4, 3, 8, 8), None)


def test_what_is_black_in_single_precision_stays_black_without_a_word(image: Path) -> None:
    codec = load_codec(str(image), dtype="float16")
    with torch.no_grad():
        codec.module.decoder.conv_out.bias.fill_(-1000)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert frames_of(codec, torch.zeros(1, 4, 2, 8, 8), None).max() == 0


def test_frames_that_are_no_numbers_in_single_precision_name_the_codec(image: Path) -> None:
    for dtype in ("float32", "float16"):
        codec = load_codec(str(image), dtype=dtype)
        codec = replace(codec, weights="owner/repo")
        with torch.no_grad():
            codec.module.decoder.conv_out.bias.fill_(float("nan"))
        with pytest.raises(
            DecodeError, match=r"codec 'owner/repo'.*`dovetail models verify owner/repo`.*`dovetail decode`"
        ):
            frames_of(codec, torch.zeros(1, 4, 2, 8, 8), None)


@pytest.mark.parametrize(
    ("dtype", "says"),
    [
        ("float32", r"codec 'owner/repo'.*in float32, so its weights are not.*`dovetail models verify owner/repo`"),
        ("float16", r"codec 'owner/repo'.*in float16, so its encoder overflows there; say codec\.dtype: float32"),
    ],
)
def test_latents_that_are_no_numbers_name_the_codec_and_no_expert(image: Path, dtype: str, says: str) -> None:
    codec = replace(load_codec(str(image), dtype=dtype), weights="owner/repo")
    with torch.no_grad():
        codec.module.encoder.conv_out.bias.fill_(float("inf"))
    with pytest.raises(EncodeError, match=says):
        codec.encode(torch.zeros(1, 2, 3, 16, 16))
