"""Weights in fewer bits: how they are rounded, what is folded before, and which of them stay wider."""
