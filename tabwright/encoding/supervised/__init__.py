"""Encodings that the target decides: thresholds of trees, and what held-out rows confirm."""
