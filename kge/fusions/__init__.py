"""Fusions, one a file: how features enter an entity's vectors."""
