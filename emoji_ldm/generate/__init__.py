"""Sampling images from a latent diffusion model, offline and as a service."""
