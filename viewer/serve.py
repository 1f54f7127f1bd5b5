"""The page with the model behind it, on this machine only: prompts of one's own, nodes switched off and on.

Starlette and uvicorn serve it (pip install "sparse-circuits[serve]").
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import functools
import json
import socket
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from ..circuits.circuit import Circuit
from ..circuits.edges import within
from ..circuits.reading import observed, parse_node
from ..circuits.sites import require_csp
from ..hub import require
from .data import MAX_ANSWERS, Subject, page_data, shown_pairs
from .labels import set_labels
from .page import render

HOST = "127.0.0.1"
MAX_TOKENS, MAX_BODY, TOP = 1024, 1 << 20, 8
MAX_SECONDS = 20  # for the body of a request to arrive
MAX_SAID = 300  # characters of a message: it may quote what was sent
# On every answer, also of what is refused: nobody may frame it, guess its type, read it from another page or keep it. What the page may load is in its
# own policy (viewer/page.py), which holds besides this one.
HEADERS = {
    "content-security-policy": "frame-ancestors 'none'; base-uri 'none'; form-action 'none'; object-src 'none'",
    "x-frame-options": "DENY",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}


def application(subjects: Sequence[Subject], folders: Sequence[Path] = ()) -> Any:
    """The ASGI application: GET / is the page, POST /run runs a prompt, POST /labels writes labels into the circuit's folder.

    Requests whose Host is not this machine's, or that come from another page, are refused: a web site cannot reach it through the browser. Nor can it
    show it in a frame, where a click would be guided (`HEADERS`).
    """
    from starlette.applications import Starlette
    from starlette.middleware import Middleware
    from starlette.middleware.trustedhost import TrustedHostMiddleware
    from starlette.responses import HTMLResponse
    from starlette.routing import Route

    data = page_data(subjects, live=True)

    def page(request: Any) -> Any:
        return HTMLResponse(render(data))

    one_at_a_time = threading.Lock()  # what is ablated is hooks on the one model

    def run(given: dict[str, Any]) -> dict[str, Any]:
        return run_prompt(_subject(subjects, given), given.get("prompt"), given.get("off", []), one_at_a_time)

    def labels(given: dict[str, Any]) -> dict[str, Any]:
        subject = _subject(subjects, given)
        for names in (given.get("labels"), given.get("groups")):
            if isinstance(names, dict) and len(names) > sum(subject.circuit.widths.values()):
                raise ValueError(f"{len(names):,} nodes have names, more than the model has; give each once.")
        with one_at_a_time:
            set_labels(subject.circuit, given.get("labels"), given.get("groups"))
            for node in data["circuits"][given["circuit"]]["nodes"]:  # a page that is opened later shows them
                node["label"] = subject.circuit.labels.get(node["id"], "")
                node["group"] = subject.circuit.groups.get(node["id"], "")
            if folders:
                subject.circuit.save_pretrained(folders[given["circuit"]])
        return {"saved": bool(folders)}

    routes = [Route("/", page), *(Route(f"/{f.__name__}", _answered(f), methods=["POST"]) for f in (run, labels))]
    hosts = Middleware(TrustedHostMiddleware, allowed_hosts=[HOST, "localhost", "[::1]"])
    return _with_headers(Starlette(routes=routes, middleware=[hosts]))


def _with_headers(app: Any) -> Any:
    """The application with HEADERS on every answer: around all of it, since Starlette's own middleware does not see what Starlette says of its failures."""
    own = [(name.encode(), value.encode()) for name, value in HEADERS.items()]

    async def guarded(scope: Any, receive: Any, send: Any) -> None:
        async def sending(message: Any) -> None:
            if message["type"] == "http.response.start":
                message = {
                    **message,
                    "headers": [*(pair for pair in message["headers"] if pair[0].decode() not in HEADERS), *own],
                }
            await send(message)

        await app(scope, receive, sending)

    return guarded


