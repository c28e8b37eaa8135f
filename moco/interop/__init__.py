"""Weights from and for elsewhere."""
