"""Pretrained weights from the model hub: safetensors only, the local cache first, a quick no where there is none."""

from __future__ import annotations

import os
import urllib.error
import urllib.request

PATIENCE_S = 3.0
FILE = "model.safetensors"


def cached_weights(repo: str | None, *, revision: str | None = None) -> str | None:
    """Path of the repository's safetensors in the local cache, None where it is not there or a link leads nowhere."""
    import huggingface_hub

    if not repo:
        return None
    cached = huggingface_hub.try_to_load_from_cache(repo, FILE, revision=revision)
    return cached if isinstance(cached, str) and os.path.isfile(cached) else None


def published_weights(repo: str | None, *, revision: str | None = None) -> str:
    """Path of the repository's safetensors: from the local cache, or downloaded once.

    Raises OSError within seconds where there is neither: the hub's own client would retry for most of a minute.
    """
    import huggingface_hub
    from huggingface_hub import constants

    if not repo:
        raise OSError("no weights are published for it")
    cached = cached_weights(repo, revision=revision)
    if cached is not None:
        return cached
    if constants.HF_HUB_OFFLINE:
        raise OSError("not in the local cache, and HF_HUB_OFFLINE is set")
    request = urllib.request.Request(constants.ENDPOINT, method="HEAD")
    try:
        urllib.request.urlopen(request, timeout=PATIENCE_S).close()
    except urllib.error.HTTPError as error:
        if error.code == 407:
            raise OSError("the proxy refuses (407); set HTTPS_PROXY with its user and password") from error
        # any other answer shows that the hub can be reached
    except OSError as error:
        raise OSError(
            f"not in the local cache, and the model hub cannot be reached{_proxy()}; name a file with "
            "--student.encoder-weights or --teacher.encoder-weights"
        ) from error
    try:
        return huggingface_hub.hf_hub_download(repo, FILE, revision=revision)
    except Exception as error:  # the client raises its own kinds for gated, missing and damaged
        reason = " ".join(str(error).split())[:160] or type(error).__name__
        raise OSError(f"download failed ({reason}); name a file with --student.encoder-weights") from error


def _proxy() -> str:
    named = os.environ.get("HTTPS_PROXY") or os.environ.get("https_proxy")
    return " through the proxy of HTTPS_PROXY" if named else ""
