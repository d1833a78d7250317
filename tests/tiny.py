"""Tiny checkpoints on disk: the real architectures, a few thousand random weights, no downloads."""

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderKLCogVideoX,
    AutoencoderKLLTXVideo,
    AutoencoderKLWan,
    CogVideoXDDIMScheduler,
    CogVideoXDPMScheduler,
    CogVideoXTransformer3DModel,
    DDIMScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    LTXVideoTransformer3DModel,
    MotionAdapter,
    UNet2DConditionModel,
    UNet3DConditionModel,
    UNetMotionModel,
    UniPCMultistepScheduler,
    WanTransformer3DModel,
)
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTokenizer,
    MT5Config,
    MT5EncoderModel,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
    UMT5Config,
    UMT5EncoderModel,
)

from dovetail.experts.lavie.attention import Rotary
from dovetail.experts.lavie.unet import LaVieUNet
from dovetail.experts.opensora import facts
from dovetail.experts.opensora.transformer import OpenSoraT2V_v1_3
from dovetail.experts.wfvae.autoencoder import WFVAEModel

CHANNELS, SIZE = 4, 8
"""Channels, and height and width, of a tiny latent."""

CROSS = 8
LETTERS = [chr(c) for c in range(ord("a"), ord("z") + 1)] + list("0123456789,.")

SCHEDULER: Mapping[str, Any] = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "clip_sample": False,
    "set_alpha_to_one": True,
    "steps_offset": 1,
    "timestep_spacing": "trailing",
}


def noise(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(11))


def apart(a: Tensor, b: Tensor) -> float:
    """Relative distance."""
    return float((a - b).norm() / b.norm())


def shapes(module: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}


def grown(make: Callable[[], nn.Module], seed: int, by: float = 0.1) -> Any:
    """A module of this seed, with noise on every weight: as they are made, some layers are zero and would
    hide mistakes."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        module = make()
        for weight in module.parameters():
            weight.add_(torch.randn_like(weight), alpha=by)
    return module.eval()


def clip(limit: int = 77, masked: bool = False) -> tuple[CLIPTokenizer, CLIPTextModel]:
    """A tokenizer of single letters, and a text model of two layers."""
    vocabulary = {"<|startoftext|>": 0, "<|endoftext|>": 1}
    for letter in LETTERS:
        vocabulary[letter] = len(vocabulary)
        vocabulary[letter + "</w>"] = len(vocabulary)
    tokenizer = CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=limit)
    config = CLIPTextConfig(
        vocab_size=len(vocabulary),
        hidden_size=CROSS,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=limit,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
        use_attention_mask=masked,
    )
    return tokenizer, grown(lambda: CLIPTextModel(config), 1, 0.3)


def unet2d() -> UNet2DConditionModel:
    return grown(
        lambda: UNet2DConditionModel(
            block_out_channels=(8, 16),
            layers_per_block=1,
            sample_size=SIZE,
            in_channels=CHANNELS,
            out_channels=CHANNELS,
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
            cross_attention_dim=CROSS,
            attention_head_dim=2,
            norm_num_groups=2,
        ),
        2,
    )


def motion_adapter(longest: int = 32, heads: int = 8) -> MotionAdapter:
    return grown(
        lambda: MotionAdapter(
            block_out_channels=(8, 16),
            motion_layers_per_block=1,
            motion_norm_num_groups=2,
            motion_num_attention_heads=heads,
            motion_max_seq_length=longest,
        ),
        3,
    )


def unet3d() -> UNet3DConditionModel:
    return grown(
        lambda: UNet3DConditionModel(
            block_out_channels=(4, 8),
            norm_num_groups=4,
            down_block_types=("CrossAttnDownBlock3D", "DownBlock3D"),
            up_block_types=("UpBlock3D", "CrossAttnUpBlock3D"),
            cross_attention_dim=CROSS,
            attention_head_dim=2,
            in_channels=CHANNELS,
            out_channels=CHANNELS,
            layers_per_block=1,
            sample_size=SIZE,
        ),
        4,
    )


def vae(seed: int = 5, scaling: float = 0.18215) -> AutoencoderKL:
    return grown(
        lambda: AutoencoderKL(
            block_out_channels=(8, 8),
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
            latent_channels=CHANNELS,
            norm_num_groups=2,
            scaling_factor=scaling,
        ),
        seed,
    )


def save(folder: Path, unet: Any, *, vae: Any = None, limit: int = 77, masked: bool = False, **scheduler: Any) -> Path:
    """A checkpoint in diffusers' layout; keyword arguments change its scheduler config."""
    tokenizer, encoder = clip(limit, masked)
    unet.save_pretrained(folder / "unet")
    encoder.save_pretrained(folder / "text_encoder")
    tokenizer.save_pretrained(folder / "tokenizer")
    DDIMScheduler(**{**SCHEDULER, **scheduler}).save_pretrained(folder / "scheduler")
    if vae is not None:
        vae.save_pretrained(folder / "vae")
    return folder


