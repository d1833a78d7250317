"""Options of networks, each one line in a recipe: what must be equal is equal, and what cannot be done is said."""

from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from torch import Tensor, nn

from dovetail import recipe as recipes
from dovetail.core.denoiser import Condition
from dovetail.errors import ExtraError, OutputError, RecipeError
from dovetail.experts import Tuning, load, load_codec
from dovetail.experts.blocks import blocks_of
from dovetail.experts.residency import Weights
from dovetail.experts.tuning import QUANTIZE, tune
from dovetail.run import End, Step, keep
from dovetail.run.sealed import fingerprint


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    root = tmp_path_factory.mktemp("tuning")
    return {name: str(make(root / name)) for name, make in tiny.MAKERS.items()}


SHAPES = {"stable-diffusion": (2, 4, 1, 8, 8), "text-to-video-sd": (2, 4, 3, 8, 8), "animatediff": (2, 4, 3, 8, 8)}


def looked(expert: Any, x: Tensor) -> Tensor:
    frames = torch.arange(x.shape[2]).expand(len(x), -1)
    answer: Tensor = expert.network(x, 500.0, [Condition("a cat")] * len(x), frames)
    return answer


def both(folders: dict[str, str], family: str, **tuning: Any) -> tuple[Any, Tensor, Tensor]:
    """A tuned expert, what it says, and what the plain one says."""
    x = torch.randn(SHAPES.get(family, (2, 4, 2, 4, 6)))
    plain, tuned = (load("it", family, folders[family], tuning=how) for how in (None, Tuning(**tuning)))
    return tuned, looked(tuned, x), looked(plain, x)


@pytest.mark.parametrize("family", ["stable-diffusion", "text-to-video-sd", "animatediff"])
def test_channels_last_is_a_layout(folders: dict[str, str], family: str) -> None:
    tuned, ours, theirs = both(folders, family, channels_last=True)
    weights = [weight for weight in tuned.network.module.parameters() if weight.dim() == 4]
    assert all(weight.is_contiguous(memory_format=torch.channels_last) for weight in weights)
    assert float((ours - theirs).abs().max()) <= 1e-5


@pytest.mark.parametrize("family", ["wan", "ltx", "stable-diffusion", "text-to-video-sd", "cogvideox"])
def test_weights_in_8_bits_are_kept_so_and_widened_for_work(folders: dict[str, str], family: str) -> None:
    tuned, ours, theirs = both(folders, family, store="float8")
    module = tuned.network.module
    kept = {weight.dtype for weight in module.parameters()}
    assert torch.float8_e4m3fn in kept
    assert {weight.dtype for weight in module.parameters()} == kept, "after a look, too"
    assert ours.isfinite().all()
    error = float((ours - theirs).abs().mean() / theirs.abs().mean())
    assert 0 < error < 0.3


def test_weights_in_8_bits_come_and_go(folders: dict[str, str]) -> None:
    """What is widened and narrowed on a device is a copy; home stays as it was."""
    expert: Any = load("it", "wan", folders["wan"], tuning=Tuning(store="float8"))
    module = expert.network.module
    places = [weight.data_ptr() for weight in module.parameters()]
    x = torch.randn(2, 4, 2, 4, 6)
    at_home = looked(expert, x)
    places = [weight.data_ptr() for weight in module.parameters()]
    weights = Weights.of(module, torch.device("meta"))
    weights.come()
    weights.go()
    assert [weight.data_ptr() for weight in module.parameters()] == places
    assert torch.equal(looked(expert, x), at_home)


@pytest.mark.parametrize("family", ["wan", "ltx"])
def test_an_attention_backend_is_that_experts_alone(folders: dict[str, str], family: str) -> None:
    from diffusers.models.attention_dispatch import _AttentionBackendRegistry as registry

    before = registry._active_backend
    tuned, ours, theirs = both(folders, family, attention="_native_math")
    named = {
        getattr(part.processor, "_attention_backend", None)
        for part in tuned.network.module.modules()
        if hasattr(part, "processor")
    }
    assert {one.value for one in named if one is not None} == {"_native_math"}
    assert registry._active_backend is before
    assert float((ours - theirs).abs().max()) <= 1e-5


@pytest.mark.parametrize("family", tiny.MAKERS)
def test_blocks_that_come_in_turns_say_the_same(folders: dict[str, str], family: str) -> None:
    _, ours, theirs = both(folders, family, offload=True)
    assert torch.equal(ours, theirs)


def compiled(module: nn.Module) -> list[str]:
    """Its parts that are compiled when they are first called."""
    return [name for name, part in module.named_modules() if part._compiled_call_impl is not None]  # type: ignore[attr-defined]


