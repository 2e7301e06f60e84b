"""Deleting what is too old, at a pace that writers do not feel."""
