"""Torch face of the network: pure functions, and thin modules that own parameters."""
