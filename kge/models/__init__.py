"""Scoring models, one a file."""
