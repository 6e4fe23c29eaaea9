"""replaykit: who is using the bandwidth?"""

__version__ = "0.1.0"
