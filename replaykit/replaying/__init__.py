"""Sending it again: pacing, connections, comparing the responses."""
