"""Arrays for tests from the generator of the golden vectors: (seed, shape, scale, structure), never entry by entry."""

from minimind_ref.golden.generator import STRUCTURES, draw, draw_integers

__all__ = ["STRUCTURES", "draw", "draw_integers"]