def _answered(function: Callable[[dict[str, Any]], dict[str, Any]]) -> Any:
    """JSON in, JSON out; wrong input is a sentence with status 400."""
    from starlette.concurrency import run_in_threadpool
    from starlette.requests import ClientDisconnect
    from starlette.responses import JSONResponse, Response

    async def endpoint(request: Any) -> Any:
        refused = _refused(request)
        if refused is not None:
            return JSONResponse({"error": refused[1]}, status_code=refused[0])
        try:
            body = await asyncio.wait_for(_body(request), MAX_SECONDS)
            if body is None:
                return JSONResponse({"error": f"More than {MAX_BODY:,} bytes were sent."}, 413, {"connection": "close"})
            given = json.loads(body)
            if not isinstance(given, dict):
                raise ValueError("The request is no JSON object.")
            return JSONResponse(await run_in_threadpool(function, given))
        except (asyncio.TimeoutError, TimeoutError):
            return JSONResponse(
                {"error": f"The request did not arrive within {MAX_SECONDS} seconds."}, 408, {"connection": "close"}
            )
        except ClientDisconnect:
            return Response(status_code=400)  # nobody reads it
        except (ValueError, RecursionError, OSError) as error:
            return JSONResponse({"error": str(error)[:MAX_SAID]}, status_code=400)
        except Exception as error:  # the page shows it, and the server goes on
            return JSONResponse({"error": f"The server failed on this ({type(error).__name__})."}, status_code=500)

    return endpoint


def _refused(request: Any) -> tuple[int, str] | None:
    """Status and sentence, if a request is not the page's own: of another origin, or of a kind that any page may send without being asked (a form)."""
    origin, kind = request.headers.get("origin"), request.headers.get("content-type", "application/json")
    if origin is not None and origin != f"{request.url.scheme}://{request.headers['host']}":
        return 403, "Only the page itself may ask."
    if request.headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
        return 403, "Only the page itself may ask."
    if kind.partition(";")[0].strip().lower() != "application/json":
        return 415, "The request is no application/json."
    return None


async def _body(request: Any) -> bytes | None:
    """None: it is too long."""
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > MAX_BODY:
            return None
    return bytes(body)


def _subject(subjects: Sequence[Subject], given: dict[str, Any]) -> Subject:
    index = given.get("circuit")
    if not isinstance(index, int) or isinstance(index, bool) or not 0 <= index < len(subjects):
        raise ValueError(f"circuit is {index!r:.40}; the page has {len(subjects)}.")
    return subjects[index]


@torch.no_grad()
def run_prompt(subject: Subject, prompt: Any, off: Any, alone: Any = None) -> dict[str, Any]:
    """What the model and the circuit make of a prompt, with nodes switched off (held at their means) in both.

    Args:
        alone: lock that is held while the model (or its tokenizer) works; None: nobody else uses it.

    Returns:
        tokens (text), activations ("site:index" -> values along the prompt, in the circuit), next (answers of the task, then the likeliest next
        tokens, with probabilities of the model and of the circuit).
    """
    _require_prompt(subject, prompt)
    closed = _closed(subject, off)
    with alone or contextlib.nullcontext():
        return _run(subject, prompt, closed)


def _longest(subject: Subject) -> int:
    return min(MAX_TOKENS, int(subject.model.config.block_size))


def _require_prompt(subject: Subject, prompt: Any) -> None:
    """Raises ValueError for a prompt that need not be tokenised to be refused: its tokens are at most as long as the vocabulary's longest, and a blank."""
    if not isinstance(prompt, str) or not prompt:
        raise ValueError("The prompt is empty; give some text.")
    most = _longest(subject) * (1 + _longest_token(subject.tokenizer))
    if len(prompt) > most:
        raise ValueError(
            f"The prompt has {len(prompt):,} characters, and its tokens could hold {most:,}; give 1 to {_longest(subject)} tokens."
        )
    if any("\ud800" <= mark <= "\udfff" for mark in prompt):
        raise ValueError("The prompt has half a character (a lone surrogate); give whole text.")


@functools.lru_cache(maxsize=16)
def _longest_token(tokenizer: Any) -> int:
    return max(map(len, tokenizer.get_vocab()))


