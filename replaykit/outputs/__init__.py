"""Where results go: files, stores and metrics."""
