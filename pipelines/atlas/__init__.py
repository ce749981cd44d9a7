"""A map of an export: where each sample lies in two dimensions, and the files that show it."""
