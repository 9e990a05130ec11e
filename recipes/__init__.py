"""Recipes: how the artefacts inside the package are made from scratch."""
