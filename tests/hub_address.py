"""The address of the stand-in Hub. Import this before the Hub's client, so that no test connects to the real Hub."""

from __future__ import annotations

import os
import socket
import tempfile

# The client reads its address and its folders once, on import: all tests share them.
SOCKET = socket.create_server(("127.0.0.1", 0), backlog=64)
ADDRESS = f"http://127.0.0.1:{SOCKET.getsockname()[1]}"
HOME = tempfile.mkdtemp(prefix="hub-home-")
os.environ |= {"HF_ENDPOINT": ADDRESS, "HF_HOME": HOME, "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
# Gradio's usage reports would wait forever, in a thread that keeps the process alive, because no stand-in answers them.
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
for name in (
    "HF_TOKEN",
    "HUGGING_FACE_HUB_TOKEN",
    "HF_TOKEN_PATH",
    "HF_HUB_CACHE",
    "HF_HUB_OFFLINE",
    "HF_OIDC_RESOURCE",
):
    os.environ.pop(name, None)
