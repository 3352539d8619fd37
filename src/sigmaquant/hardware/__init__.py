"""Devices: what multiplications and memory cost, and how that is found out."""
