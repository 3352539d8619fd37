"""Quantization-aware training: the loop, its losses, and what judges a network."""
