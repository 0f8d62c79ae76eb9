"""Phrases and their embeddings, in the joint space of an image encoder and a text encoder."""
