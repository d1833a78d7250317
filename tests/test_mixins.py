"""The pipelines under diffusers' own tests of pipelines, which its wheel does not have: where DIFFUSERS_CHECKOUT names a
checkout of github.com/huggingface/diffusers (as 58eb52c), its mixins run here; what needs an accelerator skips itself. Its
marks are not ours, so: pytest -o addopts= -W ignore tests/test_mixins.py."""

import importlib
import os
import sys
from copy import deepcopy
from typing import Any

import diffusers
import pytest
import torch
from test_pipelines import KINDS, made
from torch import nn

CHECKOUT = os.environ.get("DIFFUSERS_CHECKOUT")
if CHECKOUT is None:
    pytest.skip("DIFFUSERS_CHECKOUT names no checkout of diffusers", allow_module_level=True)
sys.path.insert(0, CHECKOUT)
common, memory = (importlib.import_module(f"tests.pipelines.testing_utils.{name}") for name in ("common", "memory"))


def asked(kind: str) -> dict[str, Any]:
    """What the mixins ask a class of tests for."""
    pipeline, _, scalars, small = KINDS[kind]
    # One of the mixins' tests looks classes up by name in diffusers.
    setattr(diffusers.pipelines, pipeline.__name__, pipeline)
    alone = {name: value for name, value in scalars.items() if isinstance(value, int | float)}

    def components(self: Any) -> dict[str, Any]:
        torch.manual_seed(0)
        parts = {n: deepcopy(part) if isinstance(part, nn.Module) else part for n, part in made(kind).items()}
        return {**dict.fromkeys(pipeline._optional_components), **parts, **alone}

    def inputs(self: Any) -> dict[str, Any]:
        texts = {"prompt": "a red circle", "negative_prompt": "a dot", "guidance_scale": 4.0}
        return {**texts, "generator": self.get_generator(0), "output_type": "pt", **small}

    return {
        "pipeline_class": pipeline,
        "required_input_params_in_call_signature": frozenset(
            [
                "prompt",
                "height",
                "width",
                "guidance_scale",
                "negative_prompt",
                "prompt_embeds",
                "negative_prompt_embeds",
            ]
        ),
        "optional_input_params": frozenset(
            ["num_inference_steps", "num_videos_per_prompt", "generator", "latents", "output_type", "return_dict"]
        ),
        "batch_input_params": frozenset(["prompt"]),
        "callback_cfg_params": frozenset(),
        "output_shape": (small["num_frames"], 3, small["height"], small["width"]),
        "get_dummy_components": components,
        "get_dummy_inputs": inputs,
    }


MIXINS = (common.PipelineTesterMixin, memory.GroupOffloadTesterMixin, memory.LayerwiseCastingTesterMixin)
for kind in KINDS:
    config = type(kind, (common.BasePipelineTesterConfig,), asked(kind))
    for mixin in MIXINS:
        name = f"Test_{kind}_{mixin.__name__}"
        globals()[name] = type(name, (config, mixin), {})
del config
