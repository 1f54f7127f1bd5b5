"""Files from an http(s) address, within limits: of size, of time, of where redirects lead; errors never repeat a password or a token. What broke off goes on
where it ended."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import http.client
import re
import socket
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

from tqdm import tqdm

PATIENCE = 60.0  # seconds until an answer begins, and of silence within it
SLOWEST = 10_000  # bytes in a second, on average after the first minute; less is no download that ends


def is_url(source: object) -> bool:
    return re.match(r"https?://", str(source), re.IGNORECASE) is not None


def file_url(folder: str, file: str) -> str:
    """The address of a file in a folder's; a query stays, a fragment goes.

    Raises:
        ValueError: if the address has a password, which would end up in logs and in what is published, or is none.
    """
    try:
        parts = urllib.parse.urlsplit(folder.strip())
        known, _ = bool(parts.hostname), parts.port
    except ValueError:
        known = False
    if not known or any(ord(each) <= 32 or ord(each) == 127 for each in folder.strip()):
        raise ValueError(f"{shown(folder)} is no address; give http(s)://host/folder.")
    if "@" in parts.netloc:
        raise ValueError(f"{shown(folder)} has a user or password in it; download the folder by hand and give its path.")
    return urllib.parse.urlunsplit((parts.scheme, parts.netloc, f"{parts.path.rstrip('/')}/{file}", parts.query, ""))


def folder_name(url: str) -> str:
    """What a folder's address calls it."""
    return urllib.parse.urlsplit(url).path.rstrip("/").rpartition("/")[2] or "checkpoint"


def kept_beside(dest: str | Path) -> Path:
    """The folder beside `dest` in which downloads for it are kept until it is there."""
    return Path(dest).absolute().with_name(f".{Path(dest).name}.download")


def shown(url: str) -> str:
    """An address without user, password, query and fragment."""
    text = re.split(r"[?#]", str(url), maxsplit=1)[0]
    return re.sub(r"//[^/]*@", "//", "".join(each if each.isprintable() else "?" for each in text))[:300]


def download(url: str, path: Path, largest: int) -> None:
    """Writes what an address answers to a file, which appears when it is complete; where the server names the version (ETag) what broke off is kept beside it,
    and a second call asks for the rest. Held to the length and the MD5 (`Content-MD5`) that the server states.

    Raises:
        ValueError: in one sentence: no answer, another one than 200, more than `largest` bytes, fewer than announced, another hash than announced, too slow,
            or a redirect to where it must not lead.
    """
    watch, part = _Watch(), _Part(path)
    fix = "check the network or download the folder by hand"
    try:
        with _opener(watch).open(urllib.request.Request(url, headers=part.wanted()), timeout=PATIENCE) as response:
            watch.stop()
            if watch.rang:  # headers that were cut off look like their end
                raise TimeoutError
            first = part.begin(response)
            total = _length(response.headers.get("Content-Length"), url)
            if total is not None and first + total > largest:
                part.drop()
                raise ValueError(
                    f"{shown(url)} has {first + total:,} bytes, more than the {largest:,} that it can need; check the address."
                )
            done = _copy(response, part, largest, total, url)
            expected = response.headers.get("Content-MD5")
    except urllib.error.HTTPError as error:
        if error.code == 416:  # what was kept is longer than the file
            part.drop()
        raise ValueError(f"{shown(url)} answered {error.code} {_clean(error.reason)}; check the address.") from None
    except urllib.error.URLError as error:
        raise ValueError(f"{shown(url)} cannot be reached ({_clean(error.reason)}); {fix}.") from None
    except http.client.InvalidURL:  # whose text is the address
        raise ValueError(f"{shown(url)} is no address; give http(s)://host/folder.") from None
    except (http.client.HTTPException, OSError) as error:
        late = f"no answer within {PATIENCE:g} seconds" if watch.rang else _clean(error) or type(error).__name__
        raise ValueError(f"{shown(url)} cannot be reached, or broke off ({late}); {fix}.") from None
    finally:
        watch.stop()
    if total is not None and done != first + total:
        raise ValueError(f"{shown(url)} broke off after {done:,} of {first + total:,} bytes; try again.")
    part.finish(expected, url)


class _Part:
    """What has come of a file so far: `NAME.part`, and in `NAME.part.tag` the version that it is of."""

    def __init__(self, path: Path):
        self.path, self.file, self.tag = path, path.with_name(path.name + ".part"), path.with_name(path.name + ".part.tag")

    def wanted(self) -> dict[str, str]:
        """Headers that ask for the rest, if the version is still that one."""
        if not (self.file.is_file() and self.tag.is_file() and self.file.stat().st_size):
            return {}
        tag = self.tag.read_text(encoding="ascii", errors="replace")
        return {"Range": f"bytes={self.file.stat().st_size}-", "If-Range": tag} if _plain(tag) else {}

    def begin(self, response: Any) -> int:
        """How many bytes are there already."""
        if response.status == 206:
            found = re.match(r"bytes (\d{1,18})-", response.headers.get("Content-Range") or "")
            if found is not None and self.file.is_file() and int(found[1]) == self.file.stat().st_size:
                return int(found[1])
            self.drop()
            raise ConnectionError("an answer to something else")
        self.drop()
        tag = response.headers.get("ETag") or ""
        if _plain(tag) and not tag.startswith("W/"):
            self.tag.write_text(tag, encoding="ascii")
        return 0

    def drop(self) -> None:
        self.file.unlink(missing_ok=True)
        self.tag.unlink(missing_ok=True)

    def finish(self, expected: str | None, url: str) -> None:
        if expected is not None:
            with open(self.file, "rb") as file:
                found = base64.b64encode(hashlib.file_digest(file, "md5").digest()).decode("ascii")
            if found != expected.strip():
                self.drop()
                raise ValueError(f"{shown(url)} does not have the MD5 that the server states; try again.")
        self.file.replace(self.path)
        self.tag.unlink(missing_ok=True)


