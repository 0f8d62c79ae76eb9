"""Training variants: how each finds its active latents, its loss and its gradients."""
