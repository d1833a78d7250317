"""What is written down of the repositories that recipes name, for where the hub is not asked: licences, sizes, commits.

Sizes are those of the files that dovetail takes, as the hub's own pages list them (huggingface.co/OWNER/REPO/tree/main,
read in 2026), or where a page was not to be had, parameters times bytes; `dovetail models size` asks the hub itself.
The commit is one under which public code names the repository, in a pin, an address or the path of a cache (for Wan 2.2
A14B: MLCommons' inference benchmark): none is written down that no such place ties to it. It can be given as a recipe's
`revision`. Recipes do not give it: a revision is one repository's, weights are meant to be replaced, and who has another
commit in the cache would need the network to play what plays.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches

from dovetail.experts.lavie import facts as lavie
from dovetail.experts.opensora import facts as opensora


@dataclass(frozen=True)
class Shelved:
    """A repository. parts: gigabytes by folder ("" is the top), "FOLDER.VARIANT" or file. forbids: what its licence does
    not allow, where that stops many."""

    licence: str
    parts: Mapping[str, float] = field(repr=False)
    commit: str | None = None
    forbids: str = ""

    def knows(self, part: str, variant: str | None = None) -> bool:
        """Whether the size of a folder or file is written down."""
        return _key(part, variant) in self.parts

    def size(self, parts: tuple[str, ...], variant: str | None = None) -> float | None:
        """Gigabytes of these folders or files; None where one that holds weights is not written down.

        >>> SHELF["stable-diffusion-v1-5/stable-diffusion-v1-5"].size(("unet", "vae", "tokenizer"), "fp16")
        1.887
        """
        heavy = [
            part for part in parts if part not in ("tokenizer", "scheduler") and not part.endswith((".json", ".model"))
        ]
        found = [self.parts.get(_key(part, variant)) for part in heavy]
        return None if None in found else round(sum(size for size in found if size is not None), 3)


def _key(part: str, variant: str | None) -> str:
    return f"{part}.{variant}" if variant else part


_APACHE, _OPENRAIL = "Apache-2.0", "CreativeML OpenRAIL-M"
_COGVIDEOX = "CogVideoX licence, see its model card"
_IMAGE_VAE = {"vae": 0.335, "vae.fp16": 0.167}
_UMT5, _T5 = 22.7, 19.05
_WAN_14B = 57.15
_COGVIDEOX_2B = {"transformer": 3.39, "text_encoder": 9.52, "vae": 0.431}
_COGVIDEOX_2B_AT = "1137dacfc2c9c012bed6a0793f4ecf2ca8e7ba01"
_COGVIDEOX_5B = {**_COGVIDEOX_2B, "transformer": 11.14}
_LTX, _LTX_13B = "LTXV Open Weights, see its model card", {"transformer": 26.09, "text_encoder": _T5, "vae": 2.49}
_LTX_FILES = dict.fromkeys(("ltxv-2b-0.9.8-distilled.safetensors", "ltxv-2b-0.9.6-dev-04-25.safetensors"), 6.34)
_MOTION = "Apache-2.0, says AnimateDiff's repository"
_LIGHTNING = {f"animatediff_lightning_{steps}step_diffusers.safetensors": 0.908 for steps in (1, 2, 4, 8)}

SHELF: dict[str, Shelved] = {
    "stable-diffusion-v1-5/stable-diffusion-v1-5": Shelved(
        _OPENRAIL,
        {"unet": 3.44, "unet.fp16": 1.72, "text_encoder": 0.492, "text_encoder.fp16": 0.246, **_IMAGE_VAE},
        "451f4fe16113bff5a5d2269ed5ad43b0592e9a14",
    ),
    "ByteDance/AnimateDiff-Lightning": Shelved(_OPENRAIL, _LIGHTNING, "027c893eec01df7330f5d4b733bc9485ee02e8b2"),
    "CompVis/stable-diffusion-v1-4": Shelved(
        _OPENRAIL,
        {"unet": 3.44, "text_encoder": 0.492, "vae": 0.335},
        "133a221b8aa7292a167afc5127cb63fb5005638b",
    ),
    "YaohuiW/LaVie": Shelved(lavie.LICENCE, {"lavie_base.pt": 3.64}),
    "ali-vilab/text-to-video-ms-1.7b": Shelved(
        "CC-BY-NC-4.0",
        {"unet": 5.65, "unet.fp16": 2.82, "text_encoder": 1.362, "text_encoder.fp16": 0.681, **_IMAGE_VAE},
        "8227dddca75a8561bf858d604cc5dae52b954d01",
        forbids="commercial use",
    ),
    "Wan-AI/Wan2.1-T2V-14B-Diffusers": Shelved(
        _APACHE,
        {"transformer": _WAN_14B, "text_encoder": _UMT5, "vae": 0.508},
        "38ec498cb3208fb688890f8cc7e94ede2cbd7f68",
    ),
    "Wan-AI/Wan2.1-T2V-1.3B-Diffusers": Shelved(
        _APACHE,
        {"transformer": 5.68, "text_encoder": _UMT5, "vae": 0.508},
        "0fad780a534b6463e45facd96134c9f345acfa5b",
    ),
    "Wan-AI/Wan2.2-T2V-A14B-Diffusers": Shelved(
        _APACHE,
        {"transformer": _WAN_14B, "transformer_2": _WAN_14B, "text_encoder": 11.36, "vae": 0.508},
        "5be7df9619b54f4e2667b2755bc6a756675b5cd7",
    ),
    "Lightricks/LTX-Video-0.9.7-dev": Shelved(_LTX, _LTX_13B, "2101082f5eb5540770a2df43747feadb6f69b889"),
    "Lightricks/LTX-Video-0.9.5": Shelved(
        "OpenRAIL-M",
        {"transformer": 3.85, "text_encoder": _T5, "vae": 2.49},
        "e58e28c39631af4d1468ee57a853764e11c1d37e",
    ),
    "THUDM/CogVideoX-2b": Shelved(_APACHE, _COGVIDEOX_2B, _COGVIDEOX_2B_AT),
    "zai-org/CogVideoX-2b": Shelved(_APACHE, _COGVIDEOX_2B, _COGVIDEOX_2B_AT),
    opensora.REPO: Shelved(opensora.LICENCE, {opensora.PART: 11.09, "vae": 1.03}),
    opensora.WORDS: Shelved(_APACHE, {"pytorch_model.bin": 51.7}),
    # What follows is in no shipped recipe; without sizes where no page was to be had and the precision is not known.
    "THUDM/CogVideoX-5b": Shelved(_COGVIDEOX, _COGVIDEOX_5B, "8d6ea3f817438460b25595a120f109b88d5fdfad"),
    "zai-org/CogVideoX-5b": Shelved(_COGVIDEOX, _COGVIDEOX_5B),
    "Lightricks/LTX-Video-0.9.7-distilled": Shelved(_LTX, _LTX_13B),
    "Lightricks/LTX-Video-0.9.8-13B-distilled": Shelved(_LTX, _LTX_13B),
    "Lightricks/LTX-Video": Shelved(_LTX, _LTX_FILES, "8984fa25007f376c1a299016d0957a37a2f797bb"),
    "Wan-AI/Wan2.2-TI2V-5B-Diffusers": Shelved(_APACHE, {}, "b8fff7315c768468a5333511427288870b2e9635"),
    "cerspense/zeroscope_v2_576w": Shelved(
        "CC-BY-NC-4.0", {}, "6963642a64dbefa93663d1ecebb4ceda2d9ecb28", forbids="commercial use"
    ),
    "cerspense/zeroscope_v2_XL": Shelved("CC-BY-NC-4.0", {}, forbids="commercial use"),
    "guoyww/animatediff": Shelved(
        _MOTION,
        {"mm_sd_v15_v2.ckpt": 1.82, "v3_sd15_mm.ckpt": 1.67},
        "cd71ae134a27ec6008b968d6419952b0c0494cf2",
    ),
    "guoyww/animatediff-motion-adapter-v1-5-2": Shelved(
        _MOTION, {"": 1.82}, "6167b88ffe39b4441fdf2113e77b99a6f56b7906"
    ),
    "guoyww/animatediff-motion-adapter-v1-5-3": Shelved(_MOTION, {"": 1.67}),
}
"""By hub id."""


def meant(repo: str) -> str:
    """The end of a sentence about a repository that is not written down: the one that is spelt nearly so, if any.

    >>> meant("Wan-AI/Wan2.1-T2V-14B-Difusers"), meant("someone/model")
    (" (did you mean 'Wan-AI/Wan2.1-T2V-14B-Diffusers'?)", '')
    """
    close = [] if repo in SHELF else get_close_matches(repo, SHELF, n=1, cutoff=0.8)
    return f" (did you mean '{close[0]}'?)" if close else ""


def licence_of(repo: str) -> str:
    """The licence of a repository's weights, and what it forbids."""
    told = SHELF.get(repo)
    if told is None:
        return "licence in its model card"
    return told.licence + (f", which forbids {told.forbids}" if told.forbids else "")
