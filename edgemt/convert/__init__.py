"""Videos, DICOM series and the files of label tools, to the folders that training reads, and masks back to label tools.

`importing.import_source` and `exporting.export_labels` are the two entries; `registry.FORMATS` has one row for each
format. A new format is a file with a `Format` and a line in the registry. Nothing here needs torch.
"""
