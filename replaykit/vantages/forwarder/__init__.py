"""The forwarder: TCP and UDP ports and HTTP hosts handed on, counted and limited as the bytes move."""
