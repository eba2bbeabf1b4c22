"""Golden vectors: recorded inputs, outputs and error bounds in JSON that any language can read (golden/README.md)."""
