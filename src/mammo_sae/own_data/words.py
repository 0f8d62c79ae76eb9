"""The words by which programs and people name columns, sides, views and labels."""

from __future__ import annotations

import re
from unicodedata import normalize

SIDES = {
    **dict.fromkeys(
        ("l", "left", "links", "li", "gauche", "izquierda", "sinistra", "esquerda"), "L"
    ),
    **dict.fromkeys(("r", "right", "rechts", "re", "droite", "derecha", "destra"), "R"),
}
VIEWS = {
    **dict.fromkeys(("cc", "craniocaudal", "kraniokaudal", "craneocaudal", "cranicaudal"), "CC"),
    **dict.fromkeys(
        ("mlo", "mediolateraloblique", "mediolateraloblik", "mediolateralschrag", "oblique"), "MLO"
    ),
}
POSITIVE = {"yes", "true", "ja", "oui", "si", "sim", "positive", "positiv", "present", "y", "j"}
NEGATIVE = {"no", "false", "nein", "non", "nao", "negative", "negativ", "absent", "n"}
"""Words of a cell of labels, after `plain`."""
ROLES = {
    "patient": (
        *("patient", "patientid", "patid", "patientno", "patientnumber", "patientnr", "patnr"),
        *("patientennr", "patientennummer", "patientenid", "pid", "subject", "subjectid", "mrn"),
        *("idpatient", "idpaciente", "paciente", "paziente", "person", "womanid"),
    ),
    "view": (
        *("view", "viewposition", "projection", "ansicht", "projektion", "incidence", "vue"),
        *("proyeccion", "proiezione", "imageview"),
    ),
    "side": (
        *("side", "laterality", "imagelaterality", "breast", "seite", "brust", "lateralitat"),
        *("cote", "lado", "lato", "leftorrightbreast"),
    ),
    "split": ("split", "set", "subset", "partition", "dataset"),
    "density": (
        *(
            "density",
            "breastdensity",
            "acr",
            "acrdensity",
            "densityacr",
            "acrdichte",
            "dichte",
            "brustdichte",
        ),
        *("densite", "densidad", "densita"),
    ),
    "birads": (
        *("birads", "biradsscore", "biradscategory", "breastbirads", "assessment", "bewertung"),
        *("biradskategorie", "biradsklasse"),
    ),
    "finding": (
        *("finding", "findings", "findingtype", "findingcategory", "findingcategories", "lesion"),
        *("lesiontype", "category", "label", "class", "befund", "abnormality", "abnormalitytype"),
        *("herdbefund", "hallazgo", "reperto", "type"),
    ),
}
"""Role -> names of its column, after `plain`."""
PRIVATE_PARTS = (
    *("birth", "geburt", "vorname", "nachname", "surname", "address", "adresse", "telefon"),
    *("phone", "email", "insurance", "versicher", "nacimiento", "naissance", "nascita"),
)
"""Parts of names of columns that may identify a person, after `plain`. They are never copied."""
PRIVATE_WORDS = {
    *("name", "names", "dob", "age", "alter", "date", "datum", "fecha", "ssn", "nom", "nombre"),
    *("zip", "plz", "patientname", "patientage", "patientenname"),
}
"""Whole words in such names."""
CORNERS = {
    "corners": (
        ("xmin", "ymin", "xmax", "ymax"),
        ("x1", "y1", "x2", "y2"),
        ("x0", "y0", "x1", "y1"),
        ("left", "top", "right", "bottom"),
        ("minx", "miny", "maxx", "maxy"),
        ("links", "oben", "rechts", "unten"),
    ),
    "size": (
        ("x", "y", "w", "h"),
        ("x", "y", "width", "height"),
        ("left", "top", "width", "height"),
        ("xmin", "ymin", "width", "height"),
        ("xmin", "ymin", "w", "h"),
        ("x", "y", "breite", "hohe"),
        ("bboxx", "bboxy", "bboxwidth", "bboxheight"),
    ),
    "centre": (
        ("xcenter", "ycenter", "width", "height"),
        ("xcentre", "ycentre", "width", "height"),
        ("cx", "cy", "w", "h"),
        ("centerx", "centery", "width", "height"),
    ),
}
"""Form of a box -> names of its four columns, after `plain`."""
WHOLE = re.compile(r"[01](?:[.,]0*)?")
BOTH = re.compile(r"(l|r|left|right)(cc|mlo)")


def plain(text: str) -> str:
    """Return a text in lower case, without accents, blanks and marks."""
    spread = normalize("NFKD", text.casefold())
    return "".join(letter for letter in spread if letter.isalnum())


def side_of(text: str) -> str | None:
    """Return L or R for a word for a side, also in `LCC`; None for other texts."""
    word = plain(text)
    both = BOTH.fullmatch(word)
    return both[1][0].upper() if both else SIDES.get(word)


def view_of(text: str) -> str | None:
    """Return CC or MLO for a word for a view, also in `LCC`; None for other texts."""
    word = plain(text)
    both = BOTH.fullmatch(word)
    return both[2].upper() if both else VIEWS.get(word)


def label_of(text: str) -> str | None:
    """Return "0" or "1" for a cell that says no or yes, None for other texts."""
    if WHOLE.fullmatch(text):
        return text[0]
    if text in {"+", "-"}:
        return "1" if text == "+" else "0"
    word = plain(text)  # drops the sign of a number, and no number is a word
    return "1" if word in POSITIVE else "0" if word in NEGATIVE else None


def is_private(column: str) -> bool:
    """Return whether a column may identify a person, by its name: a name, a date, an age."""
    spread = re.sub(r"([a-z])([A-Z])", r"\1 \2", column)
    words = {plain(word) for word in re.split(r"[\W_]+", spread)}
    return bool(words & PRIVATE_WORDS) or any(part in plain(column) for part in PRIVATE_PARTS)


def concept_name(text: str) -> str:
    """Return a column's name as the name of a concept: lower-case letters, digits and _."""
    spread = normalize("NFKD", text.casefold().replace("ß", "ss"))
    name = re.sub(r"[^a-z0-9]+", "_", "".join(c for c in spread if c.isascii())).strip("_")
    return name if name[:1].isalpha() else f"label_{name}".rstrip("_")
