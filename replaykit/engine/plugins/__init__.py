"""Protocol plug-ins that come with replaykit; each is an example of how to write one."""
