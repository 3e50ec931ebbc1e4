"""The engine of responses that are not normal: β and u integrated out by Laplace's method."""
