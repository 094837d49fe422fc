"""Images and captions as cached tensors: VAE (pixels <-> latents), text encoder (captions -> states), cache."""
