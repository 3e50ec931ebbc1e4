"""R's formulas as design matrices."""
