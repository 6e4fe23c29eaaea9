"""Where messages come from: files, the wire, other instances, HTTP, Kafka."""
