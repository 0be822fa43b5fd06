"""The fitted model and everything that runs it, without torch."""
