"""Bracket balance of real source code: a net reads characters and says what must be closed next."""
