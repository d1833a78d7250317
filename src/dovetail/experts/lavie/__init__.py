"""LaVie's base network (Wang et al., 2023, arXiv:2309.15103), which diffusers does not have.

Stable Diffusion 1.4's U-Net grown along time: convolutions see single frames, group norms in residual blocks and at the
end the whole clip, and each transformer block attends over time behind its words. Names and shapes of tensors are those
of `lavie_base.pt`, as `base/models` of github.com/Vchitect/LaVie (6ce851e) makes them.
"""
