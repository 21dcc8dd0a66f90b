"""DICOM images in, DICOM segmentations out."""
