"""Benchmarks: ratios and rates, never asserted in tests."""
