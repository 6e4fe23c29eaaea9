"""Files in which people declare things."""
