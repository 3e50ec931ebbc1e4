"""Linear algebra that depends on the data alone and is done once."""
