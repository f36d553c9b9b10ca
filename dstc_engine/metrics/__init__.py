"""Measures of finished pictures; none of them guides."""
