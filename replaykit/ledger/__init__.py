"""The ledger: who used how much, when; every vantage's records in one store."""
