"""Open-Sora Plan v1.3's network (Lin et al., 2024, arXiv:2412.00131), which diffusers does not have.

A transformer over tokens of a latent frame's 2x2 cells. Most of its blocks let a token meet every fourth one only, in two
ways that take turns (`attention`), and tokens are told where they lie by turning queries and keys (`places`). Names and
shapes of tensors are those of the published shards, as `opensora/models/diffusion/opensora_v1_3` of
github.com/PKU-YuanGroup/Open-Sora-Plan (f7fa604) makes them; docs/open-sora-plan.md has every fact with its source.
"""