def stable_diffusion(folder: Path, **scheduler: Any) -> Path:
    return save(folder, unet2d(), vae=vae(), **scheduler)


def animatediff(folder: Path, **scheduler: Any) -> Path:
    """One whole UNetMotionModel; AnimateDiff's betas are linear."""
    whole = UNetMotionModel.from_unet2d(unet2d(), motion_adapter()).eval()
    return save(folder, whole, vae=vae(), **{"beta_schedule": "linear", **scheduler})


def text_to_video_sd(folder: Path, **scheduler: Any) -> Path:
    return save(folder, unet3d(), vae=vae(), **scheduler)


# --- LaVie ------------------------------------------------------------------------------------------------------------

LAVIE: Mapping[str, Any] = {
    "block_out_channels": (40, 80),
    "layers_per_block": 1,
    "cross_attention_dim": CROSS,
    "attention_head_dim": 1,
    "norm_num_groups": 4,
}
"""Heads of 40 and of 80 numbers, of which the real network's 32 are turned."""


def lavie_unet() -> LaVieUNet:
    """With the frequencies of the real one, which are no weights."""
    network = grown(lambda: LaVieUNet(**LAVIE), 12)
    with torch.no_grad():
        for part in network.modules():
            if isinstance(part, Rotary):
                part.freqs.copy_(Rotary().freqs)
    return network


def image_unet() -> UNet2DConditionModel:
    """The image network that `lavie_unet` grew out of."""
    kinds = {
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    }
    return grown(lambda: UNet2DConditionModel(sample_size=SIZE, **kinds, **LAVIE), 13)


def lavie(folder: Path, **scheduler: Any) -> Path:
    """One whole LaVieUNet."""
    betas = {"beta_schedule": "linear", "beta_start": 1e-4, "beta_end": 0.02}
    return save(folder, lavie_unet(), vae=vae(), **{**betas, **scheduler})


def lavie_published(folder: Path) -> tuple[Path, Path]:
    """LaVie's file, and beside it the folder of Stable Diffusion 1.4, of whose image network only the config is there."""
    image = save(folder / "stable-diffusion-v1-4", image_unet(), vae=vae())
    next((image / "unet").glob("*.safetensors")).unlink()
    scheduler = {"_class_name": "PNDMScheduler", "set_alpha_to_one": False, "skip_prk_steps": True}
    config = {**{name: value for name, value in SCHEDULER.items() if name != "timestep_spacing"}, **scheduler}
    (image / "scheduler" / "scheduler_config.json").write_text(json.dumps(config))
    torch.save({"ema": lavie_unet().state_dict()}, folder / "lavie_base.pt")
    return folder / "lavie_base.pt", image


# --- flow matching: Wan and LTX-Video ---------------------------------------------------------------------------------

