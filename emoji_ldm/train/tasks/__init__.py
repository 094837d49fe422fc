"""What is trained: diffusion, DreamBooth and autoencoder tasks, with their batches, losses and exports."""
