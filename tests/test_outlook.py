"""What is refused before weights are loaded and before anything is counted: another family, other latents, no path."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import tiny
from typer.testing import CliRunner

import dovetail
from dovetail import recipe as recipes
from dovetail.cli import app
from dovetail.costs import costs
from dovetail.errors import RecipeError, SpaceError, WeightsError
from dovetail.experts.checkpoint import Location
from dovetail.experts.loading import FAMILIES, load
from dovetail.experts.outline import codec_space, outline, space_ahead
from dovetail.run.budget import fitted

WAN, LTX = "Wan-AI/Wan2.1-T2V-1.3B-Diffusers", "Lightricks/LTX-Video-0.9.5"
SD_15, COG = "stable-diffusion-v1-5/stable-diffusion-v1-5", "THUDM/CogVideoX-2b"

REFUSED: dict[str, tuple[str, dict[str, str], str]] = {
    "another codec": (
        "flowblending-wan21",
        {"codec.weights": LTX},
        r"'large' \(Wan-AI/.+\) and the codec \(Lightricks/LTX-Video-0.9.5\) live in different latent spaces: "
        r"channels 16 against 128; vae 'AutoencoderKLWan' against 'AutoencoderKLLTXVideo'; factor 8 against 32.*bridge: pixels",
    ),
    "a codec of as many channels": (
        "flowblending-wan21",
        {"codec.weights": COG},
        r"vae 'AutoencoderKLWan' against 'AutoencoderKLCogVideoX'",
    ),
    "another family": (
        "flowblending-wan21",
        {"experts.small.weights": LTX},
        r"'small' is of family 'wan', which calls a WanTransformer3DModel, but transformer/ of 'Lightricks/LTX-Video-0.9.5' "
        r"is a LTXVideoTransformer3DModel; its family: ltx\. Weights of family 'wan': Wan-AI/Wan2.1-T2V-1.3B-Diffusers",
    ),
    "another family in another folder": (
        "flowblending-wan21",
        {"experts.small.weights": SD_15},
        r"but unet/ of 'stable-diffusion-v1-5/.+' is a UNet2DConditionModel; its family: stable-diffusion\. Weights of",
    ),
    "no such folder": (
        "sprites",
        {"codec.weights": "./nope"},
        r"no weights at './nope': no such folder, and no hub id \(OWNER/REPO\).*codec\.weights",
    ),
    "no such file": (
        "sprites",
        {"codec.weights": "./nope.safetensors"},
        r"no weights file './nope.safetensors': no such path, and no hub name",
    ),
    "no such folder of an expert": (
        "sprites",
        {"experts.spatial.weights": "./nope"},
        r"no weights at './nope': no such folder.*Weights of this family: stable-diffusion-v1-5/",
    ),
    "no such packaged codec": ("sprites", {"codec.weights": "sprites/vea"}, r"did you mean 'vae'"),
    "a published codec beside sprites": (
        "sprites",
        {"codec.weights": SD_15},
        r"'control' \(sprites/control\) and the codec \(stable-diffusion-v1-5/.+\) live in .*: channels 16 against 4",
    ),
    "a published expert beside sprites": (
        "sprites",
        {"experts.spatial.weights": SD_15},
        r"'spatial' \(stable-diffusion-v1-5/.+\) and the codec \(sprites/vae\) live in .*: channels 4 against 16",
    ),
    "experts that differ where the codec is not known": (
        "sprites",
        {"experts.spatial.weights": SD_15, "codec.weights": "some/vae"},
        r"'spatial' \(stable-diffusion-v1-5/.+\) and expert 'control' \(sprites/control\) live in .*: channels 4 against 16",
    ),
    "a video's codec beside images": (
        "confiner-sd15-modelscope",
        {"codec.weights": WAN},
        r"'control' \(stable-diffusion-v1-5/.+\) and the codec \(Wan-AI/.+\) live in .*: channels 4 against 16",
    ),
    "motion modules left out": (
        "confiner-sd15-modelscope",
        {"experts.control.adapter": "null"},
        r"'control': unet/ of 'stable-diffusion-v1-5/.+' knows single images; name its motion modules as adapter",
    ),
    "a file whose base is of another family": (
        "flowblending-wan21",
        {"experts.small.weights": "some/files/wan.safetensors", "experts.small.base": LTX},
        r"transformer/ of 'Lightricks/.+', by which 'some/files/wan\.safetensors' is told, is a LTXVideoTransformer3DModel",
    ),
    "an adapter that is not taken": (
        "flowblending-wan21",
        {"experts.small.adapter": "some/motion"},
        r"'small' asks for adapter 'some/motion', but a WanTransformer3DModel in family 'wan' takes none",
    ),
    "more frames at once than a motion module has places for": (
        "sprites-long-control",
        {"chain.structure.window": 40, "chain.structure.hop": 20, "chain.structure.noise": "null"},
        "expert 'control' sees at most 32 frames at once, not 40; .* window: 32 on its stage",
    ),
}


def told(*words: str) -> str:
    """What a command that must fail says, on one line of stderr."""
    result = CliRunner().invoke(app, list(words))
    assert result.exit_code == 1, result.output
    assert isinstance(result.exception, SystemExit), result.exception
    assert not result.stdout
    return " ".join(result.stderr.split())


@pytest.mark.parametrize("what", REFUSED)
def test_a_plan_refuses_what_does_not_fit(what: str) -> None:
    name, changes, message = REFUSED[what]
    sets = [word for path, value in changes.items() for word in ("--set", f"{path}={value}")]
    assert re.search(message, told("plan", name, *sets))


def test_places_of_an_adapter_are_its_own() -> None:
    """Some have twice as many as AnimateDiff's, which is known once they are loaded: a plan refuses none ahead."""
    windows = {f"chain.{i}.window": 48 for i in (0, 1)} | {"chain.1.offset": 24, "video.frames": 96}
    plan = dovetail.plan(
        "confiner-long-sd15-modelscope", overrides={"experts.control.adapter": "some/motion-64", **windows}
    )
    assert costs(plan).experts["control"].look.total > 0


