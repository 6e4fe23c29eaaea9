"""GoReplay's command line, inputs, outputs, limits and middleware on our engine: all compatibility in one
room.
"""
