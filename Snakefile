# mammo-sae: what a mammography foundation model has learnt. See README.md and docs/.
# Only includes here; the configuration is read in common.smk, one file per stage follows in the
# order in which data flows.
from snakemake.utils import min_version

min_version("9.27")


# A configuration given with --configfile stands for itself; later files are laid over earlier ones.
if not workflow.overwrite_configfiles:

    configfile: f"{workflow.basedir}/config/config.yaml"


report: "workflow/report/workflow.rst"


include: "workflow/rules/common.smk"
include: "workflow/rules/inputs.smk"
include: "workflow/rules/cohort.smk"
include: "workflow/rules/images.smk"
include: "workflow/rules/encoders.smk"
include: "workflow/rules/embeddings.smk"
include: "workflow/rules/sae.smk"
include: "workflow/rules/analysis.smk"
include: "workflow/rules/interventions.smk"
include: "workflow/rules/targets.smk"
include: "workflow/rules/report.smk"
include: "workflow/rules/figures.smk"
include: "workflow/rules/figures_of_saes.smk"


rule all:
    default_target: True
    input:
        TABLES,
        FIGURES,
        PAGES,
        CRATE,
