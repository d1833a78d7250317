"""LoRA weights: in every spelling they change an expert as the formula says."""

import importlib.util
import json
from pathlib import Path
from typing import Any

import originals
import pytest
import tiny
import torch
from safetensors.torch import save_file
from torch import nn

from dovetail import recipe as recipes
from dovetail import run
from dovetail.core.denoiser import Condition, Expert
from dovetail.errors import RecipeError, WeightsError
from dovetail.experts import Lora, load


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("loras")
    return {family: tiny.MAKERS[family](root / family) for family in ("stable-diffusion", "animatediff", "wan", "ltx")}


def layers(module: nn.Module, *pieces: str) -> dict[str, nn.Module]:
    """Layers that LoRA weights usually change: those of attention, or whose names hold one of these pieces."""
    ends = pieces or ("to_q", "to_k", "to_v", "to_out.0")
    return {
        name: layer
        for name, layer in module.named_modules()
        if isinstance(layer, nn.Linear | nn.Conv2d) and any(piece in name for piece in ends)
    }


def kohya(part: str) -> Any:
    def named(name: str) -> tuple[str, str]:
        stem = f"lora_{part}_{name.replace('.', '_')}"
        return f"{stem}.lora_down.weight", f"{stem}.lora_up.weight"

    return named


def peft(prefix: str) -> Any:
    return lambda name: (f"{prefix}{name}.lora_A.weight", f"{prefix}{name}.lora_B.weight")


def processor(prefix: str) -> Any:
    """Of diffusers before 0.20, and of the original AnimateDiff."""

    def named(name: str) -> tuple[str, str]:
        stem, _, last = name.replace(".to_out.0", ".to_out").rpartition(".")
        return f"{prefix}{stem}.processor.{last}_lora.down.weight", f"{prefix}{stem}.processor.{last}_lora.up.weight"

    return named


SPELLINGS = {
    "kohya": kohya("unet"),
    "peft": peft("unet."),
    "diffusers": lambda name: (f"unet.{name}.lora.down.weight", f"unet.{name}.lora.up.weight"),
    "processor": processor("unet."),
    "v3_sd15_adapter": processor(""),
}


def changed(expert: Expert, before: nn.Module) -> dict[str, torch.Tensor]:
    """By how much each layer's weights changed."""
    was = before.state_dict()
    found = {key: value - was[key] for key, value in expert.network.module.state_dict().items()}
    return {key: delta for key, delta in found.items() if delta.abs().max() > 0}


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("family", ["stable-diffusion", "animatediff"])
def test_every_spelling_says_the_same(folders: dict[str, Path], tmp_path: Path, family: str, spelling: str) -> None:
    plain = load("it", family, str(folders[family])).network.module
    targets = {name: layer for name, layer in layers(plain).items() if "motion_modules" not in name}
    tensors = originals.lora_of(targets, SPELLINGS[spelling])
    file = originals.written(tmp_path / "it.safetensors", tensors)
    expert = load("it", family, str(folders[family]), loras=[Lora(str(file), 0.8)])
    delta = changed(expert, plain)
    assert delta.keys() == {f"{name}.weight" for name in targets}
    for name in targets:
        down, up = (tensors[key] for key in SPELLINGS[spelling](name))
        assert torch.allclose(delta[f"{name}.weight"], 0.8 * up @ down, atol=1e-6)


def test_alpha_convolutions_and_the_text_model(folders: dict[str, Path], tmp_path: Path) -> None:
    """As kohya's scripts write them: alpha beside the halves, 3x3 convolutions, and the text model."""
    plain = load("it", "stable-diffusion", str(folders["stable-diffusion"])).network
    unet, words = (
        layers(plain.module, "to_q", "conv1", "ff.net.0.proj"),
        layers(plain.text.borrowed.network, "q_proj", "fc1"),
    )
    spelt = kohya("unet"), kohya("te_text_model")
    tensors = originals.lora_of(unet, spelt[0]) | originals.lora_of(words, spelt[1])
    alphas = {key.replace("lora_down.weight", "alpha"): torch.tensor(1.0) for key in tensors if "lora_down" in key}
    file = originals.written(tmp_path / "it.safetensors", tensors, alphas)
    expert = load("it", "stable-diffusion", str(folders["stable-diffusion"]), loras=[Lora(str(file))])
    for module, was, targets, named in (
        (expert.network.module, plain.module, unet, spelt[0]),
        (expert.network.text.borrowed.network, plain.text.borrowed.network, words, spelt[1]),
    ):
        now, before = module.state_dict(), was.state_dict()
        for name, layer in targets.items():
            down, up = (tensors[key] for key in named(name))
            wanted = before[f"{name}.weight"] + 0.5 * torch.einsum("or,r...->o...", up.flatten(1), down).reshape(
                layer.weight.shape
            )
            assert torch.allclose(now[f"{name}.weight"], wanted, atol=1e-6), name


