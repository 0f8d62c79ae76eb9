"""Sparse autoencoders: variants, training, quality, codes."""
