"""The runner of the executable definitions in specs/, which `python -m minimind_ref.golden` uses as well."""

from minimind_ref.golden.definitions import DIGITS, FLOAT, SPECS, Clause, clauses, definition, floats, numbers, source

__all__ = ["DIGITS", "FLOAT", "SPECS", "Clause", "clauses", "definition", "floats", "numbers", "source"]
