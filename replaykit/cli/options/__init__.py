"""The options of each command, by group of commands: plain classes, so that help is there at once."""
