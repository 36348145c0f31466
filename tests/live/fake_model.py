"""A fake OpenAI-compatible chat model on loopback, scripted by markers in the user's message.

    fake_model.py PORT REQUEST_LOG

Standard library only. What it answers depends on the text since the last finished assistant message:

    [[exec COMMAND]]   call the tool exec with that command, then answer with text
    [[read PATH]]      call the tool read with that path, then answer with text
    [[spawn TASK]]     call the tool sessions_spawn with that task, then answer with text
    [[say TEXT]]       answer with that text
    [[err N]]          HTTP status N
    [[slow N]]         spread the answer over N seconds
    (no marker)        a short text

OpenClaw appends its own context as further user messages, so all user messages of the current turn are joined; it
offers only core tools from 2026.9 on, the others are called through its tool `tool_call {id, args}`. Usage is made up
but deterministic: prompt_tokens is the prompt's characters / 4, of which 60 % counts as cached from the second
exchange on; every answer has three reasoning tokens, a part of completion_tokens.
"""

import json
import re
import sys
import threading
import time
import typing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

MODELS = ("fake-1", "fake-mini", "flaky-1")
REASONING_TOKENS = 3
CACHED_SHARE = 0.6
# The gateway ends a run whose model has said nothing for two minutes; a busy machine takes its share of them.
LONGEST_PAUSE_SECONDS = 10
CHUNK_PAUSE_SECONDS = 0.02
ERROR_TYPES = {401: "authentication_error", 429: "rate_limit_error", 400: "invalid_request_error"}
# A request for a compaction summary quotes the conversation, markers included; its system prompt tells it apart.
SUMMARY_PROMPT = re.compile(r"context summarization assistant|merge.{0,40}summar|structured summary", re.IGNORECASE)
SUMMARY_HEADINGS = (
    "Goal", "Constraints & Preferences", "Progress", "Key Decisions", "Next Steps", "Critical Context", "Decisions",
    "Open TODOs", "Constraints/Rules", "Pending user asks", "Exact identifiers",
)  # fmt: skip
SUMMARY = "".join(f"## {heading}\nNone.\n" for heading in SUMMARY_HEADINGS)


def text_of(content):
    """The text of a message's content, which is a string or a list of parts."""
    if isinstance(content, list):
        return "\n".join(part.get("text", "") for part in content if isinstance(part, dict))
    return content if isinstance(content, str) else ""


def marker(name, text):
    found = re.search(rf"\[\[{name} (.+?)\]\]", text)
    return found.group(1) if found else None


def current_turn(messages):
    """(user text, number of tool results) since the last finished assistant message."""
    start = 0
    for index, message in enumerate(messages):
        if message.get("role") == "assistant" and not message.get("tool_calls"):
            start = index + 1
    turn = messages[start:]
    text = "\n".join(text_of(m.get("content")) for m in turn if m.get("role") == "user")
    return text, sum(m.get("role") == "tool" for m in turn)


def tool_call_for(text, offered):
    """(tool name, arguments) that the text asks for, or None."""
    for name, tool, argument in (
        ("exec", "exec", "command"),
        ("read", "read", "path"),
        ("spawn", "sessions_spawn", "task"),
    ):
        value = marker(name, text)
        if value is not None:
            if tool not in offered and "tool_call" in offered:
                return "tool_call", {"id": tool, "args": {argument: value}}
            return tool, {argument: value}
    return None


