"""Encoder: latent phenotypes of FA maps by a convolutional autoencoder, without labels."""
