"""Pictures and captions as cached tensors: codec (pixels <-> latents), text (captions -> states), cache."""
