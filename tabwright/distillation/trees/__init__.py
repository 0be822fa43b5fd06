"""The tree ensembles that teach, and those that a model keeps beside its networks."""
