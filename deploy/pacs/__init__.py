"""DICOM images in from a PACS or a modality by C-STORE, DICOM segmentations out by C-STORE or STOW-RS."""
