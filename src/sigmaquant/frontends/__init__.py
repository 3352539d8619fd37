"""Where models and data come from when they are named by text."""