def test_motion_lora_as_its_authors_name_it_and_as_diffusers_does(folders: dict[str, Path], tmp_path: Path) -> None:
    """v2_lora_ZoomIn.ckpt, and guoyww/animatediff-motion-lora-zoom-in."""
    plain = load("it", "animatediff", str(folders["animatediff"])).network.module
    targets = {name: layer for name, layer in layers(plain).items() if "motion_modules" in name}

    def authors(name: str) -> tuple[str, str]:
        long = name.replace(".transformer_blocks.", ".temporal_transformer.transformer_blocks.")
        long = long.replace(".attn1.", ".attention_blocks.0.").replace(".attn2.", ".attention_blocks.1.")
        return processor("")(long)

    def converted(name: str) -> tuple[str, str]:
        return processor("unet.")(name)

    deltas = []
    for named, path in ((authors, "v2_lora_ZoomIn.ckpt"), (converted, "diffusion_pytorch_model.safetensors")):
        tensors = originals.lora_of(targets, named)
        originals.written(tmp_path / named.__name__ / path, tensors)
        where = tmp_path / named.__name__ / (path if named is authors else "")
        deltas.append(changed(load("it", "animatediff", str(folders["animatediff"]), loras=[Lora(str(where))]), plain))
    assert deltas[0].keys() == deltas[1].keys() == {f"{name}.weight" for name in targets}
    assert all(torch.equal(deltas[0][key], deltas[1][key]) for key in deltas[0])


def test_loras_add_up_and_their_order_is_no_matter(folders: dict[str, Path], tmp_path: Path) -> None:
    plain = load("it", "stable-diffusion", str(folders["stable-diffusion"])).network.module
    files = [
        str(originals.written(tmp_path / f"{end}.safetensors", originals.lora_of(layers(plain, end), kohya("unet"))))
        for end in ("to_q", "to_")
    ]

    def delta(*loras: Lora) -> dict[str, torch.Tensor]:
        return changed(load("it", "stable-diffusion", str(folders["stable-diffusion"]), loras=loras), plain)

    one, two = Lora(files[0], 0.7), Lora(files[1], -0.4)
    both, other, alone = delta(one, two), delta(two, one), (delta(one), delta(two))
    assert both.keys() == other.keys() == alone[1].keys()
    for key, value in both.items():
        assert torch.allclose(value, other[key], atol=1e-6)
        assert torch.allclose(value, alone[0].get(key, 0) + alone[1][key], atol=1e-6)


def test_alphas_in_the_header(folders: dict[str, Path], tmp_path: Path) -> None:
    """diffusers' own trainers write alpha and rank there."""
    plain = load("it", "stable-diffusion", str(folders["stable-diffusion"])).network.module
    tensors = originals.lora_of(layers(plain), peft("unet."))
    special = next(iter(layers(plain)))
    told = {"unet.r": 2, "unet.lora_alpha": 6, "unet.alpha_pattern": {special: 1}, "unet.use_rslora": False}
    save_file(tensors, tmp_path / "it.safetensors", metadata={"lora_adapter_metadata": json.dumps(told)})
    expert = load(
        "it", "stable-diffusion", str(folders["stable-diffusion"]), loras=[Lora(str(tmp_path / "it.safetensors"))]
    )
    for name in layers(plain):
        down, up = (tensors[key] for key in peft("unet.")(name))
        share = 0.5 if name == special else 3.0
        assert torch.allclose(changed(expert, plain)[f"{name}.weight"], share * up @ down, atol=1e-5)


TRANSFORMERS = {
    "wan": ("diffusion_model.", {"attn1": "self_attn", "attn2": "cross_attn", "to_out.0": "o", "to_": ""}),
    "ltx": ("diffusion_model.", {}),
}