def _plain(tag: str) -> bool:
    return re.fullmatch(r'(W/)?"[!#-~]{1,200}"', tag) is not None


def _copy(response: Any, part: _Part, largest: int, total: int | None, url: str) -> int:
    """All bytes that are there then. A part whose version is not known is not kept."""
    first = done = part.file.stat().st_size if response.status == 206 else 0
    began, whole = time.monotonic(), None if total is None else first + total
    try:
        with (
            open(part.file, "ab") as file,
            tqdm(total=whole, initial=first, unit="B", unit_scale=True, desc=part.path.name, disable=None) as bar,
        ):
            while chunk := _next(response, url, done):
                done += len(chunk)
                if done > largest:
                    part.tag.unlink(missing_ok=True)
                    raise ValueError(f"{shown(url)} sends more than the {largest:,} bytes that it can need; check the address.")
                if time.monotonic() - began > PATIENCE + (done - first) / SLOWEST:
                    raise ValueError(
                        f"{shown(url)} sent only {done:,} bytes in {time.monotonic() - began:.0f} seconds; download it by hand."
                    )
                file.write(chunk)
                bar.update(len(chunk))
    except BaseException:
        if not part.tag.is_file():
            part.drop()
        raise
    return done


def _next(response: Any, url: str, done: int) -> bytes:
    try:
        return response.read1(1 << 20)  # what is there, not when a whole MB is
    except (ValueError, http.client.IncompleteRead):  # chunks whose sizes are no numbers, or that end early
        raise ValueError(f"{shown(url)} broke off after {done:,} bytes; try again.") from None


def _length(text: str | None, url: str) -> int | None:
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) < 19):
        raise ValueError(
            f"{shown(url)} answers with {text!r:.40} for its length; check the address, or download the folder by hand."
        )
    return int(text)


def _clean(reason: object) -> str:
    """A server's or system's words on one line, without the addresses in it."""
    text = getattr(reason, "strerror", None) or str(reason)
    return re.sub(r"\w+://\S+", "...", " ".join("".join(c if c.isprintable() else " " for c in text).split()))[:100]


class _Watch:
    """Ends a connection whose answer does not begin in time: a timeout alone never strikes while single bytes come."""

    def __init__(self) -> None:
        self.rang = False
        self._timers: list[threading.Timer] = []

    def over(self, sock: socket.socket) -> None:
        timer = threading.Timer(PATIENCE, self._ring, (sock,))
        timer.daemon = True
        self._timers.append(timer)
        timer.start()

    def _ring(self, sock: socket.socket) -> None:
        self.rang = True
        with contextlib.suppress(OSError):
            sock.shutdown(socket.SHUT_RDWR)

    def stop(self) -> None:
        for timer in self._timers:
            timer.cancel()


def _opener(watch: _Watch) -> urllib.request.OpenerDirector:
    """http and https only: no files, no ftp, no data: addresses, wherever a redirect leads."""

    class Plain(http.client.HTTPConnection):
        def connect(self) -> None:
            super().connect()
            watch.over(self.sock)

    class Secure(http.client.HTTPSConnection):
        def connect(self) -> None:
            super().connect()
            watch.over(self.sock)

    class OpenPlain(urllib.request.HTTPHandler):
        def http_open(self, request: urllib.request.Request) -> Any:
            return self.do_open(Plain, request)

    class OpenSecure(urllib.request.HTTPSHandler):
        def https_open(self, request: urllib.request.Request) -> Any:
            return self.do_open(Secure, request)

    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler,
        OpenPlain,
        OpenSecure,
        _Redirects,
        urllib.request.HTTPErrorProcessor,
        urllib.request.HTTPDefaultErrorHandler,
    ):
        opener.add_handler(handler())
    return opener


class _Redirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, request: Any, fp: Any, code: int, message: str, headers: Any, to: str) -> Any:
        was, now = urllib.parse.urlsplit(request.full_url).scheme, urllib.parse.urlsplit(to).scheme
        if now not in ("http", "https") or (was == "https" and now == "http"):
            raise ValueError(
                f"{shown(request.full_url)} leads to a {now or 'nameless'} address, which is not followed; check the address."
            )
        return super().redirect_request(request, fp, code, message, headers, to)

    def http_error_302(self, request: Any, fp: Any, code: int, message: str, headers: Any) -> Any:
        # before urllib's own look at where it leads, whose error repeats the address
        try:
            to = urllib.parse.urljoin(request.full_url, headers.get("location") or headers.get("uri") or "")
        except ValueError:
            to = "no:address"
        self.redirect_request(request, fp, code, message, headers, to)
        return super().http_error_302(request, fp, code, message, headers)

    http_error_301 = http_error_303 = http_error_307 = http_error_308 = http_error_302  # type: ignore[assignment]
