"""The methods as diffusers pipelines, for those who know diffusers: components in, a recipe and its engine inside.

Importing this imports diffusers and transformers. docs/pipelines.md shows how they are used.
"""

from dovetail.pipelines.asking import seed_of
from dovetail.pipelines.confiner import ConFinerPipeline
from dovetail.pipelines.face import VideoPipelineOutput
from dovetail.pipelines.flowblending import FlowBlendingPipeline
from dovetail.pipelines.syncos import SynCoSPipeline

__all__ = ["ConFinerPipeline", "FlowBlendingPipeline", "SynCoSPipeline", "VideoPipelineOutput", "seed_of"]
