"""A simulated cohort with known lesions, confounders and odds ratios."""
