"""The desk as a page of its own: Voila behind a token, for the browser of this machine only."""

import tempfile
import threading
import webbrowser
from pathlib import Path

from tornado import web
from voila.app import Voila
from voila.shutdown_kernel_handler import VoilaShutdownKernelHandler
from voila.tornado.handler import TornadoVoilaHandler

from ...workspace import Workspace

#: The page may load from this server only (Voila names a CDN), and stands in no other page.
POLICY = "default-src 'self' data: blob: 'unsafe-inline' 'unsafe-eval'; frame-ancestors 'none'"
#: Seconds after which the kernel of a page that lost its connection ends.
LEFT = 600


class Page(TornadoVoilaHandler):
    """The desk: nothing starts without the token."""

    async def prepare(self, **options) -> None:
        """Refuse what another page loads, or a browser in advance: it comes with the cookie."""
        said = self.request.headers
        own = said.get("Sec-Fetch-Site", "none") in ("none", "same-origin")
        if "Sec-Purpose" in said or not (own or said.get("Sec-Fetch-Dest") == "document"):
            self.current_user = self._jupyter_current_user = None  # the page of the error asks
            raise web.HTTPError(403, "no other page may load the desk; open its address")
        await super().prepare(**options)

    def set_default_headers(self) -> None:
        """A policy with the websocket of this address, and of no other."""
        super().set_default_headers()
        policy = f"{POLICY}; connect-src 'self' ws://{self.request.host}"  # Firefox: 'self' is http
        self.set_header("Content-Security-Policy", policy)
        self.set_header("Referrer-Policy", "same-origin")  # the address may hold the token


class Closed(VoilaShutdownKernelHandler):
    """The call of a page that closes: a beacon has a cookie, but no header against forgery."""

    def check_xsrf_cookie(self) -> None:
        """Only the desk's own page closes it."""
        if self.request.headers.get("Origin") != f"http://{self.request.host}":
            raise web.HTTPError(403, "only the desk's own page may close it")


class Atlas(Page):
    """The atlas of the profile, which links to the desk."""

    @web.authenticated
    async def get(self, path=None):
        """The file."""
        self.finish(Path(self.settings["atlas"]).read_bytes())


class Server(Voila):
    """Voila with a token in the address, as Jupyter has it, and names of this machine only."""

    def init_settings(self) -> dict:
        """Voila's, but the Host header is checked."""
        settings = super().init_settings()
        return settings | {"allow_remote_access": False, "local_hostnames": ["localhost"]}

    def init_handlers(self) -> list:
        """Voila's, but for the page and its end, and the atlas."""
        own: dict = {"/(.*)": Page, "/voila/api/shutdown/(.*)": Closed}
        found = [
            (path, own.get(path, handler), *rest)
            for path, handler, *rest in super().init_handlers()
        ]
        page = next(rest for path, _, *rest in found if path == "/(.*)")
        atlas = Path(self.app.settings["atlas"])
        return [("/atlas.html", Atlas, *page)] * atlas.is_file() + found

    def launch_browser(self) -> None:
        """Open a file that only this user can read: all see a command line, and so its token."""
        file, name = tempfile.mkstemp(suffix=".html", dir=self.connection_dir)
        with open(file, "w") as page:
            page.write(f'<meta http-equiv="refresh" content="0; url={self.display_url}">')
        threading.Thread(target=webbrowser.open, args=[Path(name).as_uri()], daemon=True).start()


def serve(notebook: Path, profile: str) -> None:
    """Serve the desk of a profile on 127.0.0.1, until interrupted."""
    atlas = str(Workspace(profile).artifacts / "atlas.html")
    settings = {"headers": {"Content-Security-Policy": POLICY}, "atlas": atlas}
    kernels = "--MappingKernelManager"
    options = ["--Voila.ip=127.0.0.1", "--Voila.auto_token=True"]
    options += [f"{kernels}.cull_idle_timeout={LEFT}", f"{kernels}.cull_interval={LEFT // 4}"]
    Server.launch_instance([str(notebook), *options], tornado_settings=settings)