@pytest.mark.parametrize("what", ["another codec", "another family", "no such folder"])
def test_a_budget_refuses_it_before_anything_is_loaded(what: str) -> None:
    name, changes, message = REFUSED[what]
    sets = [word for path, value in changes.items() for word in ("--set", f"{path}={value}")]
    assert re.search(message, told("generate", "-r", name, "--vram", "24GB", *sets))


def test_a_codec_that_nobody_knows_is_as_the_experts_are() -> None:
    """Of sprites' latents, though their families' are others: an autoencoder of those would decode none of them."""
    plan = dovetail.plan("sprites", overrides={"codec.weights": "some/vae"})
    assert any("codec: 'some/vae' is not on this machine" in note for note in plan.notes)
    assert costs(plan).experts.keys() == {"control", "spatial", "temporal"}


def test_what_is_published_of_a_codec_is_what_is_planned() -> None:
    space = codec_space(Location(SD_15))
    assert space is not None
    assert (space.channels, space.factor, space.compression, space.vae) == (4, 8, 1, "AutoencoderKL")
    for name, weights in (("wan", WAN), ("ltx", LTX), ("cogvideox", COG)):
        assert codec_space(Location(weights)) == space_ahead("it", name, Location(weights))


# --- checkpoints on this machine --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Checkpoints; tests do not change them."""
    root = tmp_path_factory.mktemp("outlook")
    return {family: tiny.MAKERS[family](root / family) for family in ("stable-diffusion", "wan", "ltx")}


def asked(weights: Path, codec: Path, family: str = "wan", **expert: Any) -> recipes.Recipe:
    return recipes.checked(
        {
            "prompt": "a fox",
            "video": {"frames": 5, "height": 32, "width": 32, "fps": 8.0},
            "vram": "24GB",
            "experts": {"a": {"family": family, "weights": str(weights), "device": "cpu", **expert}},
            "codec": {"weights": str(codec), "device": "cpu"},
            "chain": [{"stage": "s", "ladder": {"shifted": {"steps": 2, "shift": 3.0}}, "denoise": "a"}],
        }
    )


