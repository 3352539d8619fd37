"""Files that run on devices, each from the integer model and verified against it."""
