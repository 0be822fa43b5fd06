"""What is made of probabilities and residuals: calibrators, decision rules, intervals."""
