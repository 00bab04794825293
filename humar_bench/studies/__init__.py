"""Studies: the same measurements over a range, against ceilings or claims, or of this bench itself. One folder or file a study."""

from __future__ import annotations

# Study -> what makes it again from its folder: called with the records in their order and the settings.
MAKERS = {
    "scaling": "humar_bench.studies.scaling.tables:restore",
    "ablate": "humar_bench.studies.ablate:restore",
    "roofline": "humar_bench.studies.roofline.roofline:restore",
    "claims": "humar_bench.studies.claims.tables:restore",
    "backends": "humar_bench.studies.backends.tables:restore",
    "variants": "humar_bench.studies.variants.variants:restore",
    "accuracy": "humar_bench.studies.accuracy.tables:restore",
    "search": "humar_bench.studies.search.tables:restore",
}
# Study -> the CSV files that its folder holds beside NAME.md, study.json and, where there are curves, NAME.png and NAME.svg.
TABLES = {
    "scaling": ("exponents", "points"),
    "ablate": ("ablation",),
    "roofline": ("roofline", "ceilings"),
    "claims": ("claims",),
    "backends": ("backends",),
    "variants": ("variants", "parts"),
    "accuracy": ("retention", "runs", "curves", "rates"),
    "search": ("designs", "runs"),
}


def files_of(study: str) -> tuple[str, ...]:
    """Every file that a study's folder may hold, but the records."""
    return ("study.json", *(f"{study}.{kind}" for kind in ("md", "png", "svg")), *(f"{table}.csv" for table in TABLES[study]))
