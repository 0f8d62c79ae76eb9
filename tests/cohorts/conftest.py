from __future__ import annotations

from pathlib import Path

import pytest

BREASTS = """\
study_id,series_id,image_id,laterality,view_position,height,width,breast_birads,breast_density,split
s1,x,i1,L,CC,300,200,BI-RADS 4,DENSITY B,training
s1,x,i2,L,MLO,300,200,BI-RADS 4,DENSITY B,training
s2,x,i3,R,CC,400,250,BI-RADS 1,DENSITY D,test
s2,x,i4,R,MLO,400,250,BI-RADS 1,,test
"""
FINDINGS = """\
study_id,image_id,finding_categories,finding_birads,xmin,ymin,xmax,ymax,split
s1,i1,"['Mass', 'Suspicious Calcification']",BI-RADS 4,10.5,20,40.25,60,training
s1,i2,['Mass'],BI-RADS 4,,,,,training
s1,i2,['Mass'],BI-RADS 4,150,-12.5,215,80,training
s2,i3,"['Focal Asymmetry']",BI-RADS 3,5,5,50,50,test
s2,i4,['No Finding'],,,,,,test
"""
METADATA = """\
SOP Instance UID,Patient's Age,Manufacturer,Manufacturer's Model Name,Imager Pixel Spacing,\
Window Center
i1,053Y,ACME,Mark 1,"[0.085, 0.085]",100.5
i2,039Y,ACME,Mark 1,"[0.085, 0.085]",200
i3,,Other,,,300
i4,088Y,Other,Mark 2,0.1,400
"""


@pytest.fixture
def vindr_folder(tmp_path) -> Path:
    """Annotations of two patients in VinDr-Mammo's layout, without images."""
    folder = tmp_path / "source"
    folder.mkdir()
    (folder / "breast-level_annotations.csv").write_text(BREASTS)
    (folder / "finding_annotations.csv").write_text(FINDINGS)
    (folder / "metadata.csv").write_text(METADATA)
    return folder
