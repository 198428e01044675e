"""Training: objectives, optimizers, the loop, exact checkpoints, parallelism from outside."""
