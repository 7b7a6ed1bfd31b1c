"""Measurements of nets: norms of single steps, gates, horizons, Lyapunov exponents, spectra."""
