"""Mirrors of the package's modules, and the oracles that they are held against."""
