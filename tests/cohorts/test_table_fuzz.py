"""Randomly damaged tables are read with their malformed rows named, or refused in a sentence."""

from __future__ import annotations

import random
from pathlib import Path

import pandas as pd
import pytest

from mammo_sae.cohorts.annotations import Annotations, clipped, read_annotations
from mammo_sae.cohorts.facts import files_unread
from mammo_sae.cohorts.pseudonyms import Pseudonyms
from mammo_sae.cohorts.readers import Sources
from mammo_sae.errors import InputError

FEW, MANY = 150, 30_000
NAMES = Pseudonyms(b"0123456789abcdef")
PATIENTS = range(6)


# Study, image, breast and view.
IMAGES = [(f"s{p}", f"i{p}{v}", "LR"[p % 2], v) for p in PATIENTS for v in ("CC", "MLO")]


def lines(*rows: str) -> str:
    return "\n".join(rows) + "\n"


def vindr() -> dict[str, str]:
    return {
        "breast-level_annotations.csv": lines(
            "study_id,image_id,laterality,view_position,height,width,breast_birads,"
            "breast_density,split",
            *(f"{s},{i},{b},{v},900,700,BI-RADS 4,DENSITY B,training" for s, i, b, v in IMAGES),
        ),
        "finding_annotations.csv": lines(
            "image_id,finding_categories,xmin,ymin,xmax,ymax",
            *(f"{i},\"['Mass', 'Asymmetry']\",10.5,20,60,90" for _, i, *_ in IMAGES[:5]),
            *(f"{i},['No Finding'],,,," for _, i, *_ in IMAGES[5:]),
        ),
        "metadata.csv": lines(
            "SOP Instance UID,Patient's Age,Manufacturer,Pixel Spacing",
            *(f'{i},053Y,ACME,"[0.07, 0.07]"' for _, i, *_ in IMAGES),
        ),
        **{f"images/{s}/{i}.dicom": "" for s, i, *_ in IMAGES},
    }


def mammo_clip() -> dict[str, str]:
    return {
        "vindr_detection_v1_folds.csv": lines(
            "patient_id,image_id,laterality,view,height,width,breast_birads,breast_density,"
            "finding_categories,xmin,ymin,xmax,ymax,split,Mass",
            *(
                f"{s},{i}.png,{b},{v},900,700,BI-RADS 2,DENSITY C,"
                f"{'[' + repr('Mass') + ']'},1,2,30,40,training,1"
                for s, i, b, v in IMAGES
            ),
        ),
        **{f"images_png/{s}/{i}.png": "" for s, i, *_ in IMAGES},
    }


def final() -> dict[str, str]:
    return {
        "clip_vindr_final.csv": lines(
            "patient_id,laterality,split,CC,MLO,CC_FINDING,MLO_FINDING",
            *(
                f"s{p},L,test,['a{p}.png'],['b{p}.png'],\"[[], ['Mass'], [], []]\","
                f"\"[[], ['No Finding'], [], []]\""
                for p in PATIENTS
            ),
        ),
        **{f"images_png/s{p}/{v}{p}.png": "" for p in PATIENTS for v in "ab"},
    }


def own() -> dict[str, str]:
    return {
        "images.csv": lines(
            "file,patient_id,split,view,side,mass,density,birads,dose",
            *(f"{p}ä.dcm,00{p},training,CC,{'LR'[p % 2]},{p % 2},B,4,1.5" for p in PATIENTS),
        ),
        "findings.csv": lines(
            "file,finding,xmin,ymin,xmax,ymax",
            *(f"{p}ä.dcm,mass,1,2,{p + 9},12" for p in PATIENTS if p % 2),
        ),
        **{f"{p}ä.dcm": "" for p in PATIENTS},
    }


def rsna() -> dict[str, str]:
    return {
        "train.csv": lines(
            "site_id,patient_id,image_id,laterality,view,age,cancer,BIRADS,implant,density,"
            "machine_id",
            *(
                f"1,{p},{p}0{n},L,{v},61.0,{p % 2},1.0,0,C,49"
                for p in PATIENTS
                for n, v in enumerate(("CC", "MLO", "AT"))
            ),
        ),
        **{f"train_images/{p}/{p}0{n}.dcm": "" for p in PATIENTS for n in range(3)},
    }