WAN: Mapping[str, Any] = {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": 3.0}
"""The scheduler config of Wan 2.1 at 480p."""

LTX: Mapping[str, Any] = {
    "use_dynamic_shifting": True,
    "base_shift": 0.95,
    "max_shift": 2.05,
    "base_image_seq_len": 1024,
    "max_image_seq_len": 4096,
    "shift_terminal": 0.1,
}
"""The scheduler config of LTX-Video up to 0.9.1."""

WIDE = 16
"""Width of the tiny text models below."""


def t5(multilingual: bool = False) -> tuple[T5Tokenizer, Any]:
    """A tokenizer of single letters, and a T5 or UMT5 encoder of two layers."""
    vocabulary = [
        ("<pad>", 0.0),
        ("</s>", 0.0),
        ("<unk>", 0.0),
        ("\u2581", -2.0),
        *((letter, -3.0) for letter in LETTERS),
    ]
    options = {
        "vocab_size": len(vocabulary),
        "d_model": WIDE,
        "d_kv": 4,
        "d_ff": 24,
        "num_layers": 2,
        "num_heads": 2,
        "relative_attention_num_buckets": 8,
        "decoder_start_token_id": 0,
    }
    tokenizer = T5Tokenizer(vocab=vocabulary, extra_ids=0)
    if multilingual:
        return tokenizer, grown(lambda: UMT5EncoderModel(UMT5Config(**options)), 6, 0.3)
    return tokenizer, grown(lambda: T5EncoderModel(T5Config(**options)), 6, 0.3)


def wan_transformer(
    layers: int = 1, heads: int = 2, channels: int = CHANNELS, text: int = WIDE
) -> WanTransformer3DModel:
    """`layers` and `heads` are what tells Wan's sizes apart."""
    return grown(
        lambda: WanTransformer3DModel(
            num_attention_heads=heads,
            attention_head_dim=12,
            in_channels=channels,
            out_channels=CHANNELS,
            text_dim=text,
            freq_dim=16,
            ffn_dim=24,
            num_layers=layers,
            rope_max_seq_len=32,
        ),
        7 + layers,
    )


def ltx_transformer(layers: int = 1, heads: int = 2) -> LTXVideoTransformer3DModel:
    return grown(
        lambda: LTXVideoTransformer3DModel(
            in_channels=CHANNELS,
            out_channels=CHANNELS,
            num_attention_heads=heads,
            attention_head_dim=8,
            cross_attention_dim=8 * heads,
            num_layers=layers,
            caption_channels=WIDE,
        ),
        17 + layers,
    )


def wan_vae(seed: int = 8, mean: float = 0.3) -> AutoencoderKLWan:
    """8x along height and width, 4x along time, as the real one."""
    return grown(
        lambda: AutoencoderKLWan(
            base_dim=4,
            z_dim=CHANNELS,
            dim_mult=[1, 1, 1, 1],
            num_res_blocks=1,
            latents_mean=[mean, -0.2, 0.1, 0.0],
            latents_std=[1.5, 0.5, 2.0, 1.0],
        ),
        seed,
    )


def ltx_vae(conditioned: bool = False, noisy: bool = False) -> AutoencoderKLLTXVideo:
    """32x along height and width, 8x along time, as the real one. conditioned: its decoder is told a timestep, as
    that of 0.9.1; noisy: it draws noise of its own, as that one."""
    vae = grown(
        lambda: AutoencoderKLLTXVideo(
            latent_channels=CHANNELS,
            block_out_channels=(8, 8, 8, 8),
            decoder_block_out_channels=(8, 8, 8, 8),
            layers_per_block=(1,) * 5,
            decoder_layers_per_block=(1,) * 5,
            decoder_inject_noise=(noisy,) * 5,
            timestep_conditioning=conditioned,
        ),
        9,
    )
    return _told(vae)


def ltx_vae_late() -> AutoencoderKLLTXVideo:
    """That of 0.9.5 and later, whose last width is the real one: by it diffusers knows how the authors count its blocks."""
    from dovetail.experts.published import LTX_CODEC

    small = {
        "latent_channels": CHANNELS,
        "block_out_channels": (8, 8, 8, 8, 2048),
        "decoder_block_out_channels": (8, 16, 32),
        "layers_per_block": (1, 1, 1, 1, 0),
        "decoder_layers_per_block": (1,) * 4,
    }
    return _told(grown(lambda: AutoencoderKLLTXVideo(**{**LTX_CODEC[1], **small}), 9))


def _told(vae: AutoencoderKLLTXVideo) -> AutoencoderKLLTXVideo:
    """The same, with statistics of its channels."""
    vae.latents_mean.copy_(torch.tensor([0.3, -0.2, 0.1, 0.0]))
    vae.latents_std.copy_(torch.tensor([1.5, 0.5, 2.0, 1.0]))
    return vae


WFVAE: Mapping[str, Any] = {
    "latent_dim": CHANNELS,
    "base_channels": 4,
    "encoder_num_resblocks": 1,
    "encoder_energy_flow_hidden_size": 4,
    "decoder_num_resblocks": 1,
    "decoder_energy_flow_hidden_size": 4,
    "connect_res_layer_num": 2,
}
"""Sizes of a tiny WF-VAE."""


def wfvae(**sizes: Any) -> WFVAEModel:
    """8x along height and width, 4x along time, as the real one."""
    return grown(lambda: WFVAEModel(**{**WFVAE, **sizes}), 12)


def haar() -> dict[str, torch.Tensor]:
    """The filters of WF-VAE's wavelets, by the names that its authors' modules give them: along time, height and width
    the sum (1, 1) or the difference (1, -1), times 0.3536 of a video and 1/2 of frames."""
    one = {"+": torch.tensor([1.0, 1.0]), "-": torch.tensor([1.0, -1.0])}
    video = {"h": "+++", "g": "++-", "hh": "+-+", "gh": "+--", "h_v": "-++", "g_v": "-+-", "hh_v": "--+", "gh_v": "---"}
    flat = {"aa": "++", "ad": "-+", "da": "+-", "dd": "--"}
    found = {}
    for name, (t, h, w) in video.items():
        cells = 0.3536 * torch.einsum("t,h,w->thw", one[t], one[h], one[w])[None, None]
        for place in ("in", "l2"):
            found[f"encoder.wavelet_transform_{place}.{name}_conv.conv.weight"] = cells
        for place in ("out", "l2"):
            found[f"decoder.inverse_wavelet_transform_{place}.{name}"] = cells
    for name, (h, w) in flat.items():
        cells = torch.outer(one[h], one[w])[None, None] / 2
        found |= {f"{side}_transform_l1.{name}": cells for side in ("encoder.wavelet", "decoder.inverse_wavelet")}
    return found


def wfvae_published(folder: Path, how: str = "ema_state_dict") -> Path:
    """A repository with WF-VAE as Open-Sora Plan v1.3's has it: a config and, as training left it, merged.ckpt, with the
    tensors in one of three places (`how`) of it."""
    module = wfvae()
    tensors = {**module.state_dict(), **haar()}
    away = {name: torch.zeros_like(tensor) for name, tensor in tensors.items()}
    spent: dict[str, Any] = {"epoch": 3, "optimizer_state": {"state": {0: {"step": torch.tensor(2.0)}}}}
    states: dict[str, dict[str, Any]] = {
        "ema_state_dict": {
            "state_dict": {"gen_model": away, "dis_model": {"main.0.weight": torch.zeros(3)}},
            "ema_state_dict": {f"module.{name}": tensor for name, tensor in tensors.items()},
        },
        "gen_model": {
            "state_dict": {"gen_model": tensors, "dis_model": {"main.0.weight": torch.zeros(3)}},
            "ema_state_dict": {},
        },
        "state_dict": {"state_dict": {**tensors, "loss.discriminator.main.0.weight": torch.zeros(3)}},
    }
    (folder / "vae").mkdir(parents=True)
    said = {"_class_name": "WFVAEModel", "_diffusers_version": "0.30.2", "dropout": 0.0, "use_attention": True}
    said |= {**WFVAE, "norm_type": "layernorm", "t_interpolation": "trilinear"}
    (folder / "vae" / "config.json").write_text(json.dumps(said))
    torch.save({**spent, **states[how]}, folder / "vae" / "merged.ckpt")
    return folder


def wan(folder: Path, *, layers: int = 1, low: int | None = None, euler: bool = False, **scheduler: Any) -> Path:
    """A repository of Wan 2.1 as diffusers writes it or, with `low` layers in transformer_2/, of Wan 2.2 A14B."""
    from diffusers import WanPipeline  # Takes long to import, and most tests need no pipeline.

    tokenizer, encoder = t5(multilingual=True)
    kind = FlowMatchEulerDiscreteScheduler if euler else UniPCMultistepScheduler
    WanPipeline(
        tokenizer=tokenizer,
        text_encoder=encoder,
        vae=wan_vae(),
        scheduler=kind(**({} if euler else WAN) | scheduler),
        transformer=wan_transformer(layers, 2 * layers),
        transformer_2=None if low is None else wan_transformer(low),
        boundary_ratio=None if low is None else 0.875,
    ).save_pretrained(folder)
    return folder


def ltx(folder: Path, *, layers: int = 1, conditioned: bool = False, **scheduler: Any) -> Path:
    """A repository of LTX-Video as diffusers writes it."""
    from diffusers import LTXPipeline

    tokenizer, encoder = t5()
    LTXPipeline(
        tokenizer=tokenizer,
        text_encoder=encoder,
        vae=ltx_vae(conditioned),
        scheduler=FlowMatchEulerDiscreteScheduler(**{**LTX, **scheduler}),
        transformer=ltx_transformer(layers, 2 * layers),
    ).save_pretrained(folder)
    return folder


# --- v-prediction: CogVideoX ------------------------------------------------------------------------------------------

COGVIDEOX: Mapping[str, Any] = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "prediction_type": "v_prediction",
    "rescale_betas_zero_snr": True,
    "snr_shift_scale": 3.0,
    "set_alpha_to_one": True,
    "clip_sample": False,
    "timestep_spacing": "trailing",
}
"""The scheduler config of CogVideoX 2B; that of 5B has snr_shift_scale 1."""


