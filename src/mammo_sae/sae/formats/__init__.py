"""SAEs of others, and ours in the layouts of others."""
