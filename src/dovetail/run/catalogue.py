"""Families of experts and the weights that shipped recipes use, listed."""

from pathlib import Path

from dovetail import recipe as recipes
from dovetail.errors import WeightsError
from dovetail.recipe import models

FAMILIES_SAID = {
    "stable-diffusion": "UNet2DConditionModel, one frame at a time: Stable Diffusion 1.x and 2.x",
    "animatediff": "UNetMotionModel: AnimateDiff and AnimateDiff-Lightning",
    "text-to-video-sd": "UNet3DConditionModel: ModelScope text-to-video, zeroscope v2",
    "lavie": "LaVieUNet, dovetail's own: LaVie's base model, by its file over Stable Diffusion 1.4's folder",
    "wan": "WanTransformer3DModel: Wan 2.1 of both sizes, and each expert of Wan 2.2 A14B by its subfolder",
    "ltx": "LTXVideoTransformer3DModel: LTX-Video 2B and 13B",
    "cogvideox": "CogVideoXTransformer3DModel: CogVideoX 2B and 5B",
    "exact": "closed-form denoisers of finite sets of sprite renders; no weights",
}
"""What each family of experts is."""


def weights_used() -> list[str]:
    """One line for each weights that a shipped recipe names: where they are, their size and licence, who uses them."""
    users: dict[tuple[str, str], list[str]] = {}
    for name in recipes.names():
        recipe = recipes.load(name)
        for spec in recipe.experts.values():
            if isinstance(spec, models.Pretrained):
                users.setdefault((spec.weights, spec.family), []).append(name)
        if isinstance(recipe.codec, models.Autoencoder):
            users.setdefault((recipe.codec.weights, "codec"), []).append(name)
    return [
        f"{weights} ({family}): {_whereabouts(weights)}; used by {', '.join(by)}"
        for (weights, family), by in sorted(users.items())
    ]


def _whereabouts(weights: str) -> str:
    from dovetail.experts.checkpoint import Checkpoint, find
    from dovetail.experts.published import PUBLISHED

    local = weights.startswith("sprites/") or Path(weights).expanduser().is_dir()
    if not local:
        licences = {name: told.licence for (name, _), told in PUBLISHED.items()}
        return f"on the hub, {licences.get(weights, 'licence in its model card')}"
    try:
        found = find(weights, None, None, [])
        assert isinstance(found, Checkpoint)
    except WeightsError as error:
        return f"missing ({error})"
    size = sum(file.stat().st_size for file in found.path.rglob("*") if file.is_file()) / 2**20
    return f"{size:.1f} MB, " + (
        "packaged, Apache-2.0" if weights.startswith("sprites/") else "licence in its model card"
    )
