"""Families of experts and the weights that shipped recipes use, listed."""

from collections.abc import Iterator, Sequence

from dovetail import recipe as recipes
from dovetail.errors import WeightsError
from dovetail.experts.hub import Want, cached
from dovetail.recipe import Recipe, models
from dovetail.run.bridging import codecs_of

FAMILIES_SAID = {
    "stable-diffusion": "UNet2DConditionModel, one frame at a time: Stable Diffusion 1.x and 2.x",
    "animatediff": "UNetMotionModel: AnimateDiff and AnimateDiff-Lightning",
    "text-to-video-sd": "UNet3DConditionModel: ModelScope text-to-video, zeroscope v2",
    "lavie": "LaVieUNet, dovetail's own: LaVie's base model, by its file over Stable Diffusion 1.4's folder",
    "wan": "WanTransformer3DModel: Wan 2.1 of both sizes, and each expert of Wan 2.2 A14B by its subfolder",
    "ltx": "LTXVideoTransformer3DModel: LTX-Video 2B and 13B",
    "cogvideox": "CogVideoXTransformer3DModel: CogVideoX 2B and 5B",
    "open-sora-plan": "OpenSoraT2V_v1_3, dovetail's own: Open-Sora Plan v1.3, which reads with mT5-XXL",
    "exact": "closed-form denoisers of finite sets of sprite renders; no weights",
}
"""What each family of experts is."""


def weights_used() -> list[str]:
    """One line for each set of weights that shipped recipes name, adapters included: what it is used as, how much of it is
    on this machine, its licence, and the recipes that use it."""
    from dovetail.run.wants import shipped

    roles: dict[str, dict[str, None]] = {}
    users: dict[str, dict[str, None]] = {}
    for name in recipes.names():
        for weights, role in _named(recipes.load(name)):
            roles.setdefault(weights, {})[role] = None
            users.setdefault(weights, {})[name] = None
    taken: dict[str, list[Want]] = {}
    for want in shipped():
        taken.setdefault(str(want), []).append(want)
    return [
        f"{weights} ({', '.join(roles[weights])}): {_whereabouts(weights, taken.get(weights, []))}; "
        f"used by {', '.join(users[weights])}"
        for weights in sorted(roles)
    ]


def _named(recipe: Recipe) -> Iterator[tuple[str, str]]:
    """The weights that a recipe names, and as what."""
    from dovetail.experts.loading import words_of

    for spec in recipe.experts.values():
        if isinstance(spec, models.Pretrained):
            yield spec.weights, spec.family
            if (apart := words_of(spec.family, spec.weights, spec.words)) is not None:
                yield apart[0], f"words of {spec.family}"
            if spec.adapter is not None:
                yield spec.adapter, f"adapter of {spec.family}"
            yield from ((lora.weights, f"LoRA of {spec.family}") for lora in spec.loras)
    yield from (
        (codec.weights, "codec") for codec in codecs_of(recipe).values() if isinstance(codec, models.Autoencoder)
    )


def _whereabouts(weights: str, taken: Sequence[Want]) -> str:
    """How much of weights is here, and their licence. taken: what recipes take of them, of the hub."""
    from dovetail.experts.checkpoint import Checkpoint, Location, find
    from dovetail.experts.shelf import licence_of
    from dovetail.run.wants import state

    if taken:
        variants = (f"variant {want.variant} " if want.variant and len(taken) > 1 else "" for want in taken)
        here = (f"{variant}{state(cached(want))}" for variant, want in zip(variants, taken, strict=True))
        return f"{'; '.join(here)}; {licence_of(taken[0].repo)}"
    try:
        found = find(Location(weights), [])
        assert isinstance(found, Checkpoint)
    except WeightsError as error:
        return f"missing ({error})"
    size = sum(file.stat().st_size for file in found.path.rglob("*") if file.is_file()) / 2**20
    return f"{size:.1f} MB, packaged, Apache-2.0"
