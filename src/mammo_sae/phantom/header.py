"""A phantom image as a DICOM object: Digital Mammography X-Ray Image, For Presentation.

The attributes are those of the IOD in PS3.3 A.27 and of its modules. Everything derives from the
seed, also dates and UIDs. UIDs are hashes under the root 2.25. Patients have invented names, so
that tests can show that no name reaches the results.
"""

from __future__ import annotations

import datetime

from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import (
    UID,
    DigitalMammographyXRayImageStorageForPresentation,
    ExplicitVRLittleEndian,
    JPEGLSLossless,
)

from mammo_sae.phantom.anatomy import THICKNESS_CM
from mammo_sae.phantom.image import PhantomImage
from mammo_sae.phantom.plan import VIEWS, Patient, Side, View
from mammo_sae.phantom.settings import PhantomPartSettings
from mammo_sae.phantom.streams import key_digest, random_stream

MAGNIFICATION = 1.05
IMPLEMENTATION_UID = UID("2.25.228126340119873506842350011298113216409")
IMPLEMENTATION_VERSION = "MAMMO_SAE_1"
SURNAMES = ["ABERNETHY", "BRANDSTROM", "CASTELLANO", "DUNMORE", "ESTERHAZY", "FAIRWEATHER"]
SURNAMES += ["GULBRANDSEN", "HATHERLEY", "IVANCHENKO", "KOWALCZYK", "LINDQVIST", "MARCHETTI"]
GIVEN_NAMES = ["ADELINE", "BEATRIX", "CLEMENTINE", "DOROTHEA", "ELOWEN", "FREDERIKA", "GENEVIEVE"]
GIVEN_NAMES += ["HENRIETTA", "ISADORA", "JOSEPHINE", "LEOCADIA", "MARGUERITE", "OTTILIE"]
# SNOMED CT codes of PS3.16 CID 4014 (views) and of the breast (CID 4013).
VIEW_CODES: dict[View, tuple[str, str]] = {
    "CC": ("399162004", "cranio-caudal"),
    "MLO": ("399368009", "medio-lateral oblique"),
}
# Direction of the rows (anterior or posterior), then of the columns (CC: towards the other breast;
# MLO: towards the feet and the other side).
ORIENTATION: dict[tuple[Side, View], list[str]] = {
    ("L", "CC"): ["A", "R"],
    ("R", "CC"): ["P", "L"],
    ("L", "MLO"): ["A", "FR"],
    ("R", "MLO"): ["P", "FL"],
}


def source_id(settings: PhantomPartSettings, *key: str | int) -> str:
    """Return the id of `key` in the archive: 32 hexadecimal digits, as in VinDr-Mammo."""
    return key_digest(settings.seed, settings.part, "id", *key).hex()[:32]


def study_id(settings: PhantomPartSettings, patient: Patient) -> str:
    """Return the archive's id of the patient's study."""
    return source_id(settings, patient.number, "study")


def series_id(settings: PhantomPartSettings, patient: Patient) -> str:
    """Return the archive's id of the one series in the patient's study."""
    return source_id(settings, patient.number, "series")


def image_id(settings: PhantomPartSettings, patient: Patient, side: Side, view: View) -> str:
    """Return the archive's id of an image."""
    return source_id(settings, patient.number, side, view)


def _uid(hexadecimal: str) -> str:
    """Return the UID of an id: `2.25.` and the id as a decimal number (PS3.5 B.2)."""
    return f"2.25.{int(hexadecimal, 16)}"


def _code(value: str, scheme: str, meaning: str) -> Dataset:
    code = Dataset()
    code.CodeValue = value
    code.CodingSchemeDesignator = scheme
    code.CodeMeaning = meaning
    return code


def dicom_dataset(
    settings: PhantomPartSettings, patient: Patient, side: Side, view: View, image: PhantomImage
) -> Dataset:
    """Return the data set of an image with its file meta information, ready to be saved."""
    data = Dataset()
    _identify(data, settings, patient, image_id(settings, patient, side, view))
    _describe_equipment(data, settings, image)
    _describe_acquisition(data, patient, side, view)
    _describe_presentation(data, image)
    stored = image.stored
    data.Rows, data.Columns = stored.shape
    data.PixelData = stored.astype("<u2").tobytes()

    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = data.SOPClassUID
    meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.ImplementationClassUID = IMPLEMENTATION_UID
    meta.ImplementationVersionName = IMPLEMENTATION_VERSION
    data.file_meta = meta
    if image.vendor.compressed:
        data.compress(JPEGLSLossless, encoding_plugin="pyjpegls", generate_instance_uid=False)
    return data


