"""One module per family of networks, which runs them."""
