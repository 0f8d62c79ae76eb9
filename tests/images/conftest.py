from __future__ import annotations

from dicom_files import picture, write_dicom

__all__ = ["picture", "write_dicom"]
