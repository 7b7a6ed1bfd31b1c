"""Complete training jobs, one folder each; every job has its own command."""
