"""A server of files."""

import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@contextmanager
def serving(folder):
    """The address of a server of the folder. It redirects /moved to its a.png, and /escape to what
    is no address of the web."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            path = folder / self.path[1:]
            places = {"/moved": "/a.png", "/escape": "ftp://a/b.png"}
            if self.path in places:
                self.send_response(302)
                self.send_header("Location", places[self.path])
            else:
                self.send_response(200 if path.is_file() else 404)
            self.end_headers()
            if path.is_file():
                self.wfile.write(path.read_bytes())

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
