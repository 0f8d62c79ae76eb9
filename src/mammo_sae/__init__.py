"""mammo-sae shows what a mammography foundation model has learnt. Each step is a function."""
