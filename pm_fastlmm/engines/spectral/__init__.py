"""One known kernel: σ²(K + δI), rotated once."""
