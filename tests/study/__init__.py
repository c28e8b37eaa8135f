"""Tests of moco.study."""
