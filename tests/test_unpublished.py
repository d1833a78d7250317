"""Weights that nothing is written down of: the hub's cache tells their sizes, or configurations that come first."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny
from fakehub import Hub, Repo, installed
from huggingface_hub import constants

import dovetail
from dovetail import recipe as recipes
from dovetail.errors import RecipeError, RoomError, RoomWarning, WeightsError
from dovetail.experts import load
from dovetail.experts.cache import folder_of
from dovetail.experts.checkpoint import Location
from dovetail.experts.outline import codec_outline, outline
from dovetail.experts.published import MODELSCOPE, UMT5, WAN_1_3B
from dovetail.recipe import Recipe, models
from dovetail.run.budget import fitted
from dovetail.run.cast import same_words
from dovetail.run.sizes import bring_configs

WAN, SD_15 = "some/wan", "stable-diffusion-v1-5/stable-diffusion-v1-5"


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Checkpoints; tests do not change them."""
    folder = tmp_path_factory.mktemp("folders")
    return {name: tiny.MAKERS[name](folder / name) for name in ("wan", "stable-diffusion")}


@pytest.fixture
def hub(folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    yield from installed(Hub({WAN: Repo.of(folders["wan"])}), tmp_path / "cache", monkeypatch)


def asked(**changes: Any) -> Recipe:
    """Two steps of the Wan on that hub, by its own scheduler's plan."""
    return recipes.checked(
        {
            "prompt": "a red circle",
            "video": {"frames": 5, "height": 32, "width": 32, "fps": 16.0},
            "experts": {"a": {"family": "wan", "weights": WAN, "device": "cpu"}},
            "codec": {"weights": WAN, "device": "cpu"},
            "chain": [{"stage": "s", "ladder": {"own": {"of": "a", "steps": 2}}, "denoise": "a"}],
            **changes,
        }
    )


def in_cache(repo: str) -> set[str]:
    place = folder_of(repo) / "snapshots"
    return {path.relative_to(place).as_posix().partition("/")[2] for path in place.rglob("*") if path.is_file()}


def test_what_is_pulled_is_planned_and_fitted_without_a_network(hub: Hub) -> None:
    free = dovetail.generate("a red circle", asked())
    hub.down = True
    constants.HF_HUB_OFFLINE = True  # The fixture's monkeypatch puts it back.
    before = len(hub.asked)
    assert dovetail.plan(asked()).notes == ()
    tight = asked(vram="24GB")
    found = fitted(tight)
    assert found is not None
    assert found.sizes["a"] > 0
    assert (dovetail.generate("a red circle", tight).frames == free.frames).all()
    assert len(hub.asked) == before


def test_what_is_not_here_brings_its_configurations_before_its_weights(hub: Hub) -> None:
    with pytest.raises(RecipeError, match="has no scheduler config"):
        dovetail.plan(asked())
    assert not hub.asked, "a plan asks nobody"
    with pytest.raises(RoomError, match="do not fit in the memory"):
        dovetail.generate("a red circle", asked(vram="20kB"))
    assert {name.rpartition(".")[2] for name in in_cache(WAN)} == {"json"}
    assert {"transformer/config.json", "scheduler/scheduler_config.json", "vae/config.json"} <= in_cache(WAN)
    assert dovetail.generate("a red circle", asked(vram="24GB")).frames.shape == (5, 32, 32, 3)


def test_what_the_hub_does_not_have_is_told_as_without_a_budget(hub: Hub) -> None:
    for vram in (None, "24GB"):
        away = asked(vram=vram, experts={"a": {"family": "wan", "weights": "some/vann", "device": "cpu"}})
        with pytest.raises(WeightsError, match=r"the hub has no 'some/vann'.*Weights of this family: Wan-AI/"):
            dovetail.generate("a red circle", away)
    nowhere = asked(vram="24GB", experts={"a": {"family": "wan", "weights": "./nowhere", "device": "cpu"}})
    with pytest.raises(WeightsError, match=r"no weights at './nowhere'"):
        dovetail.generate("a red circle", nowhere)


@pytest.mark.parametrize("vram", [None, "24GB"])
@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"experts.b.weights": "./empty"}, r"'./empty' has no transformer/config.json .*there is nothing"),
        ({"experts.b.weights": "./bare"}, r"'./bare' has no weights in transformer/"),
        ({"experts.b.weights": "./wordless"}, r"'./wordless' has no text_encoder/config.json"),
        ({"experts.b.weights": "./missing"}, r"no weights at './missing'"),
        ({"experts.b.loras": ["./missing/a.safetensors"]}, r"no weights file './missing/a.safetensors'"),
        ({"codec.weights": "./empty"}, r"'./empty' has no vae/config.json"),
        ({"codec.weights": "~/missing/it.safetensors"}, r"no weights file '~/missing/it.safetensors'"),
    ],
)
def test_a_path_that_is_wrong_is_told_before_anything_is_fetched(
    hub: Hub,
    folders: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    vram: str | None,
    changes: dict[str, Any],
    said: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    for name, gone in (("bare", "transformer/*.safetensors"), ("wordless", "text_encoder/*")):
        for file in shutil.copytree(folders["wan"], tmp_path / name).glob(gone):
            file.unlink()
    spec = {"family": "wan", "weights": WAN, "device": "cpu"}
    blend = {"blended": {"above 0.5": "a", "else": "b"}}
    chain = [{"stage": "s", "ladder": {"shifted": {"steps": 2, "shift": 3.0}}, "denoise": blend}]
    recipe = recipes.changed(asked(vram=vram, experts={"a": spec, "b": spec}, chain=chain), changes)
    with pytest.raises(WeightsError, match=said):
        dovetail.generate("a red circle", recipe)
    assert not hub.asked


def test_an_expert_of_unknown_size_is_told_where_memory_is_counted(hub: Hub) -> None:
    bare = asked(
        vram="24GB",
        experts={"a": {"family": "wan", "weights": "some/files/wan.safetensors", "device": "cpu"}},
        chain=[{"stage": "s", "ladder": {"shifted": {"steps": 2, "shift": 3}}, "denoise": "a"}],
    )
    with pytest.warns(
        RoomWarning, match=r"'some/files/wan.safetensors' is not on this machine.*memory are not counted"
    ):
        fitted(bare)


def test_a_folder_that_reads_with_another_s_text_model_is_counted(folders: dict[str, Path], tmp_path: Path) -> None:
    bare = Path(shutil.copytree(folders["wan"], tmp_path / "bare"))
    shutil.rmtree(bare / "text_encoder")
    assert outline("it", "wan", Location(str(bare))).words is UMT5
    assert outline("it", "wan", Location(str(folders["wan"]))).words.width == tiny.WIDE


def test_a_file_that_is_not_here_is_counted_by_its_base(hub: Hub) -> None:
    file = "some/files/wan.safetensors"
    assert outline("it", "wan", Location(file, base="Wan-AI/Wan2.1-T2V-1.3B-Diffusers")).config is WAN_1_3B
    found = outline("it", "stable-diffusion", Location("some/files/style.safetensors"))
    assert found.kind == "UNet2DConditionModel", "a file without a base is a Stable Diffusion 1"
    one, two = (
        models.Pretrained(family="stable-diffusion", weights=f"some/files/{name}.safetensors", subfolder="unet")
        for name in ("a", "b")
    )
    assert not same_words(one, two), "of one size, but not of one text model"


def test_an_image_network_with_motion_modules_is_counted_with_them(folders: dict[str, Path], tmp_path: Path) -> None:
    image, file = str(folders["stable-diffusion"]), str(tiny.lightning(tmp_path / "lightning_4step.safetensors"))
    expert: Any = load("it", "animatediff", image, adapter=file)
    found = outline("it", "animatediff", Location(image), adapter=file)
    assert (found.kind, found.parameters) == ("UNetMotionModel", expert.network.parameters)


@pytest.mark.parametrize("adapter", ["guoyww/animatediff/v3_sd15_mm.ckpt", "guoyww/animatediff-motion-adapter-v1-5-2"])
def test_any_motion_modules_over_what_is_published_are_counted(hub: Hub, adapter: str) -> None:
    spec = {"family": "animatediff", "weights": SD_15, "adapter": adapter, "device": "cpu"}
    chain = [{"stage": "s", "ladder": {"trailing": {"of": "a", "steps": 2}}, "denoise": "a"}]
    video = {"frames": 4, "height": 32, "width": 32, "fps": 8.0}
    notes = dovetail.plan(asked(experts={"a": spec}, codec={"weights": SD_15}, chain=chain, video=video)).notes
    assert any("planned by its published configuration" in note for note in notes)
    assert outline("it", "animatediff", Location(SD_15), adapter=adapter).kind == "UNetMotionModel"
    with pytest.raises(WeightsError, match="its sizes are not known"):
        outline("it", "lavie", Location("CompVis/stable-diffusion-v1-4"), adapter="some/files/no_motion.pt")
    assert not hub.asked


def test_names_of_one_model_are_counted_alike() -> None:
    for name in ("damo-vilab/text-to-video-ms-1.7b", "cerspense/zeroscope_v2_576w", "cerspense/zeroscope_v2_XL"):
        assert outline("it", "text-to-video-sd", Location(name)).config is MODELSCOPE


def test_an_autoencoder_in_the_cache_is_counted_as_it_is(hub: Hub, tmp_path: Path) -> None:
    tiny.vae().save_pretrained(tmp_path / "vae")
    hub.repos["some/vae"] = Repo.of(tmp_path / "vae")
    usual = codec_outline(Location("some/vae"), "stable-diffusion")
    bring_configs(asked(codec={"weights": "some/vae", "device": "cpu"}), [])
    assert in_cache("some/vae") == {"config.json"}
    found = codec_outline(Location("some/vae"), "stable-diffusion")
    assert usual is not None
    assert found is not None
    assert found[1]["block_out_channels"] == [8, 8] != list(usual[1]["block_out_channels"])