def cogvideox_transformer(
    rotary: bool = False, layers: int = 1, channels: int = CHANNELS, **options: Any
) -> CogVideoXTransformer3DModel:
    """rotary: positions as in 5B, else as in 2B. Made for 5 latent frames of 6x8 cells."""
    sizes = {"sample_height": 6, "sample_width": 8, "sample_frames": 17} | options
    return grown(
        lambda: CogVideoXTransformer3DModel(
            num_attention_heads=2,
            attention_head_dim=16,
            in_channels=channels,
            out_channels=CHANNELS,
            time_embed_dim=8,
            text_embed_dim=WIDE,
            num_layers=layers,
            use_rotary_positional_embeddings=rotary,
            **sizes,
        ),
        27 + layers,
    )


def cogvideox_vae(scaling: float = 1.15258426) -> AutoencoderKLCogVideoX:
    """8x along height and width, 4x along time, as the real one."""
    return grown(
        lambda: AutoencoderKLCogVideoX(
            down_block_types=("CogVideoXDownBlock3D",) * 4,
            up_block_types=("CogVideoXUpBlock3D",) * 4,
            block_out_channels=(4, 4, 4, 4),
            latent_channels=CHANNELS,
            layers_per_block=1,
            norm_num_groups=2,
            scaling_factor=scaling,
        ),
        10,
    )


