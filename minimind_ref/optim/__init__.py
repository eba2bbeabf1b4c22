"""Torch face of the optimiser: recurrences over state, and thin shells around them."""
