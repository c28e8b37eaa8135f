"""How fast this machine trains, measured on the real loop, and what holds it back."""
