"""Keras files, as modules of stock PyTorch layers. Needs the extra ``keras``."""
