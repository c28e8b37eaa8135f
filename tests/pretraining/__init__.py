"""Tests of pre-training."""
