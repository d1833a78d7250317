"""docs/community-checkpoints.md: its recipes are planned as they stand, and run on tiny networks in files of the same layouts."""

import re
from pathlib import Path
from typing import Any

import originals
import pytest
import tiny

from dovetail import recipe as recipes
from dovetail import run
from dovetail.errors import WeightsError

PAGE = (Path(__file__).parents[1] / "docs" / "community-checkpoints.md").read_text(encoding="utf-8")
COMMUNITY, BRIDGED = re.findall(r"^```yaml\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
SMALL = {"video.height": 16, "video.width": 16, "video.frames": 4}


def test_the_recipes_are_planned_as_they_stand(
    files: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a folder that has the files which the page says are here; without one of them that is told."""
    with pytest.raises(WeightsError, match=r"no weights file './dreamshaper_8\.safetensors': no such path"):
        run.plan(recipes.parse(COMMUNITY))
    for name, path in files.items():
        if name.startswith("./"):
            (tmp_path / name).symlink_to(path)
    monkeypatch.chdir(tmp_path)
    assert set(run.plan(recipes.parse(COMMUNITY)).counts) == {"control", "spatial", "temporal"}
    plan = run.plan(recipes.parse(BRIDGED))
    shown = re.search(r"^    stage structure: \.\.\.\n(.*?)\n\n", PAGE, re.MULTILINE | re.DOTALL)
    assert shown is not None
    printed = [line.strip() for line in shown[1].splitlines() if "stage refine" not in line]
    assert printed == [line.strip() for stage in plan.stages for line in run.bridging.described(plan, stage.name)]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Tiny checkpoints, by the names that the page uses."""
    root = tmp_path_factory.mktemp("page")
    unet = tiny.unet2d()
    image = {name: layer for name, layer in unet.named_modules() if name.endswith(("to_q", "to_v"))}

    def old(name: str) -> tuple[str, str]:
        stem, _, last = name.rpartition(".")
        return tuple(f"{stem}.processor.{last}_lora.{way}.weight" for way in ("down", "up"))  # type: ignore[return-value]

    def kohya(name: str) -> tuple[str, str]:
        return tuple(f"lora_unet_{name.replace('.', '_')}.lora_{way}.weight" for way in ("down", "up"))  # type: ignore[return-value]

    made = {
        "./dreamshaper_8.safetensors": originals.stable_diffusion(root / "dreamshaper_8.safetensors"),
        "guoyww/animatediff/v3_sd15_mm.ckpt": originals.written(
            root / "v3_sd15_mm.ckpt", originals.motion(tiny.motion_adapter())
        ),
        "guoyww/animatediff/v3_sd15_adapter.ckpt": originals.written(
            root / "v3_sd15_adapter.ckpt", originals.lora_of(image, old)
        ),
        "./style.safetensors": originals.written(root / "style.safetensors", originals.lora_of(image, kohya)),
        "cerspense/zeroscope_v2_576w": tiny.text_to_video_sd(root / "zeroscope"),
        "./vae-ft-mse-840000-ema-pruned.safetensors": originals.written(
            root / "vae-ft-mse.safetensors", originals.vae(tiny.vae(), "")
        ),
        "Wan-AI/Wan2.1-T2V-1.3B-Diffusers": tiny.wan(root / "wan"),
        "base": tiny.stable_diffusion(root / "base"),
    }
    return {name: str(path) for name, path in made.items()}


def made_of(text: str, files: dict[str, str], **changes: Any) -> recipes.Recipe:
    """A recipe of the page over tiny files, in full precision on the CPU."""
    recipe = recipes.parse(text)
    found: dict[str, Any] = {path: files[name] for path, name in recipes.weights_in(recipe).items()}
    for path, name in recipes.weights_in(recipe).items():
        owner, _, key = path.rpartition(".")
        if key == "weights" and ".loras." not in path:
            found |= {f"{owner}.device": "cpu", f"{owner}.dtype": "float32"}
            found |= {f"{owner}.base": files["base"]} if name.startswith("./") else {}
    return recipes.changed(recipe, {**found, **changes})


def test_the_community_recipe_runs(files: dict[str, str]) -> None:
    short = {"chain.structure.ladder.trailing.steps": 2, "chain.refine.ladder.below.steps": 1}
    recipe = made_of(COMMUNITY, files, **SMALL, **short)
    assert run.finished(run.play(recipe)).frames.shape == (4, 16, 16, 3)


def test_the_bridged_recipe_runs(files: dict[str, str]) -> None:
    short = {"chain.structure.ladder.own.steps": 2, "chain.refine.ladder.below.steps": 1, "chain.refine.window": 2}
    sides = {"chain.structure.height": 16, "chain.structure.width": 32}
    recipe = made_of(BRIDGED, files, **SMALL, **short, **sides)
    assert run.finished(run.play(recipe)).frames.shape == (4, 16, 16, 3)
