"""What Pillow may decode: `Image.open(file, formats=FORMATS)`.

Without it Pillow chooses among more than forty formats by a file's first bytes, whatever its name says: an EPS named
.png starts Ghostscript, others have decoders that nothing here needs.
"""

from __future__ import annotations

FORMATS = ("PNG", "JPEG", "BMP", "TIFF", "WEBP")
