# mammo-sae shows what a mammography foundation model has learnt. See README.md and docs/. This file
# contains only includes. common.smk reads the configuration. The other files follow, one per stage,
# in the order of the data flow.
from pathlib import Path

from snakemake.utils import min_version

min_version("9.27")

# The folder of this workflow. If another workflow uses this one as a module, `workflow.basedir` is
# the folder of that workflow.
BASE = Path(workflow.current_basedir.get_path_or_uri(secret_free=True))


# A configuration given with --configfile replaces the default one. Values of later files replace
# those of earlier ones.
if not workflow.overwrite_configfiles:

    configfile: f"{BASE}/config/config.yaml"


report: "workflow/report/workflow.rst"


include: "workflow/rules/common.smk"
include: "workflow/rules/inputs.smk"
include: "workflow/rules/cohort.smk"
include: "workflow/rules/images.smk"
include: "workflow/rules/encoders.smk"
include: "workflow/rules/embeddings.smk"
include: "workflow/rules/sae.smk"
include: "workflow/rules/analysis.smk"
include: "workflow/rules/verdicts.smk"
include: "workflow/rules/naming.smk"
include: "workflow/rules/interventions.smk"
include: "workflow/rules/ablation.smk"
include: "workflow/rules/pairs.smk"
include: "workflow/rules/targets.smk"
include: "workflow/rules/report.smk"
include: "workflow/rules/atlas.smk"
include: "workflow/rules/figures.smk"
include: "workflow/rules/figures_of_saes.smk"


rule all:
    default_target: True
    input:
        TABLES,
        FIGURES,
        PAGES,
        STORES,
        CRATE,
