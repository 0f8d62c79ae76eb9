"""Converts a cohort's files into stores of canonical images."""
