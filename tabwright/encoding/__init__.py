"""Columns to network inputs: what training rows decide, and how rows pass through it."""