@pytest.mark.filterwarnings("ignore")  # torch's compiler deprecates parts of torch as it is imported.
@pytest.mark.parametrize("family", tiny.MAKERS)
def test_compile_is_heard(folders: dict[str, str], family: str) -> None:
    """A stack's blocks, anything else as a whole; nothing is called, which would take minutes."""
    network: Any = load("it", family, folders[family], tuning=Tuning(compile=True)).network
    name = blocks_of(network.module)
    whole = [""] if name is None else [f"{name}.{i}" for i in range(len(getattr(network.module, name)))]
    assert compiled(network.module) == whole
    assert (name is None) == ("UNet" in type(network.module).__name__)
    plain: Any = load("it", family, folders[family]).network
    assert not compiled(plain.module)


@pytest.mark.filterwarnings("ignore")  # torch's compiler deprecates parts of torch as it is imported.
@pytest.mark.parametrize("family", ["stable-diffusion", "wan", "ltx", "cogvideox"])
def test_compile_is_heard_by_a_codec(folders: dict[str, str], family: str) -> None:
    for tuning, parts in ((Tuning(compile=True), ["decoder"]), (None, [])):
        assert compiled(load_codec(folders[family], tuning=tuning).module) == parts


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # torch's compiler deprecates parts of torch as it is imported.
@pytest.mark.parametrize("family", ["wan", "stable-diffusion"])
def test_a_compiled_network_says_the_same(folders: dict[str, str], family: str) -> None:
    tuned, ours, theirs = both(folders, family, compile=True)
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
    assert len(compiled(tuned.network.module)) == 1, "the whole UNet, or the one block of this tiny Wan"


