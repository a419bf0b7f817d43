"""The parts of ``examples.demo``: what is upstream, the served app, the journal of exchanges, and the steps."""
