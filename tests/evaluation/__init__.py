"""Tests of moco.evaluation."""
