"""Sparse autoencoders (SAEs): variants, training, codes."""
