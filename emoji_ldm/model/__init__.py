"""Networks: the U-Net, the own RGBA autoencoder, the moving average of weights."""
