"""What is timed and against whom (results with machine and date are in docs), and what must stay the same."""
