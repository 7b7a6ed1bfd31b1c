"""What is measured of a net: norms of its steps, gates, horizons, exponents, spectra."""
