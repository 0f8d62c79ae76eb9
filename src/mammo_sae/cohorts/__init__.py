"""One module per dataset, each yielding the same two tables: images and findings."""