@pytest.mark.parametrize("family", TRANSFORMERS)
def test_transformers_in_the_names_of_their_authors(folders: dict[str, Path], tmp_path: Path, family: str) -> None:
    prefix, rules = TRANSFORMERS[family]
    plain = load("it", family, str(folders[family])).network.module
    targets = layers(plain)

    def named(name: str) -> tuple[str, str]:
        return peft(prefix)(originals.put(name, rules))

    tensors = originals.lora_of(targets, named)
    file = originals.written(tmp_path / "it.safetensors", tensors)
    delta = changed(load("it", family, str(folders[family]), loras=[Lora(str(file), 0.5)]), plain)
    assert delta.keys() == {f"{name}.weight" for name in targets}
    for name in targets:
        down, up = (tensors[key] for key in named(name))
        assert torch.allclose(delta[f"{name}.weight"], 0.5 * up @ down, atol=1e-6)


@pytest.mark.skipif(importlib.util.find_spec("peft") is None, reason="diffusers loads LoRA weights with peft only")
@pytest.mark.filterwarnings("ignore")
def test_as_diffusers_loads_them_with_peft(folders: dict[str, Path], tmp_path: Path) -> None:
    from diffusers import DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTokenizer

    folder = folders["stable-diffusion"]
    plain = load("it", "stable-diffusion", str(folder)).network
    # The text model's is left out: diffusers 0.42.1 passes kohya's names of its attention on, and they are not found there.
    tensors = originals.lora_of(layers(plain.module, "to_q", "to_out.0", "ff.net.2"), kohya("unet"))
    alphas = {key.replace("lora_down.weight", "alpha"): torch.tensor(1.5) for key in tensors if "lora_down" in key}
    file = originals.written(tmp_path / "it.safetensors", tensors, alphas)
    kinds = {"unet": UNet2DConditionModel, "text_encoder": CLIPTextModel, "tokenizer": CLIPTokenizer}
    parts = {part: kind.from_pretrained(folder / part) for part, kind in kinds.items()}
    rest = dict.fromkeys(("vae", "safety_checker", "feature_extractor"))
    pipe = StableDiffusionPipeline(**parts, **rest, scheduler=DDIMScheduler(), requires_safety_checker=False)
    pipe.load_lora_weights(str(file))
    pipe.set_adapters(pipe.get_active_adapters(), 0.6)
    expert = load("it", "stable-diffusion", str(folder), loras=[Lora(str(file), 0.6)])
    x, time = torch.randn(1, 4, 8, 8), torch.tensor([300])
    with torch.no_grad():
        words = pipe.encode_prompt("a fox", "cpu", 1, False)[0]
        stock = pipe.unet(x, time, words)[0]
        ours = expert.network(x[:, :, None], 300.0, [Condition("a fox")], torch.zeros(1, 1))[:, :, 0]
    assert float((stock - ours).abs().max()) <= 1e-5


# --- in a recipe --------------------------------------------------------------------------------------------------


def recipe(folder: Path, **expert: Any) -> recipes.Recipe:
    return recipes.checked(
        {
            "prompt": "a fox",
            "video": {"frames": 2, "height": 16, "width": 16},
            "experts": {
                "spatial": {"family": "stable-diffusion", "weights": str(folder), "device": "cpu", **expert},
                "plain": {"family": "stable-diffusion", "weights": str(folder), "device": "cpu"},
            },
            "codec": {"weights": str(folder), "device": "cpu"},
            "chain": [
                {
                    "stage": "only",
                    "ladder": {"trailing": {"of": "spatial", "steps": 2}},
                    "denoise": {"blended": {"above 0.5": {"framewise": "spatial"}, "else": {"framewise": "plain"}}},
                }
            ],
        }
    )


def test_a_recipe_names_loras_by_file_or_with_a_scale(folders: dict[str, Path], tmp_path: Path) -> None:
    """Its text model is its own then, and a file's name is meant from the recipe's folder."""
    folder = folders["stable-diffusion"]
    plain = load("it", "stable-diffusion", str(folder)).network
    tensors = originals.lora_of(layers(plain.module), kohya("unet"))
    tensors |= originals.lora_of(layers(plain.text.borrowed.network, "q_proj"), kohya("te_text_model"))
    originals.written(tmp_path / "style.safetensors", tensors)
    asked = recipe(folder, loras=["./style.safetensors", {"weights": "./style.safetensors", "scale": 0.5}])
    (tmp_path / "r.yaml").write_text(recipes.dump(asked))
    read = recipes.load(tmp_path / "r.yaml")
    assert read.experts["spatial"].loras[1].weights == str(tmp_path / "style.safetensors")
    cast = run.load(read)
    texts = [cast.experts[name].network.text for name in ("spatial", "plain")]
    assert texts[0] is not texts[1]
    one, two = (text.borrowed.network.state_dict() for text in texts)
    assert any(not torch.equal(one[key], two[key]) for key in one)
    name = next(iter(layers(plain.module)))
    down, up = (tensors[key] for key in kohya("unet")(name))
    now = cast.experts["spatial"].network.module.state_dict()[f"{name}.weight"]
    assert torch.allclose(now, plain.module.state_dict()[f"{name}.weight"] + 1.5 * up @ down, atol=1e-6)
    changed_scale = recipes.changed(read, ["experts.spatial.loras.0.scale=0.25"])
    assert changed_scale.experts["spatial"].loras[0].scale == 0.25
    assert run.finished(run.play(read, cast)).frames.shape == (2, 16, 16, 3)


