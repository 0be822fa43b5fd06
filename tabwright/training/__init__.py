"""The training loop: batches, objectives, epochs, checkpoints, callbacks."""
