"""Training of the U-Net and of the autoencoder: one loop, sharded by DeepSpeed, without Ray."""
