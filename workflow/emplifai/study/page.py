"""The page on which people rate: server-rendered, its own style and script, no other host, nothing but the rater's own items.

Every answer to a rater comes from here. It names positions, never items; what wrote a reply is not known to this process.
"""

import hashlib
import hmac
import secrets
import sqlite3
import sys
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route

from emplifai.study import display
from emplifai.study.guard import POLICY, Headers, read_form
from emplifai.study.project import Project, token_sha256
from emplifai.study.store import LONGEST, Outcome, Rater, Store
from emplifai.study.throttle import Throttle


def application(project: Project, store: Store, tls: bool) -> Starlette:
    """The app. tls: cookies are sent over https only (also when a trusted proxy says that the rater's side is https)."""
    page = _Page(project, store, tls)
    routes = [
        Route("/", page.home),
        Route("/enter", page.enter, methods=["GET", "POST"]),
        Route("/consent", page.consent, methods=["POST"]),
        Route("/guide", page.guide, methods=["GET", "POST"]),
        Route("/rate", page.rate, methods=["POST"]),
        Route("/withdraw", page.withdraw, methods=["GET", "POST"]),
        Route("/health", lambda _: PlainTextResponse("ok")),
    ]
    handlers = {sqlite3.Error: page.unsaved, HTTPException: page.refused}
    return Starlette(routes=routes, exception_handlers=handlers, middleware=[(Headers, (), {})])


