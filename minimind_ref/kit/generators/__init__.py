"""Generators of cases by component: see generated.py."""
