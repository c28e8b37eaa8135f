"""What can be learned of a GPU without one."""