REFUSED = {
    "no pictures": ("wan", Tuning(channels_last=True), RecipeError, "which has no convolutions over pictures"),
    "torch's": ("stable-diffusion", Tuning(attention="native"), RecipeError, "leaves to torch"),
    "unknown": ("wan", Tuning(attention="nativ"), RecipeError, "did you mean 'native'"),
    "from the hub": ("wan", Tuning(attention="flash_hub"), RecipeError, "unknown attention 'flash_hub'"),
    "not here": ("wan", Tuning(attention="flash"), RecipeError, "not to be had here.*flash-attn"),
    "store": ("wan", Tuning(store="float7"), RecipeError, "did you mean 'float8'"),
    "quantize": ("wan", Tuning(quantize="torchao-int9"), RecipeError, "did you mean 'torchao-int8'"),
    "motion": ("animatediff", Tuning(channels_last=True, attention="native"), RecipeError, "leaves to torch"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_done_is_said(folders: dict[str, str], case: str) -> None:
    family, tuning, kind, message = REFUSED[case]
    with pytest.raises(kind, match=message):
        load("it", family, folders[family], tuning=tuning)


def test_what_apples_device_has_not_is_said_before_it_is_tried(folders: dict[str, str]) -> None:
    module = load("it", "wan", folders["wan"]).network.module  # type: ignore[attr-defined]
    with pytest.raises(RecipeError, match=r"it: store: float8 is not to be had on Apple's MPS.*device: cpu"):
        tune("it", module, Tuning(store="float8"), torch.float32, torch.device("mps"))


@pytest.mark.parametrize("word", QUANTIZE)
def test_a_package_that_is_not_here_is_named_with_its_extra(
    folders: dict[str, str], word: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = word.partition("-")[0]
    monkeypatch.setattr("dovetail.experts.tuning.find_spec", lambda name: None)
    with pytest.raises(ExtraError, match=rf"{package} is not installed; pip install 'dovetail-video\[{package}\]'"):
        load("it", "wan", folders["wan"], tuning=Tuning(quantize=word))


# --- what the package torchao does; the extra dev brings it -------------------------------------------------------------

TORCHAO = pytest.mark.skipif(find_spec("torchao") is None, reason="needs torchao")


@TORCHAO
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("word", "most"), [("torchao-int8", 0.03), ("torchao-float8", 0.15)])
@pytest.mark.parametrize("family", tiny.MAKERS)
def test_weights_quantised_by_torchao_say_almost_the_same(
    folders: dict[str, str], family: str, word: str, most: float
) -> None:
    tuned, ours, theirs = both(folders, family, quantize=word)
    kinds = {type(weight.data).__name__ for weight in tuned.network.module.parameters()}
    assert kinds > {"Tensor"}, "linear layers are quantised, and nothing else"
    assert 0 < float((ours - theirs).abs().mean() / theirs.abs().mean()) < most


@TORCHAO
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("word", ["torchao-int8", "torchao-float8"])
def test_quantised_weights_come_and_go_and_are_counted_as_they_are(folders: dict[str, str], word: str) -> None:
    module = load("it", "wan", folders["wan"], tuning=Tuning(quantize=word)).network.module  # type: ignore[attr-defined]
    plain = load("it", "wan", folders["wan"]).network.module  # type: ignore[attr-defined]
    before, weights = fingerprint(module), Weights.of(module, torch.device("meta"))
    weights.come()
    assert {weight.device.type for weight in module.parameters()} == {"meta"}
    weights.go()
    assert fingerprint(module) == before != fingerprint(plain)
    again = load("it", "wan", folders["wan"], tuning=Tuning(quantize=word)).network.module  # type: ignore[attr-defined]
    assert fingerprint(again) == before
    assert weights.bytes < 0.6 * Weights.of(plain, torch.device("meta")).bytes


@TORCHAO
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("options", [{}, {"offload": True}])
def test_a_kept_run_of_a_quantised_expert_goes_on(folders: dict[str, str], tmp_path: Path, options: Any) -> None:
    """Its folder knows the quantised weights again, in blocks or not, and refuses the plain ones."""
    expert = {"family": "wan", "weights": folders["wan"], "device": "cpu"}
    changes = {
        "experts": {"it": {**expert, "quantize": "torchao-int8", **options}},
        "codec": {"weights": folders["wan"], "device": "cpu"},
        "chain": [{"stage": "video", "ladder": {"even": {"steps": 3}}, "denoise": "it"}],
        "video": {"frames": 5, "height": 32, "width": 32},
    }
    recipe, video, folder = (
        recipes.changed(recipes.load("sprites-only-spatial"), changes),
        tmp_path / "it.mp4",
        tmp_path,
    )
    begun = keep(recipe, video, folder / "run")
    next(event for event in begun if isinstance(event, Step))
    begun.close()
    assert any(isinstance(event, End) for event in keep(recipe, video, folder / "run"))
    plain = recipes.changed(recipe, {"experts.it": expert})
    with pytest.raises(OutputError, match=r"of another recipe, version or weights: .*weights\.it is"):
        list(keep(plain, video, folder / "run"))


# --- codecs -----------------------------------------------------------------------------------------------------------


def test_a_codecs_options(tmp_path: Path) -> None:
    tiny.vae().save_pretrained(tmp_path / "vae")
    latent = torch.randn(1, 4, 3, 16, 16)
    plain = load_codec(str(tmp_path)).decode(latent)
    last = load_codec(str(tmp_path), tuning=Tuning(channels_last=True)).decode(latent)
    assert float((last - plain).abs().max()) <= 1e-5
    one = load_codec(str(tmp_path), chunk=1).decode(latent)
    assert float((one - plain).abs().max()) <= 1e-5, "a frame at a time, which diffusers calls slicing"
    small: Any = load_codec(str(tmp_path), tuning=Tuning(store="float8"))
    assert float((small.decode(latent) - plain).abs().mean()) < 0.1
    assert torch.float8_e4m3fn in {weight.dtype for weight in small.module.parameters()}
    with pytest.raises(RecipeError, match="at least 4, not 3"):
        load_codec(str(tmp_path), tiles=3)


def near(module: Any) -> Any:
    """An autoencoder that sees neighbours only: without attention, and without norms over the whole picture."""
    for part in list(module.modules()):
        for name, child in part.named_children():
            if isinstance(child, nn.GroupNorm):
                setattr(part, name, nn.Identity())
    if hasattr(module.decoder.mid_block, "attentions"):
        module.decoder.mid_block.attentions = nn.ModuleList([None])  # type: ignore[list-item]
    return module


CONDITIONED = partial(tiny.ltx_vae, conditioned=True)


@pytest.mark.parametrize(
    "make",
    [tiny.vae, tiny.wan_vae, tiny.ltx_vae, CONDITIONED, tiny.cogvideox_vae],
    ids=["image", "wan", "ltx", "ltx that is told a timestep", "cogvideox"],
)
def test_tiles_are_the_whole_far_from_their_edges(tmp_path: Path, make: Any) -> None:
    """Two tiles side by side share cells 14 to 28 of 42, and neither sees further than 14 cells."""
    make().save_pretrained(tmp_path / "vae")
    latent = torch.randn(1, 4, 1, 4, 42)
    whole, tiled = (load_codec(str(tmp_path), tiles=tiles) for tiles in (None, 28))
    theirs, ours = (replace(codec, module=near(codec.module)).decode(latent) for codec in (whole, tiled))
    off = ((ours - theirs).abs().amax((0, 1, 2, 3)) / theirs.abs().max()).unflatten(0, (42, -1)).amax(1)
    assert float(torch.cat([off[:14], off[28:]]).max()) < 1e-5
    assert 1e-4 < float(off[14:28].max()) < 0.5
