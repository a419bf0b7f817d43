"""Pure decisions over frozen values: no await, no clock, no randomness of its own."""
