"""DICOM header and pixels to canonical images."""
