"""Penalised regressions over features that may be too large for memory."""
