"""Packets to exchanges: the readable engine and the choice of engine. Imports no I/O."""
