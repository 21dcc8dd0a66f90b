"""`edgemt dossier`: what is known of a ship, for the technical file of its manufacturer. No torch.

items.py       what the dossier consists of: sections with items, each filled in, not measured, or to be written
sources.py     the ship, the run, the records of `eval` and `stream --evidence`, the fault table
model.py       identity, data, figures, limits
risk.py        ISO 14971 and IEC 62304, FDA PCCP, annex IV of the EU AI Act
change_plan.py what may change later, within which limits, with which tests
sbom.py        the bill of materials in CycloneDX 1.6
page.py        dossier.html
write.py       the three files
"""