def cogvideox(
    folder: Path,
    *,
    rotary: bool = False,
    layers: int = 1,
    dpm: bool = False,
    scaling: float = 1.15258426,
    **scheduler: Any,
) -> Path:
    """A repository of CogVideoX 2B or, `rotary`, 5B as diffusers writes it."""
    from diffusers import CogVideoXPipeline

    tokenizer, encoder = t5()
    kind = CogVideoXDPMScheduler if dpm else CogVideoXDDIMScheduler
    CogVideoXPipeline(
        tokenizer=tokenizer,
        text_encoder=encoder,
        vae=cogvideox_vae(scaling),
        scheduler=kind(**{**COGVIDEOX, **scheduler}),
        transformer=cogvideox_transformer(rotary, layers),
    ).save_pretrained(folder)
    return folder


# --- v-prediction, sparse: Open-Sora Plan -----------------------------------------------------------------------------


def opensora_transformer(layers: int = 4, channels: int = CHANNELS, **options: Any) -> OpenSoraT2V_v1_3:
    """Four blocks: two in which all tokens meet, and one of each kind in which they do not."""
    sizes = {"num_attention_heads": 2, "attention_head_dim": 12, "cross_attention_dim": 24, "caption_channels": WIDE}
    made = {**sizes, "in_channels": channels, "out_channels": channels, "num_layers": layers, **options}
    return grown(lambda: OpenSoraT2V_v1_3(**made), 40 + layers, 0.2)


def mt5() -> tuple[T5Tokenizer, MT5EncoderModel]:
    """T5's tiny tokenizer, and a text model of mT5's kind."""
    tokenizer, _ = t5()
    config = MT5Config(
        vocab_size=len(tokenizer),
        d_model=WIDE,
        d_kv=4,
        d_ff=16,
        num_layers=2,
        num_heads=2,
        feed_forward_proj="gated-gelu",
    )
    return tokenizer, grown(lambda: MT5EncoderModel(config), 44, 0.3)


def open_sora_plan(folder: Path, *, layers: int = 4, apart: Path | None = None) -> Path:
    """The network's folder as Open-Sora Plan's repository has it, with neither scheduler nor autoencoder, and a text model
    beside it, or `apart`, in a folder that holds nothing else."""
    opensora_transformer(layers).save_pretrained(folder / facts.PART)
    tokenizer, encoder = mt5()
    tokenizer.save_pretrained(folder / "tokenizer" if apart is None else apart)
    encoder.save_pretrained(folder / "text_encoder" if apart is None else apart)
    return folder


MAKERS: dict[str, Callable[..., Path]] = {
    "stable-diffusion": stable_diffusion,
    "animatediff": animatediff,
    "text-to-video-sd": text_to_video_sd,
    "lavie": lavie,
    "wan": wan,
    "ltx": ltx,
    "cogvideox": cogvideox,
    "open-sora-plan": open_sora_plan,
}
"""A checkpoint of each family."""


# --- as repositories are published ------------------------------------------------------------------------------------


