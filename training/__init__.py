"""Training of the built-in nano models: the picture world, the networks, export, measurement."""
