"""Tests of moco.data."""
