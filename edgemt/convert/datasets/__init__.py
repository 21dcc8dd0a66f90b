"""Public data sets by name: `edgemt import NAME --from FOLDER --out DIR` reads each as it is distributed.

A data set is a row (`row.DataSet`) in one of the files of rows (endoscopy.py, heart.py ...): regular expressions of its
files, the meaning of its labels, its published split, its terms, and where the layout was learnt from. The readers are
`pictures` (images with masks) and `volumes`. Nothing is downloaded. To add one: a row in such a file, and a tiny folder
in its layout in tests/support/dataset_samples.py; `registry.NOT_INCLUDED` has those that are left out, with the reason.
"""
