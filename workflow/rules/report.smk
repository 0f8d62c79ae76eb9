# Tables, figures and the report.
TABLES = expand(
    f"{RESULTS}/analysis/{{run[encoder]}}/{{run[layer]}}/{{run[sae]}}/seed{{run[seed]}}/truth.parquet",
    run=RUNS,
)
FIGURES = []
