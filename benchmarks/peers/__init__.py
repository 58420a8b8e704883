"""Other stream processors, and ours, on the same work. Each runs as a program of its own."""
