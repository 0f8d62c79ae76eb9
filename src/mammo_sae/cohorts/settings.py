"""Settings of the cohort: the source of images and labels, the concepts and the splits."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from mammo_sae.cohorts.columns import IMAGE_COLUMNS
from mammo_sae.cohorts.units import FINDING, row_columns
from mammo_sae.dicom.refusal import Policy
from mammo_sae.extensions import COHORTS, or_added
from mammo_sae.settings import PathText, Settings

ConceptName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]


class _Cohort(Settings):
    concepts: dict[ConceptName, str] = Field(
        {"mass": "Mass", "suspicious_calcification": "Suspicious Calcification"},
        min_length=1,
        description="concepts to explain: name in the results -> finding category of the source",
    )
    covariates: dict[ConceptName, str] = Field(
        {},
        description="further columns of the images table: name -> column of the source's tables",
    )
    shards: int = Field(
        2, ge=1, le=4096, description="number of shards; a patient's shard is a hash of its id"
    )
    validation_share: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="share of the training patients who are moved to `validation`; the draw is "
        "stratified by the patients' labels",
    )
    split_seed: int = Field(0, ge=0, description="seed of the draw of patients into splits")
    unannotated: Policy = Field(
        "warn",
        description="images of the source without an annotation, which are always left out; "
        "`refuse` ends the run, `warn` prints a warning, `accept` only lists them in the "
        "quarantine table",
    )
    most_malformed: float = Field(
        0.05,
        ge=0,
        le=1,
        description="largest share of malformed rows in a table; malformed rows are left out, and "
        "a larger share ends the run with an error; a single row ends it only if this is 0",
    )

    @model_validator(mode="after")
    def _names_are_free(self) -> _Cohort:
        taken = [*IMAGE_COLUMNS, *self.concepts]
        for name in (*self.concepts, *self.covariates):
            if taken.count(name) + (name in self.covariates) > 1:
                raise ValueError(f"{name} names two columns of the images table; rename one")
        return self


class PhantomCohort(_Cohort):
    """The simulated cohort. Its ids identify nobody, so they are hashed with a public key."""

    kind: Literal["phantom"] = Field("phantom", description="simulated images with known truth")
    covariates: dict[ConceptName, str] = Field(
        {"marker": "marker", "paddle": "paddle"},
        description="further columns of the images table: name -> column of the source's tables",
    )

    @property
    def key_file(self) -> None:
        """There is no key file, see the class."""
        return None


class _Downloaded(_Cohort):
    """A public dataset, whose ids are pseudonyms already."""

    source: PathText = Field(min_length=1, description="the folder, as downloaded")
    external: PathText | None = Field(
        None, description="a second folder of the same layout, which becomes the split `external`"
    )
    key_file: PathText | None = Field(
        None,
        description="file with the secret key of the pseudonyms, kept outside of the results; "
        "null: a public key, which suits only ids that are pseudonyms already",
    )


class UnsplitCohort(_Downloaded):
    """A dataset without a split of its own."""

    test_share: float = Field(
        0.2,
        gt=0,
        lt=1,
        description="share of the patients who become the split `test`; the draw is stratified by "
        "the patients' labels; nobody is drawn if the source's table has a test split",
    )


class FindingsCohort(_Downloaded):
    """A dataset whose table has one row per finding."""

    labels: Literal["image", "finding"] = Field(
        "image",
        description="unit of labels in training and in scores: `image`, which has a concept if one "
        "of its findings has it; or `finding`, each row of the source's table of findings with its "
        "image's score, as in the published code of Mammo-CLIP and Mammo-SAE. Intervals always "
        "resample patients. Probes, inner layers and alignment always use images",
    )

    @model_validator(mode="after")
    def _row_columns_are_free(self) -> FindingsCohort:
        if self.labels == FINDING:
            counted = {name: c for c in self.concepts for name in row_columns(c)}
            for name in (*self.concepts, *self.covariates):
                if name in counted:
                    raise ValueError(
                        f"{name} is the column that counts the rows of {counted[name]} with labels "
                        "by finding; rename it"
                    )
        return self


class VindrCohort(FindingsCohort):
    """VinDr-Mammo, or any folder of the same layout."""

    kind: Literal["vindr"] = Field("vindr", description="a folder with VinDr-Mammo's files")


class MammoClipCohort(FindingsCohort):
    """VinDr-Mammo as PNGs after Mammo-CLIP's preprocessing, with its table."""

    kind: Literal["mammo_clip"] = Field(
        "mammo_clip", description="a folder with images_png/ and vindr_detection_v1_folds.csv"
    )
    covariates: dict[ConceptName, str] = Field(
        {"matrix_rows": "height", "matrix_columns": "width"},
        description="further columns of the images table: name -> column of the source's table; "
        "by default the size before preprocessing, which the PNGs do not show",
    )


