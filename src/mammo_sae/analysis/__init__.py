"""What the codes of an SAE say: probing, interventions, alignment, confounds, truth."""
