"""Benchmarks: real processes on loopback, ratios, bounded in time. ``python -m benchmarks --help``; see README.md."""
