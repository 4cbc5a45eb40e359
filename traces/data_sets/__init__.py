"""Labelled video as people have it on disk."""
