"""Messages on the move: the .gor format."""
