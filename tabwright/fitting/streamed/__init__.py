"""From a table larger than memory to a `FittedModel`: a scan, then a fit."""
