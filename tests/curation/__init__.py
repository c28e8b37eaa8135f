"""Tests of moco.curation."""
