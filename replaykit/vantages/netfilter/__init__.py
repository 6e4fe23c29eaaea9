"""A vantage: per-user counters that the kernel keeps."""
