"""A git server for tests, over git http-backend: python3 git_server.py PORT ROOT LOG.

/private/… wants alice:s3cret/word+x, /token/… wants the user tok_1234567890 with any password, /redirect/… sends
on to another host name, /slow/… never answers. LOG gets one line for each request: path, Host, decoded credentials.
"""

import base64
import http.server
import os
import subprocess
import sys
import time

PORT, ROOT, LOG = int(sys.argv[1]), sys.argv[2], sys.argv[3]
WANTED = {"private": "alice:s3cret/word+x", "token": "tok_1234567890:"}


class Handler(http.server.BaseHTTPRequestHandler):
    def answer(self):
        area = self.path.split("/")[1]
        header = self.headers.get("Authorization", "")
        given = base64.b64decode(header[6:]).decode() if header.startswith("Basic ") else ""
        with open(LOG, "a", encoding="utf-8") as log:
            log.write(f"{self.path} {self.headers.get('Host')} {given}\n")
        if area == "slow":
            time.sleep(3600)
        if area == "redirect":
            self.send_response(302)
            self.send_header("Location", f"http://localhost:{PORT}{self.path.replace('redirect', 'private', 1)}")
            self.end_headers()
            return
        if area in WANTED and not given.startswith(WANTED[area]):
            self.send_response(401)
            self.send_header("WWW-Authenticate", 'Basic realm="git"')
            self.end_headers()
            return
        path, _, query = self.path.partition("?")
        env = {
            **os.environ,
            "GIT_PROJECT_ROOT": ROOT,
            "GIT_HTTP_EXPORT_ALL": "1",
            "PATH_INFO": "/" + path.split("/", 2)[2],
            "QUERY_STRING": query,
            "REQUEST_METHOD": self.command,
            "CONTENT_TYPE": self.headers.get("Content-Type", ""),
            "HTTP_CONTENT_ENCODING": self.headers.get("Content-Encoding", ""),
        }
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        out = subprocess.run(["/usr/lib/git-core/git-http-backend"], input=body, env=env, stdout=-1, check=False).stdout
        head, _, data = out.partition(b"\r\n\r\n")
        fields = [line.split(": ", 1) for line in head.decode().split("\r\n")]
        status = next((int(v[:3]) for k, v in fields if k == "Status"), 200)
        self.send_response(status)
        for k, v in fields:
            if k != "Status":
                self.send_header(k, v)
        self.end_headers()
        self.wfile.write(data)

    do_GET = do_POST = answer

    def log_message(self, *args):
        pass


http.server.ThreadingHTTPServer(("127.0.0.1", PORT), Handler).serve_forever()
