"""Prompts and seeds to emoji: noise per seed, the sampler, PNG files with their settings inside."""
