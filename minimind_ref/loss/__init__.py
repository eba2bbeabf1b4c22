"""Torch face of the training objectives: pure functions of logits and log-probabilities."""
