"""What is measured, and what is made of it."""
