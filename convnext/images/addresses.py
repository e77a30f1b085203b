"""Images behind an address of the web."""

import urllib.error
import urllib.request
from typing import Any

import convnext
from convnext.errors import InputError, require

SCHEMES = ("http://", "https://")
MAX_BYTES = 64 * 2**20  # of an image
TIMEOUT = 20  # seconds without an answer


def is_one(name: Any) -> bool:
    """Returns whether this is such an address."""
    return isinstance(name, str) and name.startswith(SCHEMES)


class _Redirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, request, file, code, message, headers, address):
        require(address.startswith(SCHEMES), "its redirection", address, " or ".join(SCHEMES))
        return super().redirect_request(request, file, code, message, headers, address)


def fetch(address: str) -> bytes:
    """Downloads an image. Raises InputError where it cannot, and above MAX_BYTES."""
    headers = {"User-Agent": f"convnext-jax/{convnext.__version__}"}
    request = urllib.request.Request(address, headers=headers)
    try:
        with urllib.request.build_opener(_Redirects).open(request, timeout=TIMEOUT) as answer:
            data = answer.read(MAX_BYTES + 1)
    except InputError as error:
        raise InputError(f"cannot read {address}: {error.problem}", error.accepted) from error
    except (OSError, ValueError) as error:  # of urllib, the network, or the address itself
        reason = getattr(error, "reason", None) or error
        raise InputError(f"cannot read {address}: {reason}", "an address that answers") from error
    too_large = f"an image of at most {MAX_BYTES:,} bytes"
    require(len(data) <= MAX_BYTES, f"the size of {address}", "more", too_large)
    return data
