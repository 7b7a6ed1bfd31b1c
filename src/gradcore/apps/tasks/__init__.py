"""Complete jobs on real data, each with a command of its own."""
