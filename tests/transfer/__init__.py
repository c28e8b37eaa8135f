"""Tests of the layouts, views and figures of fine-tuning."""
