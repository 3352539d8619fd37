"""ONNX files of float networks, as modules of stock PyTorch layers. Needs the extra ``onnx``."""
