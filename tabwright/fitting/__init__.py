"""From rows, in memory or on disk, to a `FittedModel`."""
