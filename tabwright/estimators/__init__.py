"""The scikit-learn estimators, `load_model` and `distill`."""
