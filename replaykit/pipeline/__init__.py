"""Inputs through an engine to outputs."""
