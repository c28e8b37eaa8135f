"""Tests of moco.core."""
