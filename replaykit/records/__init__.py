"""The records that carry everything: the message, the exchange, the increment, usage."""
