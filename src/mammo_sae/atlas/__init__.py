"""The latent atlas: pages that a browser opens from a folder, without a server or a network."""
