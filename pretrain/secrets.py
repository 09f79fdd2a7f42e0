"""What must not be written down with a run's configuration: passwords in addresses, tokens from the environment."""

import re
from collections.abc import Collection, Mapping
from typing import Any

HIDDEN = "***"
# `scheme://user:password@host`; a path has lost one of the slashes.
_IN_ADDRESS = re.compile(r"(?<=:/)(/?)[^/\s@]+@")
_IN_QUERY = re.compile(
    r"([?&](?:access_)?(?:token|key|sig|signature|password|secret|x-amz-[a-z-]*|api_?key)=)[^&#\s]+",
    re.IGNORECASE,
)
_KEY = re.compile(r"(?:.*_)?(?:password|passwd|secret|api_?key|access_key|token)", re.IGNORECASE)
_VARIABLE = re.compile(r"(?:.*_)?(?:TOKEN|SECRET|PASSWORD|PASSWD|KEY|CREDENTIALS?)(?:_.*)?", re.IGNORECASE)
_FEWEST_CHARACTERS = 8  # a shorter value is no secret, and may stand in any text


def secrets_in(environment: Mapping[str, str]) -> frozenset[str]:
    """Values of variables that are named as secrets are (HF_TOKEN, AWS_SECRET_ACCESS_KEY, ...)."""
    return frozenset(
        value
        for name, value in environment.items()
        if _VARIABLE.fullmatch(name) and len(value) >= _FEWEST_CHARACTERS
    )


def without_secrets(content: Any, secrets: Collection[str]) -> Any:
    """Plain data with `***` for passwords in addresses, texts under keys that name secrets, and `secrets` anywhere."""
    if isinstance(content, Mapping):
        return {
            key: HIDDEN
            if isinstance(value, str) and value and _KEY.fullmatch(str(key))
            else without_secrets(value, secrets)
            for key, value in content.items()
        }
    if isinstance(content, list | tuple):
        return [without_secrets(each, secrets) for each in content]
    if not isinstance(content, str):
        return content
    for secret in sorted(secrets, key=len, reverse=True):
        content = content.replace(secret, HIDDEN)
    return _IN_QUERY.sub(rf"\1{HIDDEN}", _IN_ADDRESS.sub(rf"\1{HIDDEN}@", content))
