"""Sparse autoencoders: variants, training, codes."""
