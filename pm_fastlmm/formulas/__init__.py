"""What formulas are made of: names, expressions spelled as in R or Python, functions, and the columns they read."""
