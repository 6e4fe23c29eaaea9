"""Rules: what is looked at, what is too much, and what happens then."""