def cbis() -> dict[str, str]:
    head = (
        "patient_id,breast_density,left or right breast,image view,abnormality type,assessment,"
        "pathology,image file path,ROI mask file path"
    )

    def rows(kind: str, part: str, patients: range) -> str:
        case = f"{kind[:4].title()}-{part}"
        return lines(
            head,
            *(
                f"P_{p},3,LEFT,CC,{kind},4,MALIGNANT,{case}_P_{p}_LEFT_CC/a/b/0.dcm,"
                f"{case}_P_{p}_LEFT_CC_1/a/b/1.dcm"
                for p in patients
            ),
        )

    return {
        "mass_case_description_train_set.csv": rows("mass", "Training", range(4)),
        "calc_case_description_train_set.csv": rows("calcification", "Training", range(2, 6)),
        "mass_case_description_test_set.csv": rows("mass", "Test", range(6, 8)),
        "calc_case_description_test_set.csv": rows("calcification", "Test", range(8, 9)),
        **{f"Mass-Training_P_{p}_LEFT_CC/a/b/1-1.dcm": "" for p in range(4)},
        **{f"Calc-Training_P_{p}_LEFT_CC/a/b/1-1.dcm": "" for p in range(2, 6)},
        **{f"Mass-Test_P_{p}_LEFT_CC/a/b/1-1.dcm": "" for p in range(6, 8)},
        "Calc-Test_P_8_LEFT_CC/a/b/1-1.dcm": "",
    }


def inbreast() -> dict[str, str]:
    points = "<array><string>(10.5, 20)</string><string>(18, 25)</string></array>"
    roi = f"<dict><key>Name</key><string>Mass</string><key>Point_px</key>{points}</dict>"
    contour = f"<dict><key>ROIs</key><array>{roi}</array></dict>"
    xml = f'<plist version="1.0"><dict><key>Images</key><array>{contour}</array></dict></plist>'
    return {
        "INbreast.csv": lines(
            "Patient ID;Laterality;View;File Name;ACR;Bi-Rads",
            *(f"removed;{'LR'[p % 2]};CC;2000{p};2;4a" for p in PATIENTS),
        ),
        "AllXML/20001.xml": xml,
        **{f"AllDICOMs/2000{p}_p{p}_MG_L_CC_ANON.dcm": "" for p in PATIENTS},
    }


def embed() -> dict[str, str]:
    return {
        "tables/EMBED_OpenData_clinical.csv": lines(
            "acc_anon,side,asses,tissueden,age_at_study,massshape,calcfind,calcdistri,"
            "path_severity",
            *(f"{p}0,L,S,3.0,61.2,{'O' if p % 2 else ''},,,0.0" for p in PATIENTS),
        ),
        "tables/EMBED_OpenData_metadata.csv": lines(
            "empi_anon,acc_anon,anon_dicom_path,ImageLateralityFinal,ViewPosition,"
            "FinalImageType,spot_mag,ROI_coords",
            *(f'{p},{p}0,/m/anon_dicom/c/{p}.dcm,L,CC,2D,,"((20, 5, 30, 15),)"' for p in PATIENTS),
        ),
        **{f"images/c/{p}.dcm": "" for p in PATIENTS},
    }


READ = {
    "vindr": ("vindr", vindr, {"mass": "Mass"}, {"maker": "Manufacturer"}),
    "mammo_clip": ("mammo_clip", mammo_clip, {"mass": "Mass"}, {"matrix": "height"}),
    "final": ("mammo_clip", final, {"mass": "Mass"}, {}),
    "own": ("table", own, {"mass": "mass"}, {"dose": "dose"}),
    "rsna": ("rsna", rsna, {"cancer": "cancer"}, {"site": "site_id"}),
    "cbis": ("cbis_ddsm", cbis, {"mass": "mass"}, {}),
    "inbreast": ("inbreast", inbreast, {"mass": "Mass"}, {}),
    "embed": ("embed", embed, {"mass": "mass"}, {}),
}  # CMMD's images need headers: see test_datasets.py.
ODD = (
    *("", " ", "nan", "NA", "None", "inf", "-inf", "-1", "1e999", "1e5", "007.0", "0x10", "999"),
    *("1,5", "3;4", "[]", "[[]]", "(1,)", "((1,2,3),)", "{}", "['Mass']", "[1]", "''", "[" * 400),
    *("L", "R", "CC", "MLO", "AT", "training", "test", "A", "B", "0", "1", "2", "../x", "/", "."),
    *("ä", "a\u0308", "\ufeff", "\0", '"', "'", "x\ny", "\u2028", "a" * 3000, "9" * 400, "1_0"),
    *("100Y", "1950-03-04", "BI-RADS 9", "DENSITY E", "['Moss']", "True", "yes", "-5", "٣"),
)


