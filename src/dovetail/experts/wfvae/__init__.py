"""WF-VAE (Li et al., 2024, arXiv:2411.17459), the autoencoder of Open-Sora Plan v1.3, which diffusers does not have.

A video of 4k + 1 frames becomes k + 1 latent frames, 8x along height and width. Haar wavelets take the video apart, and
the low band goes on beside the network, past its convolutions. Names and shapes of tensors are those of the authors'
`opensora/models/causalvideovae` (github.com/PKU-YuanGroup/Open-Sora-Plan, f7fa604); what is known of the published
weights, and from where, is in docs/open-sora-plan.md.
"""
