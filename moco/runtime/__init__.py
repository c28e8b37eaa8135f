"""What a run needs besides the method."""
