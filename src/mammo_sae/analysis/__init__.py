"""Analyses of SAE codes: quality, latents, probes, interventions, alignment, confounds, truth."""
