"""Where the question is asked beside the wire: port mappings, users of an interface, virtual machines."""
