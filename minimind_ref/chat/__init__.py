"""Talking to a network: `python -m minimind_ref.chat --from DIR`."""
