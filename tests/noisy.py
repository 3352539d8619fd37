"""The tiny network, from a file that prints on standard output in every way there is."""

from __future__ import annotations

import ctypes
import os

from tiny import test_data, train_data, trained, validation_data

__all__ = ["test_data", "train_data", "trained", "validation_data"]

print("python prints this")
os.write(1, b"the system prints this\n")
ctypes.CDLL(None).printf(b"C prints this, as solvers do\n")
