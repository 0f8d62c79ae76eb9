"""What a mammography foundation model has learnt, one step of the workflow a function."""
