"""Measurements, each one command that ends in one table: see README.md."""
