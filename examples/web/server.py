"""The site in a folder on 127.0.0.1, with the policy of its page on every file: a worker obeys its own file's header alone.

python server.py FOLDER PORT
"""

import re
import sys
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


class Handler(SimpleHTTPRequestHandler):
    """Files with the page's Content-Security-Policy; browsers ask anew for each, which may be of another model by now."""

    policy = ""

    def end_headers(self) -> None:
        """Two more."""
        self.send_header("Content-Security-Policy", self.policy)
        self.send_header("Cache-Control", "no-cache")
        super().end_headers()


def main(folder: str, port: str) -> None:
    """Serve until it is stopped."""
    page = (Path(folder) / "index.html").read_text("utf-8")
    Handler.policy = re.search('http-equiv="Content-Security-Policy" content="([^"]*)"', page)[1]
    with ThreadingHTTPServer(("127.0.0.1", int(port)), partial(Handler, directory=folder)) as server:
        host, port = server.server_address
        print(f"Serving {folder} on {host} port {port} (http://{host}:{port}/) ...", flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            sys.exit(0)


if __name__ == "__main__":
    main(*sys.argv[1:])
