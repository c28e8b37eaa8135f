"""Bytes on disk -> two views of each image."""
