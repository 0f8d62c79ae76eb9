"""One module per family of networks: layers and positions of cells, without torch."""
