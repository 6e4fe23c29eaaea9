"""A vantage: what virtual machines moved, from the hypervisor that runs them."""