# --- what is refused ----------------------------------------------------------------------------------------------

ODD = {
    "loha": ({"lora_unet_mid_block_attentions_0_proj_in.hada_w1_a": 1}, WeightsError, "is LoHa, not LoRA"),
    "dora": ({"unet.x.to_q.lora_A.weight": 1, "unet.x.to_q.dora_scale": 1}, WeightsError, "is DoRA, not LoRA"),
    "network": (
        {"conv_in.weight": 1},
        WeightsError,
        "is no LoRA, or a kind that dovetail does not know: 'conv_in.weight'",
    ),
    "other": (
        {"lora_unet_x_to_q.lora_down.weight": 1},
        RecipeError,
        "1 layer.* its network has not, the first is 'x_to_q'",
    ),
    "xl": ({"lora_te2_x.lora_down.weight": 1}, RecipeError, "made for Stable Diffusion XL"),
    "motion": (
        {"mid_block.motion_modules.0.x.lora_A.weight": 1},
        RecipeError,
        "which experts of family animatediff have",
    ),
    "half": ({"unet.conv_in.lora_A.weight": 1}, WeightsError, "conv_in: one half of it is missing"),
}


@pytest.mark.parametrize("what", ODD)
def test_what_is_no_lora_for_this_network(folders: dict[str, Path], tmp_path: Path, what: str) -> None:
    names, kind, message = ODD[what]
    file = originals.written(tmp_path / "it.safetensors", {name: torch.zeros(1, 1) for name in names})
    with pytest.raises(kind, match=message):
        load("it", "stable-diffusion", str(folders["stable-diffusion"]), loras=[Lora(str(file))])


@pytest.mark.parametrize("turned", [False, True], ids=["another", "turned"])
def test_a_lora_of_another_size(folders: dict[str, Path], tmp_path: Path, turned: bool) -> None:
    """As many numbers in another shape are another layer's, too."""
    ours = tiny.unet2d().conv_in.weight.flatten(1).shape
    rows, columns = (ours[1], ours[0]) if turned else (3, 5)
    tensors = {
        "unet.conv_in.lora_A.weight": torch.zeros(1, columns),
        "unet.conv_in.lora_B.weight": torch.zeros(rows, 1),
    }
    file = originals.written(tmp_path / "it.safetensors", tensors)
    says = rf"layer unet:conv_in: it changes \({rows}, {columns}\) numbers, and this layer has"
    with pytest.raises(RecipeError, match=says):
        load("it", "stable-diffusion", str(folders["stable-diffusion"]), loras=[Lora(str(file))])


def test_a_transformer_lora_that_diffusers_does_not_read(folders: dict[str, Path], tmp_path: Path) -> None:
    file = originals.written(tmp_path / "it.safetensors", {"diffusion_model.odd.thing": torch.zeros(1)})
    with pytest.raises(WeightsError, match="no LoRA that diffusers reads for family 'wan'"):
        load("it", "wan", str(folders["wan"]), loras=[Lora(str(file))])


def test_a_lora_that_is_nowhere(folders: dict[str, Path], tmp_path: Path) -> None:
    folder = str(folders["stable-diffusion"])
    with pytest.raises(WeightsError, match=r"no LoRA 'nobody/style'.*say OWNER/REPO/FILE"):
        load("it", "stable-diffusion", folder, loras=[Lora("nobody/style")])
    for name in ("a", "b"):
        originals.written(tmp_path / f"{name}.safetensors", {"x": torch.zeros(1)})
    with pytest.raises(WeightsError, match=r"is a folder with a\.safetensors, b\.safetensors; name"):
        load("it", "stable-diffusion", folder, loras=[Lora(str(tmp_path))])
