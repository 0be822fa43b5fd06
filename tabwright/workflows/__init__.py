"""Whole jobs on files: train, predict, evaluate, compare, distill."""
