"""How one training step of many networks is computed."""
