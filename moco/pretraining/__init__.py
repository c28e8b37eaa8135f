"""Unlabelled images to an encoder: the loop, what it is set to, and what it says of its health."""
