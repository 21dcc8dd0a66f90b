"""Pretrained weights from the model hub: safetensors only, the local cache first, a quick no where there is none."""

from __future__ import annotations

import urllib.error
import urllib.request

PATIENCE_S = 3.0


def published_weights(repo: str | None, *, revision: str | None = None) -> str:
    """Path of the repository's safetensors: from the local cache, or downloaded once.

    Raises OSError within seconds where there is neither: the hub's own client would retry for most of a minute.
    """
    import huggingface_hub
    from huggingface_hub import constants

    if not repo:
        raise OSError("no weights are published for it")
    file = "model.safetensors"
    cached = huggingface_hub.try_to_load_from_cache(repo, file, revision=revision)
    if isinstance(cached, str):
        return cached
    if constants.HF_HUB_OFFLINE:
        raise OSError("not in the local cache, and HF_HUB_OFFLINE is set")
    request = urllib.request.Request(constants.ENDPOINT, method="HEAD")
    try:
        urllib.request.urlopen(request, timeout=PATIENCE_S).close()
    except urllib.error.HTTPError:
        pass  # it answered, that is all we ask
    except OSError as error:
        raise OSError("not in the local cache, and the model hub does not answer") from error
    return huggingface_hub.hf_hub_download(repo, file, revision=revision)
