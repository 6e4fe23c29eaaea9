"""Packets to exchanges: the engine's face, what goes in and what comes out. Imports no I/O."""
