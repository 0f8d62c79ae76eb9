from __future__ import annotations

from dicom_files import lut_item, picture, write_dicom

__all__ = ["lut_item", "picture", "write_dicom"]