def words_apart(folder: Path) -> None:
    """CLIP's tokenizer in the files of its time: its words in one, how they join in another."""
    place = folder / "tokenizer"
    model = json.loads((place / "tokenizer.json").read_text())["model"]
    shutil.rmtree(place)
    place.mkdir()
    (place / "vocab.json").write_text(json.dumps(model["vocab"]))
    (place / "merges.txt").write_text("#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in model["merges"]))
    start, end = (
        {"__type": "AddedToken", "content": f"<|{mark}oftext|>", "normalized": True} for mark in ("start", "end")
    )
    marks = {"bos_token": start, "eos_token": end, "pad_token": end["content"], "unk_token": end}
    (place / "special_tokens_map.json").write_text(json.dumps(marks))
    told = {"add_prefix_space": False, "do_lower_case": True, "errors": "replace", "model_max_length": 77, **marks}
    (place / "tokenizer_config.json").write_text(json.dumps({**told, "tokenizer_class": "CLIPTokenizer"}))


def pieces(folder: Path, ids: int = 100) -> None:
    """T5's tokenizer as spiece.model alone, the same pieces in it; ids: marks that come after them."""
    from sentencepiece import sentencepiece_model_pb2

    place = folder / "tokenizer"
    vocabulary = json.loads((place / "tokenizer.json").read_text())["model"]["vocab"]
    shutil.rmtree(place)
    place.mkdir()
    proto, kinds = sentencepiece_model_pb2.ModelProto(), {"<unk>": 2, "<pad>": 3, "</s>": 3}
    for piece, score in vocabulary:
        proto.pieces.add(piece=piece, score=score, type=kinds.get(piece, 1))
    trained = proto.trainer_spec
    trained.model_type, trained.vocab_size = 1, len(vocabulary)
    trained.pad_id, trained.eos_id, trained.unk_id, trained.bos_id = 0, 1, 2, -1
    proto.normalizer_spec.name, proto.normalizer_spec.add_dummy_prefix = "nmt_nfkc", True
    (place / "spiece.model").write_bytes(proto.SerializeToString())
    extra = [f"<extra_id_{i}>" for i in range(ids)]
    places = {mark: len(vocabulary) + ids - 1 - i for i, mark in enumerate(extra)}
    (place / "added_tokens.json").write_text(json.dumps(places))
    marks = {"eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>", "additional_special_tokens": extra}
    (place / "special_tokens_map.json").write_text(json.dumps(marks))
    told = {"clean_up_tokenization_spaces": True, "extra_ids": ids, "legacy": True, "model_max_length": 226, **marks}
    (place / "tokenizer_config.json").write_text(json.dumps({**told, "tokenizer_class": "T5Tokenizer"}))


def nested(folder: Path) -> None:
    """CLIP's tensors as before transformers 5.6: all in text_model, and the numbers of the places among them."""
    (file,) = (folder / "text_encoder").glob("*.safetensors")
    found = {f"text_model.{key.removeprefix('text_model.')}": tensor for key, tensor in load_file(file).items()}
    longest = len(found["text_model.embeddings.position_embedding.weight"])
    found["text_model.embeddings.position_ids"] = torch.arange(longest)[None]
    save_file(found, file, {"format": "pt"})


def asked_in_old_words(folder: Path) -> None:
    """The attention of an autoencoder as diffusers named it until 0.18."""
    (file,) = (folder / "vae").glob("*.safetensors")
    old = {".to_q.": ".query.", ".to_k.": ".key.", ".to_v.": ".value.", ".to_out.0.": ".proj_attn."}

    def renamed(key: str) -> str:
        for now, before in old.items():
            key = key.replace(now, before) if ".attentions." in key else key
        return key

    save_file({renamed(key): tensor for key, tensor in load_file(file).items()}, file, {"format": "pt"})


IMAGE_SPELLINGS: dict[str, Callable[[Path], None]] = {
    "vocab.json and merges.txt": words_apart,
    "text_model.": nested,
    "query, key, value": asked_in_old_words,
}
"""How repositories of Stable Diffusion 1 and their kin spell what `save` spells otherwise."""


def lightning(file: Path) -> Path:
    """Motion modules as AnimateDiff-Lightning ships them: one file of tensors, no config."""
    file.parent.mkdir(parents=True, exist_ok=True)
    save_file(motion_adapter().state_dict(), file)
    return file


def lightning_scheduler() -> EulerDiscreteScheduler:
    """The scheduler that AnimateDiff-Lightning's model card asks for."""
    return EulerDiscreteScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="linear", timestep_spacing="trailing"
    )
