"""Where messages go: files, targets, other instances, Kafka, S3."""
