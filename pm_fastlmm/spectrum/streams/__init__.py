"""The same from rows that were never in memory at once: sums, merges, checkpoints."""
