"""Where features meet that were made apart: one file, LoRA, bridges, budgets, models, options of networks."""

from pathlib import Path
from typing import Any

import originals
import pytest
import tiny
import torch
from safetensors.torch import save_file
from test_bridges import wan_then_sd

from dovetail import recipe as recipes
from dovetail import run
from dovetail.errors import DecodeError, RecipeError, RunWarning, WeightsError
from dovetail.experts import Lora, Tuning, load
from dovetail.experts.hub import Want
from dovetail.experts.loras import USUAL
from dovetail.run.budget import foreseen
from dovetail.run.sizes import outlines, sizes
from dovetail.run.wants import wants


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("together")
    return {family: tiny.MAKERS[family](root / family) for family in ("stable-diffusion", "wan")}


@pytest.fixture(scope="module")
def lora(folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Lora:
    module = load("it", "stable-diffusion", str(folders["stable-diffusion"])).network.module  # type: ignore[attr-defined]
    name, layer = next((n, m) for n, m in module.named_modules() if n.endswith("attn1.to_q"))
    width = layer.weight.shape
    pair = {
        f"unet.{name}.lora.down.weight": torch.ones(2, width[1]) / 4,
        f"unet.{name}.lora.up.weight": torch.ones(width[0], 2) / 4,
    }
    file = tmp_path_factory.mktemp("lora") / "it.safetensors"
    save_file(pair, file)
    return Lora(str(file))


def test_lora_weights_are_added_before_weights_are_kept_in_8_bits(folders: dict[str, Path], lora: Lora) -> None:
    folder, small = str(folders["stable-diffusion"]), Tuning(store="float8")
    asked: list[dict[str, Any]] = [{}, {"loras": [lora]}, {"loras": [lora], "tuning": small}]
    plain, changed, kept = (load("it", "stable-diffusion", folder, **options).network.module for options in asked)  # type: ignore[attr-defined]
    was, now, stored = (dict(module.named_parameters()) for module in (plain, changed, kept))
    (name,) = [name for name, weight in now.items() if not torch.equal(weight, was[name])]
    assert stored[name].dtype == torch.float8_e4m3fn
    assert torch.equal(stored[name].float(), now[name].to(torch.float8_e4m3fn).float())


def test_what_is_quantised_while_it_loads_takes_no_lora_and_is_no_file(
    folders: dict[str, Path], lora: Lora, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, small = str(folders["stable-diffusion"]), Tuning(quantize="torchao-int8")
    with pytest.raises(RecipeError, match=r"quantised as they are loaded; leave out loras or quantize \(store: float8"):
        load("it", "stable-diffusion", folder, loras=[lora], tuning=small)
    monkeypatch.setattr("dovetail.experts.loading.quantization", lambda *_: {"quantization_config": object()})
    file = originals.stable_diffusion(tmp_path / "it.safetensors")
    with pytest.raises(WeightsError, match="is one file, which cannot be quantised as it is loaded"):
        load("it", "stable-diffusion", str(file), base=folder, tuning=small)


def test_one_file_is_counted_as_its_folder_is(folders: dict[str, Path], tmp_path: Path) -> None:
    """Before it is loaded: its network, and its autoencoder, by the configurations of its base."""
    folder, file = str(folders["stable-diffusion"]), originals.stable_diffusion(tmp_path / "it.safetensors")
    whole = recipes.changed(
        recipes.load("sprites-only-spatial"),
        {
            "experts": {"it": {"family": "stable-diffusion", "weights": folder}},
            "codec": {"weights": folder},
            "chain": [{"stage": "video", "ladder": {"own": {"of": "it", "steps": 2}}, "denoise": {"framewise": "it"}}],
            "video.frames": 2,
            "video.height": 16,
            "video.width": 16,
        },
    )
    one = {"weights": str(file), "base": folder}
    single = recipes.changed(whole, {f"{who}.{key}": one[key] for who in ("experts.it", "codec") for key in one})
    known, told = (sizes(foreseen(recipe, []), outlines(recipe, [])) for recipe in (whole, single))
    assert known.weights == told.weights
    assert known.codecs == told.codecs
    assert min(*known.weights.values(), *known.codecs.values()) > 0


def test_what_a_recipe_takes_of_the_hub_is_all_that_it_names(folders: dict[str, Path]) -> None:
    """Codecs of stages, LoRA, what one file takes of a base, and LaVie's file."""
    image = {
        "weights": "me/finetune/it.safetensors",
        "base": "some/base",
        "loras": ["me/lora/one.safetensors", "me/style"],
        "variant": None,
    }
    changes = {f"experts.image.{key}": value for key, value in image.items()}
    recipe = recipes.changed(
        wan_then_sd(folders), {**changes, "codec.weights": "some/vae", "chain.structure.codec.weights": "some/wan"}
    )
    held = ("unet/config.json", "text_encoder/config.json", "tokenizer", "scheduler", "vae/config.json")
    assert wants(recipe) == (
        Want("me/finetune", (), "it.safetensors"),
        Want("some/base", held),
        Want("me/lora", (), "one.safetensors"),
        Want("me/style", USUAL),
        Want("some/wan", ("vae", "")),
        Want("some/vae", ("vae", "")),
    )
    lavie = wants(recipes.load("confiner-sd15-lavie"))
    assert Want("YaohuiW/LaVie", (), "lavie_base.pt") in lavie
    (image_network,) = [want for want in lavie if want.repo == "CompVis/stable-diffusion-v1-4"]
    assert image_network.parts == ("unet/config.json", "text_encoder", "tokenizer", "scheduler", "vae")


def test_a_repository_of_pickles_alone_is_taken_whole() -> None:
    """As cerspense/zeroscope_v2_576w was."""
    there = [
        "unet/config.json",
        "unet/diffusion_pytorch_model.bin",
        "vae/config.json",
        "vae/diffusion_pytorch_model.bin",
    ]
    both = ["text_encoder/model.safetensors", "text_encoder/pytorch_model.bin", "zeroscope.pth"]
    found = Want("some/old", ("unet", "text_encoder", "vae")).of([*there, *both])
    assert found == sorted([*there, both[0]])


def test_a_codec_that_overflows_before_a_bridge_decodes_again(folders: dict[str, Path]) -> None:
    recipe = recipes.changed(wan_then_sd(folders), {"chain.structure.codec.dtype": "bfloat16"})
    cast = run.load(recipe)
    module: Any = cast.codec_at("structure").module  # type: ignore[attr-defined]
    honest = module.decode

    def overflowing(code: torch.Tensor, *args: Any, **options: Any) -> Any:
        (frames,) = honest(code, *args, **options)
        return (frames if code.dtype == torch.float32 else frames * torch.nan,)

    module.decode = overflowing
    with pytest.warns(RunWarning, match="decoded to black or to no numbers in bfloat16"):
        video = run.finished(run.play(recipe, cast))
    assert video.frames.max() > 0
    module.decode = lambda *args, **options: (honest(*args, **options)[0] * torch.nan,)
    with pytest.raises(DecodeError, match="made frames of NaN or infinity in float32"):
        run.finished(run.play(recipe, cast))
