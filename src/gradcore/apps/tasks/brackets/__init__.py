"""Bracket balance of source code: a net reads characters and says which bracket must close next."""
