"""What is wrong with a capture file."""


class BrokenCapture(ValueError):
    """Broken framing. args: offset in the file, what is wrong there."""