def mutated(draw: random.Random, content: bytes, separator: bytes) -> tuple[bytes, bool]:
    """Return a table with one change, and whether the change is in one row below the header."""
    rows = content.split(b"\n")
    at = draw.randrange(len(rows) - 1)
    action = draw.choice(["cell"] * 6 + ["drop", "double", "mark", "encode", "name", "byte", "cut"])
    cells = rows[at].split(separator)
    if action == "cell":
        cells[draw.randrange(len(cells))] = draw.choice(ODD).encode()
        rows[at] = separator.join(cells)
    elif action == "drop":
        del rows[at]
    elif action == "double":
        rows.insert(draw.randrange(1, len(rows)), rows[at])
    elif action == "mark":
        where = slice(at, at + 1) if draw.random() < 0.5 else slice(None)
        rows[where] = [r.replace(separator, draw.choice([b";", b"\t", b","])) for r in rows[where]]
    elif action == "encode":
        text = content.decode()
        coding = draw.choice(["utf-8-sig", "utf-16", "cp1252", "utf-16-le", "cp037"])
        return text.encode(coding), False
    elif action == "name":
        names = rows[0].split(separator)
        place = draw.randrange(len(names))
        names[place] = draw.choice([b"", b"x", b" " + names[place] + b" ", names[0]])
        rows[0] = separator.join(names)
    elif action == "byte":
        whole = bytearray(content)
        whole[draw.randrange(len(whole))] = draw.choice(b'\0\xff\xe4",;\n\r\t\x1a5')
        return bytes(whole), False
    else:
        return content[: draw.randrange(len(content))], False
    one = at > 0 and (action in {"cell", "drop", "double"})
    return b"\n".join(rows), one


def read(name: str, folder: Path) -> Annotations:
    kind, _, concepts, covariates = READ[name]
    with files_unread():
        sources = Sources(kind, [folder])
        found = read_annotations(sources, concepts, covariates, NAMES, most_malformed=0.5)
    clipped(found.boxes, found.images)
    return found


def plain(found: Annotations) -> tuple[dict[str, dict], dict[str, list]]:
    """Return the annotations of every image, and its boxes."""
    images = found.images.drop(columns=["source_image", "source_patient"])
    images = images.astype(object).where(images.notna(), None).set_index("image_id")
    boxes = {of: sorted(part.values.tolist()) for of, part in found.boxes.groupby("image_id")}
    return images.to_dict("index"), boxes


def written(name: str, folder: Path) -> list[Path]:
    tables = []
    for path, text in READ[name][1]().items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text)
        if path.endswith(".csv"):
            tables.append(folder / path)
    return tables


@pytest.mark.parametrize(
    "count", [FEW, pytest.param(MANY, marks=pytest.mark.soak)], ids=["few", "many"]
)
def test_a_mutated_table_is_read_or_refused_in_a_sentence(count, tmp_path):
    read_at_all = 0
    for name in READ:
        folder = tmp_path / name
        tables = written(name, folder)
        whole, boxes = plain(read(name, folder))
        assert whole
        separator = b";" if name == "inbreast" else b","
        for number in range(-(-count // len(READ))):
            draw = random.Random(f"{name} {number}")
            path = draw.choice(tables)
            good = path.read_bytes()
            content, one_row = mutated(draw, good, separator)
            path.write_bytes(content)
            try:
                found = read(name, folder)
            except InputError as error:
                text = str(error)
                assert "\n" not in text.strip(), (name, number)
                assert len(text) < 6000, (name, number)
                for foreign in (str(folder), "Traceback", "Error", "pandas", "Expected"):
                    assert foreign not in text, (name, number, text)
            else:
                read_at_all += 1
                images, _ = plain(found)
                # One row describes all images of a patient, and may name images of another patient.
                touched = {
                    row["patient_id"] for image, row in whole.items() if images.get(image) != row
                }
                assert not one_row or len(touched) <= 2, (name, number, found.malformed)
            finally:
                path.write_bytes(good)
        assert (whole, boxes) == plain(read(name, folder))
    assert read_at_all > count // 4


@pytest.mark.parametrize("name", READ)
def test_the_order_of_rows_and_columns_does_not_matter(name, tmp_path):
    tables = written(name, tmp_path)
    before = plain(read(name, tmp_path))
    assert before[0]
    for path in tables:
        sep = ";" if name == "inbreast" else ","
        frame = pd.read_csv(path, dtype=str, keep_default_na=False, sep=sep)
        frame = frame.sample(frac=1, random_state=3)[sorted(frame.columns, reverse=True)]
        frame.to_csv(path, index=False, sep=sep)
    assert plain(read(name, tmp_path)) == before


@pytest.mark.parametrize(
    ("name", "table", "old", "new"),
    [
        ("own", "images.csv", "CC,R,1,B", "CC,R,0,B"),
        ("rsna", "train.csv", "61.0,1,1.0", "61.0,0,1.0"),
        ("embed", "tables/EMBED_OpenData_clinical.csv", "61.2,O", "61.2,"),
        ("cbis", "mass_case_description_train_set.csv", "CC,mass", "CC,calcification"),
        ("vindr", "finding_annotations.csv", "\"['Mass', 'Asymmetry']\"", "['Asymmetry']"),
    ],
)
def test_another_label_of_one_image_changes_that_image_alone(name, table, old, new, tmp_path):
    written(name, tmp_path)
    before, _ = plain(read(name, tmp_path))
    path = tmp_path / table
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    after, _ = plain(read(name, tmp_path))
    (changed,) = [image for image in before if after[image] != before[image]]
    concept = next(iter(READ[name][2]))
    assert (before[changed][concept], after[changed][concept]) == (1, 0)
    assert {**after[changed], concept: 1} == before[changed]
