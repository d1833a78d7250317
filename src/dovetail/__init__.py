"""Training-free video generation by joining pretrained diffusion experts."""
