"""The optimisers behind `train.optimizer`, and their state as checkpoints store it."""
