"""Training runs: the command line, the one optimisation step, the stages, checkpoints."""
