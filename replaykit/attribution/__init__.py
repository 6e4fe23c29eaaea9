"""Exchanges to endpoints: patterns, shares, percentiles."""
