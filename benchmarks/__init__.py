"""What is timed, against whom; results with machine and date are in docs."""
