"""Teachers and their labels: tree ensembles, estimators, augmentation, soft targets."""
