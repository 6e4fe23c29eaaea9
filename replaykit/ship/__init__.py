"""Where results go: files now, stores and metrics as they come."""
