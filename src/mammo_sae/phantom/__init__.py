"""A synthetic cohort whose lesions, confounders and odds ratios are known."""
