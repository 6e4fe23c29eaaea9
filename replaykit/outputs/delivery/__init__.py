"""What waits for a server that is slow or away, and how it gets there."""
