"""What differs between upstream providers, as values. AssemblyAI is the only one so far."""
