"""The SAE variants: each defines its active latents, its loss and its gradients."""
