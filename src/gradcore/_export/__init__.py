"""Files for other programs that run nets, one format each."""
