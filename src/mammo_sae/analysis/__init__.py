"""Probing, interventions, alignment, confounds, and the statistics they share."""
