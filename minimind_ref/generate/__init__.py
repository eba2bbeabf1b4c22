"""Text out of a network: filtering of logits, sampling, the key/value cache."""
