"""Where the stand-in Hub is: import this before the Hub's client, and no test talks to the Hub itself."""

from __future__ import annotations

import os
import socket
import tempfile

# The client reads its address and its folders once, when it is imported: so they are those of all tests.
SOCKET = socket.create_server(("127.0.0.1", 0), backlog=64)
ADDRESS = f"http://127.0.0.1:{SOCKET.getsockname()[1]}"
HOME = tempfile.mkdtemp(prefix="hub-home-")
os.environ |= {"HF_ENDPOINT": ADDRESS, "HF_HOME": HOME, "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
# Gradio's own news of a Blocks would wait here without end, where no stand-in answers, in a thread that outlives all.
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
