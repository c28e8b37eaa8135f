"""Tests of moco/interop."""
