"""Laws by component, in the words of their clauses: see properties.py."""
