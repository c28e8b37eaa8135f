"""Tests of moco.runtime."""
