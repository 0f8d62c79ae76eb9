"""One image file, DICOM or raster: its header, its pixels, the canonical image."""
