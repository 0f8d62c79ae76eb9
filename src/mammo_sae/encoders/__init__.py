"""EfficientNet encoders: checkpoints, layers by name, heads, fine-tuning, extraction."""
