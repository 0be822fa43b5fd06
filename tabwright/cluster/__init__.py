"""Jobs on Ray, and functions for Ray Data and Spark."""