class TableCohort(_Cohort):
    """Your own images: a folder with image files and a table of their labels."""

    kind: Literal["table"] = Field("table", description="a folder with images.csv and image files")
    concepts: dict[ConceptName, str] = Field(
        {"mass": "Mass", "suspicious_calcification": "Suspicious Calcification"},
        description="concepts to explain: name in the results -> column of images.csv; {}: the "
        "images have no labels, so the run ends with embeddings, SAEs and codes",
    )
    source: PathText = Field(min_length=1, description="the folder")
    external: PathText | None = Field(
        None, description="a second folder of the same layout, which becomes the split `external`"
    )
    key_file: PathText = Field(
        min_length=1,
        description="file with the secret key of the pseudonyms, kept outside of the results",
    )


def _concepts(default: dict[str, str], meaning: str) -> Any:
    return Field(
        default,
        min_length=1,
        description=f"concepts to explain: name in the results -> {meaning}",
    )


MASS_AND_CALCIFICATION = {"mass": "mass", "calcification": "calcification"}


class RsnaCohort(UnsplitCohort):
    """The RSNA Screening Mammography Breast Cancer Detection data (2022), training part."""

    kind: Literal["rsna"] = Field(
        "rsna", description="a folder with train.csv or train_folds.csv, and train_images/ or PNGs"
    )
    concepts: dict[ConceptName, str] = _concepts({"cancer": "cancer"}, "0/1 column of train.csv")
    covariates: dict[ConceptName, str] = Field(
        {"site": "site_id", "implant": "implant"},
        description="further columns of the images table: name -> column of train.csv",
    )


class CbisDdsmCohort(_Downloaded):
    """CBIS-DDSM, with the training and test parts of its tables."""

    kind: Literal["cbis_ddsm"] = Field("cbis_ddsm", description="a folder with tables and series")
    concepts: dict[ConceptName, str] = _concepts(
        MASS_AND_CALCIFICATION, "mass, calcification or malignant"
    )


class InbreastCohort(UnsplitCohort):
    """INbreast."""

    kind: Literal["inbreast"] = Field("inbreast", description="a folder with INbreast.csv")
    concepts: dict[ConceptName, str] = _concepts(
        {"mass": "Mass", "calcification": "Calcification"}, "name of a contour"
    )


class EmbedCohort(UnsplitCohort):
    """The open part of EMBED."""

    kind: Literal["embed"] = Field("embed", description="a folder with tables/ and images/")
    concepts: dict[ConceptName, str] = _concepts(
        MASS_AND_CALCIFICATION, "mass, asymmetry, distortion, calcification or cancer"
    )


class CmmdCohort(UnsplitCohort):
    """CMMD, the Chinese Mammography Database."""

    kind: Literal["cmmd"] = Field("cmmd", description="a folder with its table and CMMD/")
    concepts: dict[ConceptName, str] = _concepts(
        MASS_AND_CALCIFICATION, "mass, calcification or malignant"
    )


class SplitSettings(Settings):
    """The settings that determine the splits, and no others.

    If no patients are drawn, these are the kind and the key file.
    """

    kind: str = Field("phantom", pattern="^[a-z][a-z0-9_]*$", description="kind of the cohort")
    key_file: PathText | None = Field(None, description="file with the secret of the pseudonyms")
    test_share: float = Field(0.0, ge=0, lt=1, description="as in the settings of the cohort")
    validation_share: float = Field(0.0, ge=0, lt=1, description="as in the settings of the cohort")
    split_seed: int = Field(0, ge=0, description="as in the settings of the cohort")
    categories: tuple[str, ...] = Field(
        (), description="finding categories that stratify the draw of patients, each once, sorted"
    )

    @classmethod
    def of(cls, cohort: CohortSettings) -> SplitSettings:
        """Return the settings of `cohort` that determine its splits."""
        test_share = getattr(cohort, "test_share", 0.0)
        if test_share == 0 and cohort.validation_share == 0:
            return cls(kind=cohort.kind, key_file=cohort.key_file)
        return cls(
            kind=cohort.kind,
            key_file=cohort.key_file,
            test_share=test_share,
            validation_share=cohort.validation_share,
            split_seed=cohort.split_seed,
            categories=tuple(sorted(set(cohort.concepts.values()))),
        )


CohortSettings = Annotated[
    PhantomCohort
    | VindrCohort
    | MammoClipCohort
    | TableCohort
    | RsnaCohort
    | CbisDdsmCohort
    | InbreastCohort
    | EmbedCohort
    | CmmdCohort,
    Field(discriminator="kind"),
]
CohortSettings = or_added(CohortSettings, COHORTS)  # type: ignore[misc]
