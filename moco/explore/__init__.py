"""A local page to look into an embedding."""
