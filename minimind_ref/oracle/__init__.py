"""NumPy face: every component in float64, forward and gradient, written for the eye."""