def _closed(subject: Subject, off: Any) -> dict[str, list[int]]:
    """The nodes that are switched off, by site; each once, however often it is named."""
    if not isinstance(off, list) or not all(isinstance(node, str) for node in off):
        raise ValueError("off must be a list of nodes.")
    names, sites = set(off), require_csp(subject.model).node_sites()
    nodes = sum(site.width for site in sites.values())
    if len(names) > nodes:
        raise ValueError(f"off names {len(names):,} nodes, more than the {nodes:,} of the model; give each once.")
    closed: dict[str, set[int]] = {}
    for site, index in (parse_node(subject.model, name, sites) for name in sorted(names)):
        closed.setdefault(site, set()).add(index)
    return {site: sorted(indices) for site, indices in closed.items()}


def _run(subject: Subject, prompt: str, closed: dict[str, list[int]]) -> dict[str, Any]:
    ids, longest = subject.tokenizer.encode(prompt, add_special_tokens=False), _longest(subject)
    if not 0 < len(ids) <= longest:
        raise ValueError(f"The prompt has {len(ids)} tokens; give 1 to {longest}.")
    batch = torch.tensor([ids])
    with holding_off(subject.circuit, subject.model, closed):
        _, _, full = observed(subject.model, batch)
    seen, _, own = observed(subject.model, batch, without(subject.circuit, closed))
    both = torch.stack([full.softmax(0), own.softmax(0)])
    answers = _answers(subject)
    top = answers + [i for i in both.amax(0).topk(min(TOP, both.shape[1])).indices.tolist() if i not in answers]
    return {
        "tokens": [subject.tokenizer.decode([i]) for i in ids],
        "activations": {f"{site}:{int(i)}": seen[site][:, i].tolist() for site, nodes in subject.circuit.nodes.items() for i in nodes},
        "next": [
            {"text": subject.tokenizer.decode([i]), "answer": i in answers, "model": float(both[0, i]), "circuit": float(both[1, i])} for i in top
        ],
    }  # fmt: skip


def _answers(subject: Subject) -> list[int]:
    """Tokens that answer the prompts which the page shows."""
    pairs = shown_pairs(subject)
    return [] if pairs is None else list(dict.fromkeys(pairs.answers.flatten().tolist()))[:MAX_ANSWERS]


def without(circuit: Circuit, closed: Mapping[str, Sequence[int]]) -> Circuit:
    """The circuit with these nodes (by site) closed, too."""
    nodes = {
        site: torch.tensor(sorted(set(each.tolist()) - set(closed.get(site, ()))), dtype=torch.long)
        for site, each in circuit.nodes.items()
    }
    nodes = {site: each for site, each in nodes.items() if len(each)}
    return dataclasses.replace(circuit, nodes=nodes, edges=None if circuit.edges is None else within(circuit.edges, nodes))


def holding_off(circuit: Circuit, model: Any, closed: Mapping[str, Sequence[int]]) -> Any:
    """A block in which these nodes (by site) are at the circuit's means."""
    from ..circuits.ablation import ablated, holding

    changes = {}
    for site, indices in closed.items():
        open_ = torch.ones(circuit.widths[site], dtype=torch.bool)
        open_[list(indices)] = False
        changes[site] = holding(open_, circuit.fills[site])
    return ablated(model, changes)


def serve(subjects: Sequence[Subject], folders: Sequence[Path], *, port: int, say: Callable[[str], None] = print) -> None:
    """Serves until interrupted, on loopback.

    Raises:
        MissingExtra: if Starlette or uvicorn is missing (the extra `serve`).
        ValueError: if the port is taken.
    """
    for module in ("uvicorn", "starlette"):
        require(module, "pages with the model behind them")
    import uvicorn

    app = application(subjects, folders)
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((HOST, port))
        except OSError as error:
            raise ValueError(f"Port {port} cannot be used ({error.strerror}); choose another with --port, or 0.") from None
        listener.listen()  # who opens the address at once waits, and is not refused
        say(f"http://{HOST}:{listener.getsockname()[1]}/  (Ctrl-C ends it)")
        uvicorn.Server(uvicorn.Config(app, log_level="warning", server_header=False)).run(sockets=[listener])
