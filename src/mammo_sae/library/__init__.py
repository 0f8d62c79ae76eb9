"""The Python API: a finished run as an object, for notebooks and programs."""
