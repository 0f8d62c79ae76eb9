"""One module per kind of encoder source, each with a function `read`."""