class _Page:
    def __init__(self, project: Project, store: Store, tls: bool):
        self.project, self.store, self.tls = project, store, tls
        self.words: dict[str, str] = project.texts["page"]
        self.throttle = Throttle()
        texts = Environment(
            loader=PackageLoader("emplifai", "templates"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
        )
        texts.filters |= {"visible": display.visible, "paragraphs": display.paragraphs}
        self.template = texts.get_template("rating.html.jinja")
        parts = files("emplifai.templates")
        self.style, self.script = (parts.joinpath(f"rating.{kind}").read_text("utf-8") for kind in ("css", "js"))

    def unsaved(self, request: Request, error: Exception) -> Response:
        """The disk is full, or the database locked: nothing was saved, and the page sends it again."""
        print(f"ratings: not saved: {error}", file=sys.stderr)
        return JSONResponse({"message": self.words["failed"]}, 503)

    def refused(self, request: Request, error: HTTPException) -> Response:
        """An error in the page's own words, which its detail is a key of."""
        said = self.words.get(error.detail, error.detail)
        if "application/json" in request.headers.get("accept", ""):
            return JSONResponse({"message": said}, error.status_code, error.headers)
        return PlainTextResponse(said, error.status_code, error.headers)

    async def home(self, request: Request) -> Response:
        """What is next for this rater: consent, guide, the open item, or the end."""
        rater = await self._rater(request)
        if rater is None:
            return self._show(request, "enter", message="")
        if ended := _ended(rater):
            return self._show(request, "end", rater, ended=ended)
        if rater.consent is None:
            return self._show(request, "consent", rater)
        if not rater.begun:
            return self._show(request, "guide", rater)
        order = self.project.orders[rater.rater_id]
        position, saved = await run_in_threadpool(self.store.open, rater.rater_id, order)
        if position >= len(order):
            return self._show(request, "end", rater, ended="done")
        item = self.project.items[order[position]]
        return self._show(request, "item", rater, item=item, position=position, total=len(order), saved=saved)

    async def enter(self, request: Request) -> Response:
        """A link is /enter#TOKEN: what stands after # stays in the browser, out of all logs; the page sends it as a form."""
        if request.method == "GET":
            return self._show(request, "enter", message="")
        form = await read_form(request)
        source = request.client.host if request.client else ""
        if wait := self.throttle.wait(source):
            headers = {"Retry-After": str(wait)}
            return self._show(request, "enter", status=429, headers=headers, message=self.words["too_many"])
        session = secrets.token_urlsafe(32)
        token = token_sha256(form.get("token", "").strip())
        if not await run_in_threadpool(self.store.enter, token, token_sha256(session)):
            self.throttle.wrong(source)
            return self._show(request, "enter", status=403, message=self.words["wrong_link"])
        if old := request.cookies.get(self._cookie(request)):
            await run_in_threadpool(self.store.leave, token_sha256(old))
        answer = _to_home()
        secure = self._secure(request)
        age = int(LONGEST.total_seconds())
        answer.set_cookie(self._cookie(request), session, max_age=age, path="/", secure=secure, httponly=True, samesite="strict")
        return answer

    async def consent(self, request: Request) -> Response:
        rater, form = await self._asked(request)
        if form.get("answer") not in ("agree", "refuse"):
            raise HTTPException(422, "no_answer")
        agreed = form["answer"] == "agree"
        await run_in_threadpool(self.store.consent, rater.rater_id, agreed, self.project.consent_sha256)
        return _to_home()

    async def guide(self, request: Request) -> Response:
        if request.method == "POST":
            rater, _ = await self._asked(request)
            await run_in_threadpool(self.store.begin, rater.rater_id)
            return _to_home()
        rater = await self._rater(request)
        if rater is None or rater.consent != "agreed" or _ended(rater):
            return _to_home()
        return self._show(request, "guide", rater)

    async def rate(self, request: Request) -> Response:
        """Save scores, and with next=1 go on. Answered as JSON to the script, as a redirect to a browser without one."""
        rater, form = await self._asked(request)
        if rater.consent != "agreed" or not rater.begun or _ended(rater):
            raise HTTPException(403, "not_now")
        order = self.project.orders[rater.rater_id]
        position, scores, was = self._ratings(form, len(order))
        close = form.get("next") == "1"
        criteria = self.project.criteria
        outcome = await run_in_threadpool(self.store.rate, rater.rater_id, position, scores, was, close, criteria)
        if "application/json" in request.headers.get("accept", ""):
            return self._told(outcome)
        return _to_home()

    async def withdraw(self, request: Request) -> Response:
        if request.method == "POST":
            rater, _ = await self._asked(request)
            await run_in_threadpool(self.store.withdraw, rater.rater_id)
            return _to_home()
        rater = await self._rater(request)
        if rater is None or rater.consent != "agreed" or _ended(rater):
            return _to_home()
        return self._show(request, "withdraw", rater)

    async def _rater(self, request: Request) -> Rater | None:
        session = request.cookies.get(self._cookie(request), "")
        return await run_in_threadpool(self.store.rater, token_sha256(session)) if session else None

    async def _asked(self, request: Request) -> tuple[Rater, dict[str, str]]:
        """Whose request it is and its form. 401 without a session, 403 when the form is not one of this session's pages."""
        rater = await self._rater(request)
        if rater is None:
            raise HTTPException(401, "no_session")
        form = await read_form(request)
        if not hmac.compare_digest(form.get("form", "").encode(), self._form_token(request).encode()):
            raise HTTPException(403, "old_page")
        return rater, form

    def _ratings(self, form: dict[str, str], total: int) -> tuple[int, dict[str, int], dict[str, int]]:
        """Position, scores and what the page believed to be saved; 422 for anything that is not on the scale."""
        points = {str(p): p for p in self.project.points}
        known = {"form", "position", "next", *self.project.criteria, *(f"was_{c}" for c in self.project.criteria)}
        positions = {str(p): p for p in range(total)}
        faults = [k for k in form if k not in known] + ([] if form.get("position") in positions else ["position"])
        named = {c: form[c] for c in self.project.criteria if c in form}
        was = {c: form[f"was_{c}"] for c in self.project.criteria if form.get(f"was_{c}")}
        faults += [c for c, score in [*named.items(), *was.items()] if score not in points]
        if faults or form.get("next", "1") != "1":
            raise HTTPException(422, "bad_value")
        scores, believed = ({c: points[s] for c, s in given.items()} for given in (named, was))
        return positions[form["position"]], scores, believed

    def _show(self, request: Request, kind: str, rater: Rater | None = None, status=200, headers=None, **values: Any) -> Response:
        nonce = secrets.token_urlsafe(16)
        html = self.template.render(
            kind=kind,
            rater=rater,
            nonce=nonce,
            form=self._form_token(request),
            style=self.style,
            script=self.script,
            texts=self.project.texts,
            page=self.words,
            criteria={c: self.project.texts["criteria"][c] for c in self.project.criteria},
            points=list(self.project.points),
            **values,
        )
        return HTMLResponse(html, status, {"Content-Security-Policy": POLICY.format(nonce), **(headers or {})})

    def _told(self, outcome: Outcome) -> Response:
        message = "" if outcome.status == "saved" else self.words[outcome.status]
        body = {"position": outcome.position, "saved": outcome.saved, "message": message}
        return JSONResponse(body, {"saved": 200, "incomplete": 422}.get(outcome.status, 409))

    def _form_token(self, request: Request) -> str:
        """Follows from the session's cookie, which no page and no other site can read."""
        session = request.cookies.get(self._cookie(request), "")
        return hmac.new(session.encode(), b"form", hashlib.sha256).hexdigest()

    def _secure(self, request: Request) -> bool:
        return self.tls or request.url.scheme == "https"

    def _cookie(self, request: Request) -> str:
        return "__Host-rater" if self._secure(request) else "rater"


def _ended(rater: Rater) -> str:
    return "withdrawn" if rater.withdrawn else "refused" if rater.consent == "refused" else ""


def _to_home() -> Response:
    return RedirectResponse("/", 303)
