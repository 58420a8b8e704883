"""Documents that are drawn from code."""
