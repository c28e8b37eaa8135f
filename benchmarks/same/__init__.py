"""Whether the working tree still computes what a commit computed, bit for bit, by the command line alone."""
