"""The page with the model behind it, on this machine only: prompts of one's own, nodes switched off and on.

Starlette and uvicorn serve it (pip install "sparse-circuits[serve]").
"""

from __future__ import annotations

import dataclasses
import socket
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from ..circuits.circuit import Circuit, within
from ..circuits.export import observed
from ..circuits.reading import parse_node
from .data import MAX_ANSWERS, Subject, page_data, shown_pairs
from .labels import set_labels
from .page import render

HOST = "127.0.0.1"
MAX_TOKENS, MAX_BODY, TOP = 1024, 1 << 20, 8


def application(subjects: Sequence[Subject], folders: Sequence[Path] = ()) -> Any:
    """The ASGI application: GET / is the page, POST /run runs a prompt, POST /labels writes labels into the circuit's folder.

    Requests whose Host is not this machine's, or that come from another page, are refused: a web site cannot reach it through the browser.
    """
    from starlette.applications import Starlette
    from starlette.middleware import Middleware
    from starlette.middleware.trustedhost import TrustedHostMiddleware
    from starlette.responses import HTMLResponse
    from starlette.routing import Route

    data = page_data(subjects, live=True)

    async def page(request: Any) -> Any:
        return HTMLResponse(render(data))

    one_at_a_time = threading.Lock()  # what is ablated is hooks on the one model

    def run(given: dict[str, Any]) -> dict[str, Any]:
        with one_at_a_time:
            return run_prompt(_subject(subjects, given), given.get("prompt"), given.get("off", []))

    def labels(given: dict[str, Any]) -> dict[str, Any]:
        subject = _subject(subjects, given)
        with one_at_a_time:
            set_labels(subject.circuit, given.get("labels"), given.get("groups"))
            for node in data["circuits"][given["circuit"]]["nodes"]:  # a page that is opened later shows them
                node["label"] = subject.circuit.labels.get(node["id"], "")
                node["group"] = subject.circuit.groups.get(node["id"], "")
            if folders:
                subject.circuit.save_pretrained(folders[given["circuit"]])
        return {"saved": bool(folders)}

    routes = [Route("/", page), *(Route(f"/{f.__name__}", _answered(f), methods=["POST"]) for f in (run, labels))]
    return Starlette(routes=routes, middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=[HOST, "localhost", "[::1]"])])


def _answered(function: Callable[[dict[str, Any]], dict[str, Any]]) -> Any:
    """JSON in, JSON out; wrong input is a sentence with status 400."""
    import json

    from starlette.concurrency import run_in_threadpool
    from starlette.responses import JSONResponse

    async def endpoint(request: Any) -> Any:
        origin = request.headers.get("origin")
        if origin is not None and origin != f"{request.url.scheme}://{request.headers['host']}":
            return JSONResponse({"error": "Only the page itself may ask."}, status_code=403)
        body = b""
        async for part in request.stream():
            body += part
            if len(body) > MAX_BODY:
                return JSONResponse({"error": f"More than {MAX_BODY:,} bytes were sent."}, status_code=413)
        try:
            given = json.loads(body)
            if not isinstance(given, dict):
                raise ValueError("The request is no JSON object.")
            return JSONResponse(await run_in_threadpool(function, given))
        except (ValueError, RecursionError, OSError) as error:
            return JSONResponse({"error": str(error)}, status_code=400)
        except Exception as error:  # the page shows it, and the server goes on
            return JSONResponse({"error": f"The server failed on this ({type(error).__name__})."}, status_code=500)

    return endpoint


def _subject(subjects: Sequence[Subject], given: dict[str, Any]) -> Subject:
    index = given.get("circuit")
    if not isinstance(index, int) or isinstance(index, bool) or not 0 <= index < len(subjects):
        raise ValueError(f"circuit is {index!r:.40}; the page has {len(subjects)}.")
    return subjects[index]


@torch.no_grad()
def run_prompt(subject: Subject, prompt: Any, off: Any) -> dict[str, Any]:
    """What the model and the circuit make of a prompt, with nodes switched off (held at their means) in both.

    Returns:
        tokens (text), activations ("site:index" -> values along the prompt, in the circuit), next (answers of the task, then the likeliest next
        tokens, with probabilities of the model and of the circuit).
    """
    if not isinstance(prompt, str) or not prompt:
        raise ValueError("The prompt is empty; give some text.")
    if any("\ud800" <= mark <= "\udfff" for mark in prompt):
        raise ValueError("The prompt has half a character (a lone surrogate); give whole text.")
    ids = subject.tokenizer.encode(prompt, add_special_tokens=False)
    longest = min(MAX_TOKENS, subject.model.config.block_size)
    if not 0 < len(ids) <= longest:
        raise ValueError(f"The prompt has {len(ids)} tokens; give 1 to {longest}.")
    if not isinstance(off, list) or not all(isinstance(node, str) for node in off):
        raise ValueError("off must be a list of nodes.")
    closed = [parse_node(subject.model, node) for node in off]
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


def without(circuit: Circuit, closed: Sequence[tuple[str, int]]) -> Circuit:
    """The circuit with these nodes closed, too."""
    nodes = {
        site: torch.tensor([i for i in each.tolist() if (site, i) not in closed], dtype=torch.long)
        for site, each in circuit.nodes.items()
    }
    nodes = {site: each for site, each in nodes.items() if len(each)}
    return dataclasses.replace(circuit, nodes=nodes, edges=None if circuit.edges is None else within(circuit.edges, nodes))


def holding_off(circuit: Circuit, model: Any, closed: Sequence[tuple[str, int]]) -> Any:
    """A block in which these nodes are at the circuit's means."""
    from ..circuits.ablation import ablated, holding

    changes = {}
    for site in {site for site, _ in closed}:
        open_ = torch.ones(circuit.widths[site], dtype=torch.bool)
        open_[[i for s, i in closed if s == site]] = False
        changes[site] = holding(open_, circuit.fills[site])
    return ablated(model, changes)


def serve(subjects: Sequence[Subject], folders: Sequence[Path], *, port: int, say: Callable[[str], None] = print) -> None:
    """Serves until interrupted, on loopback.

    Raises:
        ValueError: if Starlette and uvicorn are missing, or the port is taken.
    """
    try:
        import uvicorn

        app = application(subjects, folders)
    except ImportError as error:
        raise ValueError(f'{error.name} is missing; pip install "sparse-circuits[serve]".') from None
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((HOST, port))
        except OSError as error:
            raise ValueError(f"Port {port} cannot be used ({error.strerror}); choose another with --port, or 0.") from None
        listener.listen()  # who opens the address at once waits, and is not refused
        say(f"http://{HOST}:{listener.getsockname()[1]}/  (Ctrl-C ends it)")
        uvicorn.Server(uvicorn.Config(app, log_level="warning")).run(sockets=[listener])