def _identify(data: Dataset, settings: PhantomPartSettings, patient: Patient, image: str) -> None:
    rng = random_stream(settings.seed, patient.part, patient.number, "identity")
    acquired = datetime.date(2018, 1, 8) + datetime.timedelta(days=int(rng.integers(700)))
    birthday = acquired.replace(year=acquired.year - patient.age, day=1)
    birthday -= datetime.timedelta(days=int(rng.integers(300)))
    date, time = acquired.strftime("%Y%m%d"), f"{rng.integers(8, 18):02d}{rng.integers(60):02d}00"

    data.SpecificCharacterSet = "ISO_IR 100"
    data.SOPClassUID = DigitalMammographyXRayImageStorageForPresentation
    data.SOPInstanceUID = _uid(image)
    data.StudyInstanceUID = _uid(study_id(settings, patient))
    data.SeriesInstanceUID = _uid(series_id(settings, patient))
    data.StudyDate = data.SeriesDate = data.ContentDate = data.AcquisitionDate = date
    data.StudyTime = data.SeriesTime = data.ContentTime = data.AcquisitionTime = time
    number = int(rng.integers(10_000_000, 100_000_000))
    data.AccessionNumber = f"ACC{number}"
    data.StudyID = f"S{number % 1_000_000:06d}"
    data.ReferringPhysicianName = "WETHERBY^ROSAMUND"
    data.InstitutionName = "Phantom Valley Hospital"
    data.StudyDescription = "Screening mammography"
    data.PatientName = (
        f"{SURNAMES[rng.integers(len(SURNAMES))]}^{GIVEN_NAMES[rng.integers(len(GIVEN_NAMES))]}"
    )
    data.PatientID = f"MRN{rng.integers(10_000_000, 100_000_000)}"
    data.PatientBirthDate = birthday.strftime("%Y%m%d")
    data.PatientSex = "F"
    data.PatientAge = f"{patient.age:03d}Y"


def _describe_equipment(data: Dataset, settings: PhantomPartSettings, image: PhantomImage) -> None:
    vendor = image.vendor
    data.Modality = "MG"
    data.Manufacturer = vendor.manufacturer
    data.ManufacturerModelName = vendor.model
    data.SoftwareVersions = vendor.software
    data.DeviceSerialNumber = f"{int(key_digest(vendor.manufacturer).hex()[:6], 16):08d}"
    data.StationName = "MAMMO1"

    spacing = vendor.imager_spacing_mm / settings.scale
    data.ImagerPixelSpacing = [_decimal(spacing)] * 2
    data.PixelSpacing = [_decimal(spacing / MAGNIFICATION)] * 2
    data.PixelSpacingCalibrationType = "GEOMETRY"
    data.PixelSpacingCalibrationDescription = "Magnification at the middle of the breast"
    data.EstimatedRadiographicMagnificationFactor = _decimal(MAGNIFICATION)
    data.DetectorType = "DIRECT"
    data.DetectorConfiguration = "AREA"
    data.DetectorID = "DET1"


def _decimal(value: float) -> str:
    return f"{value:.6g}"


def _describe_acquisition(data: Dataset, patient: Patient, side: Side, view: View) -> None:
    views = [(s, v) for s in patient.sides for v in VIEWS]
    data.SeriesNumber = 1
    data.InstanceNumber = views.index((side, view)) + 1
    data.AcquisitionContextSequence = []
    data.ImageLaterality = side
    data.ViewPosition = view
    code = _code(VIEW_CODES[view][0], "SCT", VIEW_CODES[view][1])
    code.ViewModifierCodeSequence = []
    data.ViewCodeSequence = [code]
    data.PatientOrientation = ORIENTATION[side, view]
    data.AnatomicRegionSequence = [_code("76752008", "SCT", "Breast")]
    data.BodyPartExamined = "BREAST"
    data.OrganExposed = "BREAST"
    data.PositionerType = "MAMMOGRAPHIC"
    data.BreastImplantPresent = "YES" if "implant" in patient.artefacts else "NO"
    data.BodyPartThickness = _decimal(10 * THICKNESS_CM[patient.density])
    data.KVP = "28"


def _describe_presentation(data: Dataset, image: PhantomImage) -> None:
    vendor = image.vendor
    inverse = vendor.photometric == "MONOCHROME1"
    data.PresentationIntentType = "FOR PRESENTATION"
    data.ImageType = ["DERIVED", "PRIMARY"]
    data.SamplesPerPixel = 1
    data.PhotometricInterpretation = vendor.photometric
    data.BitsAllocated = 16
    data.BitsStored = vendor.bits_stored
    data.HighBit = vendor.bits_stored - 1
    data.PixelRepresentation = 0
    data.PixelIntensityRelationship = "LOG"
    # 1: a higher stored value means more X-rays at the detector; -1: fewer.
    data.PixelIntensityRelationshipSign = 1 if inverse else -1
    data.RescaleIntercept = "0"
    data.RescaleSlope = "1"
    data.RescaleType = "US"
    data.PresentationLUTShape = "INVERSE" if inverse else "IDENTITY"
    data.VOILUTFunction = "LINEAR"
    data.WindowCenter = [_decimal(window.centre) for window in vendor.windows]
    data.WindowWidth = [_decimal(window.width) for window in vendor.windows]
    data.WindowCenterWidthExplanation = [window.explanation for window in vendor.windows]
    data.LossyImageCompression = "00"
    # YES means that the pixels identify the patient. A view marker does not.
    data.BurnedInAnnotation = "NO"
