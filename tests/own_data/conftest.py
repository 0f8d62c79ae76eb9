from __future__ import annotations

from own_data_files import init, pngs, write_dicom

__all__ = ["init", "pngs", "write_dicom"]