def plan(body, number):
    """What to answer: {"error": status} or {"text" | "call", "slow", "usage"}."""
    messages = body.get("messages", [])
    system = "\n".join(text_of(m.get("content")) for m in messages if m.get("role") in ("system", "developer"))
    text, results = current_turn(messages)
    summary = bool(SUMMARY_PROMPT.search(system)) and not body.get("tools")
    if not summary and marker("err", text):
        return {"error": int(marker("err", text))}
    offered = {tool.get("function", {}).get("name") for tool in body.get("tools", [])}
    call = None if summary or results else tool_call_for(text, offered)
    reply = (
        SUMMARY
        if summary
        else f"Done, after {results} tool result(s)."
        if results
        else marker("say", text) or f"Reply {number} of the fake model."
    )
    prompt = max(1, len(json.dumps(messages)) // 4)
    completion = len(reply) // 4 + REASONING_TOKENS + 2
    cached = int(prompt * CACHED_SHARE) if len(messages) > 2 else 0
    return {
        "text": None if call else reply,
        "call": call,
        "kind": "summary" if summary else "turn",
        "slow": 0.0 if summary else float(marker("slow", text) or 0),
        "usage": {
            "prompt_tokens": prompt,
            "completion_tokens": completion,
            "total_tokens": prompt + completion,
            "prompt_tokens_details": {"cached_tokens": cached},
            "completion_tokens_details": {"reasoning_tokens": REASONING_TOKENS},
        },
    }


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    counter = 0
    lock = threading.Lock()
    request_log: typing.Any = None

    def log_message(self, *args):
        """Quiet: the request log has it."""

    def send_json(self, status, value, headers=()):
        data = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        for name, content in headers:
            self.send_header(name, content)
        self.end_headers()
        self.wfile.write(data)

    def do_GET(self):
        self.send_json(200, {"object": "list", "data": [{"id": m, "object": "model"} for m in MODELS]})

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers.get("content-length") or 0)) or b"{}")
        with Handler.lock:
            Handler.counter += 1
            number = Handler.counter
        answer = plan(body, number)
        self.note(number, body, answer)
        if "error" in answer:
            status = answer["error"]
            error = {
                "message": f"fake upstream error {status}",
                "type": ERROR_TYPES.get(status, "server_error"),
                "code": status,
            }
            self.send_json(status, {"error": error}, [("retry-after", "1")] if status == 429 else ())
            return
        base = {"id": f"chatcmpl-fake{number:06d}", "created": int(time.time()), "model": body.get("model")}
        message = {"role": "assistant", "content": answer["text"]}
        if answer["call"]:
            name, arguments = answer["call"]
            function = {"name": name, "arguments": json.dumps(arguments)}
            message["tool_calls"] = [{"index": 0, "id": f"call_{number:06d}", "type": "function", "function": function}]
        finish = "tool_calls" if answer["call"] else "stop"
        if body.get("stream"):
            self.stream(base, message, finish, answer)
        else:
            time.sleep(answer["slow"])
            choice = {"index": 0, "message": message, "finish_reason": finish}
            self.send_json(200, {**base, "object": "chat.completion", "choices": [choice], "usage": answer["usage"]})

    def stream(self, base, message, finish, answer):
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("connection", "close")
        self.end_headers()
        self.close_connection = True

        def chunk(choices, **more):
            event = {**base, "object": "chat.completion.chunk", "choices": choices, **more}
            self.wfile.write(b"data: " + json.dumps(event).encode() + b"\n\n")
            self.wfile.flush()

        def delta(content, finish_reason=None):
            chunk([{"index": 0, "delta": content, "finish_reason": finish_reason}])

        try:
            if answer["call"]:
                delta({"role": "assistant", "tool_calls": message["tool_calls"]})
            else:
                delta({"role": "assistant", "content": ""})
                words = re.findall(r"\S+\s*", message["content"])
                long = len(words) > 30
                if not long and answer["slow"] > LONGEST_PAUSE_SECONDS * len(words):
                    words = list(message["content"])
                for word in words:
                    delta({"content": word})
                    time.sleep(CHUNK_PAUSE_SECONDS / 10 if long else CHUNK_PAUSE_SECONDS + answer["slow"] / len(words))
            delta({}, finish)
            chunk([], usage=answer["usage"])
            self.wfile.write(b"data: [DONE]\n\n")
            self.wfile.flush()
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True  # the gateway aborted the turn

    def note(self, number, body, answer):
        """One line a request: the independent count that totals are checked against."""
        call = answer.get("call")
        line = {
            "n": number, "t": round(time.time(), 3), "model": body.get("model"), "stream": bool(body.get("stream")),
            "kind": answer.get("kind", "error"), "error": answer.get("error"), "tool": call[0] if call else None,
            "usage": answer.get("usage"),
        }  # fmt: skip
        with Handler.lock:
            self.request_log.write(json.dumps(line) + "\n")
            self.request_log.flush()


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    with Path(sys.argv[2]).open("a", encoding="utf-8") as log:
        Handler.request_log = log
        ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
