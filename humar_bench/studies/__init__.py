"""Studies: the same measurements over a range, against ceilings or claims, or of this bench itself. One folder or file a study."""

from __future__ import annotations

# Study -> what makes it again from its folder: called with the records in their order and the settings.
MAKERS = {
    "scaling": "humar_bench.studies.scaling.tables:restore",
    "ablate": "humar_bench.studies.ablate:restore",
    "roofline": "humar_bench.studies.roofline.roofline:restore",
    "claims": "humar_bench.studies.claims.tables:restore",
    "backends": "humar_bench.studies.backends.tables:restore",
}
