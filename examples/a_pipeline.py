"""FlowBlending as a diffusers pipeline: components in, videos out. The small expert is the large one without a block.

Real weights come the same way: docs/pipelines.md.
"""

from copy import deepcopy
from pathlib import Path

import torch
from diffusers import AutoencoderKL, UniPCMultistepScheduler, WanTransformer3DModel
from transformers import CLIPTextModel, CLIPTokenizer

import dovetail
from dovetail.pipelines import FlowBlendingPipeline
from dovetail.video import Video

sprites = Path(dovetail.__file__).parent / "sprites" / "weights"
folder = sprites / "flow-large"

large = WanTransformer3DModel.from_pretrained(folder / "transformer")
small = deepcopy(large)
del small.blocks[1]

pipe = FlowBlendingPipeline(
    vae=AutoencoderKL.from_pretrained(sprites / "vae"),
    text_encoder=CLIPTextModel.from_pretrained(folder / "text_encoder", dtype=torch.float32),
    tokenizer=CLIPTokenizer.from_pretrained(folder / "tokenizer"),
    scheduler=UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0),
    transformer=large,
    small_transformer=small,
)
pipe.set_progress_bar_config(disable=True)

prompt = "a dotted red circle moving right on a teal striped background"
asked = {"height": 64, "width": 64, "num_frames": 16, "num_inference_steps": 10, "guidance_scale": 3.0}
for words, who in pipe.recipe(prompt, **asked).chain[0].denoise.of.items():
    print(f"{words}: {who.expert}")  # shares of noise, after the first 40 % and before the last 20 % of steps

out = pipe(prompt, generator=torch.Generator().manual_seed(6), output_type="pt", **asked)
video = Video.of(out.frames * 2 - 1, fps=8)
video.save("out/pipeline.gif")
