"""Analyses of an SAE's codes: quality, probing, interventions, alignment, confounds, truth."""
