"""Auxiliary losses, one a file."""
