"""Genotypes: counts of an allele of many variants, in blocks, and the relationships and tests that read them."""
