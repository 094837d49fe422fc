"""Recipe of the starter model: openly licensed emoji at 64 px, an autoencoder and a text-conditioned latent model."""
