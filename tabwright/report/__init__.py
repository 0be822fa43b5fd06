"""A model on held-out rows as one HTML page."""