def test_folders_are_compared_by_their_configurations(folders: dict[str, Path]) -> None:
    assert fitted(asked(folders["wan"], folders["wan"])) is not None
    for attempt in (dovetail.plan, fitted):
        with pytest.raises(SpaceError, match=r"'a' \(.*wan\) and the codec \(.*ltx\) live in different.*vae 'Auto"):
            attempt(asked(folders["wan"], folders["ltx"]))


def test_an_expert_that_is_trusted_must_have_the_size_alone(folders: dict[str, Path], tmp_path: Path) -> None:
    scaled = Path(shutil.copytree(folders["stable-diffusion"], tmp_path / "scaled"))
    file = scaled / "vae" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"scaling_factor": 0.5}))
    pair = (folders["stable-diffusion"], scaled, "stable-diffusion")
    one = {"video.frames": 1}
    with pytest.raises(SpaceError, match=r"scaling 0\.18215 against 0\.5"):
        dovetail.plan(asked(*pair), overrides=one)
    dovetail.plan(asked(*pair, trust_space=True), overrides=one)
    with pytest.raises(SpaceError, match=r": factor 8 against 32; compression 4 against 8\."):
        dovetail.plan(asked(folders["wan"], folders["ltx"], trust_space=True))


def test_a_folder_of_another_family_is_told_while_planning_as_when_loading(folders: dict[str, Path]) -> None:
    for family, there in (("wan", "ltx"), ("ltx", "wan"), ("stable-diffusion", "wan"), ("wan", "stable-diffusion")):
        folder = folders[there]
        said = rf"of family '{family}', .*/ of '{folder}' \({folder}/\w+/config\.json\) is a .*; its family: {there}\. "
        said += rf"Weights of family '{family}': {FAMILIES[family].where[:12]}"
        for attempt in (
            lambda folder=folder, family=family: dovetail.plan(asked(folder, folder, family)),
            lambda folder=folder, family=family: outline("it", family, Location(str(folder))),
            lambda folder=folder, family=family: load("it", family, str(folder)),
        ):
            with pytest.raises(RecipeError, match=said):
                attempt()


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("FluxTransformer2DModel", "is a FluxTransformer2DModel, which no family calls"),
        (None, "is nothing that can be told: its config names no _class_name"),
    ],
)
def test_a_network_that_no_family_calls(folders: dict[str, Path], tmp_path: Path, name: str | None, said: str) -> None:
    other = Path(shutil.copytree(folders["wan"], tmp_path / "other"))
    file = other / "transformer" / "config.json"
    config = json.loads(file.read_text()) | {"_class_name": name}
    file.write_text(json.dumps({key: value for key, value in config.items() if value is not None}))
    for attempt in (lambda: dovetail.plan(asked(other, other)), lambda: load("it", "wan", str(other))):
        with pytest.raises(RecipeError, match=rf"\({file}\) {said}\. Weights of family 'wan': Wan-AI/Wan2"):
            attempt()


def test_a_network_that_is_shown_more_than_a_latent(folders: dict[str, Path], tmp_path: Path) -> None:
    """As those that fill in masks, and those that go on from a picture."""
    other = Path(shutil.copytree(folders["wan"], tmp_path / "other"))
    file = other / "transformer" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"in_channels": 36}))
    with pytest.raises(RecipeError, match=rf"\({file}\) takes 36 channels and its autoencoder makes \d+, .*Weights of"):
        dovetail.plan(asked(other, other))


def test_a_text_model_of_another_kind_says_where_and_what_fits(folders: dict[str, Path], tmp_path: Path) -> None:
    other = Path(shutil.copytree(folders["wan"], tmp_path / "other"))
    file = other / "text_encoder" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"architectures": ["T5EncoderModel"]}))
    said = rf"text_encoder/ of '{other}' \({file}\) is a T5EncoderModel\. Weights of family 'wan': Wan-AI/Wan2"
    with pytest.raises(RecipeError, match=said):
        load("it", "wan", str(other))


def test_a_folder_without_a_config_is_told(folders: dict[str, Path], tmp_path: Path) -> None:
    bare = Path(shutil.copytree(folders["wan"], tmp_path / "bare"))
    (bare / "vae" / "config.json").unlink()
    with pytest.raises(WeightsError, match=r"has no vae/config\.json"):
        dovetail.plan(asked(folders["wan"], bare))
