"""Draws of a model: sample, recover, predict, leave out."""
