"""What formulas are made of: names, expressions in the spelling of R or Python, functions, and the columns they read."""
