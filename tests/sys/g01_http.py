# SPDX-License-Identifier: Apache-2.0
"""The HTTP API with the openai SDK as it is published, and with raw sockets: one process is router, experts and gateway."""

import asyncio
import errno
import json
import os
import shutil
import signal
import socket
import ssl
import sys
import threading

import certs
from fleet import Skip, expect, expect_equal, free_ports, wait_until

QUESTION = "What is 347 + 589?"
MODEL = "tiny-r1"


def sdk():
    """The SDK's module."""
    try:
        import openai
    except ImportError:
        raise Skip("openai is not installed (tests/requirements.txt)") from None
    return openai


def gateway(f, **keys):
    """A process that serves all; its HTTP port is node.http."""
    port = free_ports(1)[0]
    router = {k: keys.pop(k) for k in list(keys) if k in ("max_batch", "queue_max", "context")}
    section = {"listen": f"127.0.0.1:{port}", **keys}
    node = f.router("r1", shards="auto", extra={"gateway": section}, **router)
    node.http = port
    return node


def client(node, **keys):
    return sdk().OpenAI(base_url=f"http://127.0.0.1:{node.http}/v1", api_key="sk-none", max_retries=0, timeout=60, **keys)


def ask(question=QUESTION, **keys):
    return {"model": MODEL, "messages": [{"role": "user", "content": question}], "temperature": 0, **keys}


def counts(node):
    return node.ctl_json("status")["router"]


def collect(stream):
    """(answer, reasoning, finish reason, usage, chunks) of a stream."""
    text = reasoning = ""
    reason = usage = None
    n = 0
    for chunk in stream:
        n += 1
        usage = chunk.usage or usage
        for c in chunk.choices:
            text += c.delta.content or ""
            reasoning += getattr(c.delta, "reasoning_content", None) or ""
            reason = c.finish_reason or reason
    return text, reasoning, reason, usage, n


def raw(node, data, timeout=30):
    """Sends bytes, returns the connected socket."""
    s = socket.create_connection(("127.0.0.1", node.http), timeout=timeout)
    s.sendall(data)
    return s


def read_all(s):
    """What comes until the other side closes."""
    out = b""
    try:
        while True:
            part = s.recv(65536)
            if not part:
                break
            out += part
    except ConnectionResetError:
        pass
    s.close()
    return out


def post(body, *headers, path="/v1/chat/completions"):
    """A POST request as bytes."""
    body = body if isinstance(body, bytes) else json.dumps(body).encode()
    head = [f"POST {path} HTTP/1.1", "Host: x", f"Content-Length: {len(body)}", *headers]
    return ("\r\n".join(head) + "\r\n\r\n").encode() + body


def check_serves(node):
    got = client(node).chat.completions.create(**ask())
    expect_equal(got.choices[0].message.content.strip(), "936", "the answer of a gateway that should serve on")


def test_chat(case):
    """Whole and streamed answers are what Router.Generate gives for the same question and seed."""
    openai = sdk()
    with case.fleet() as f:
        node = gateway(f)
        c = client(node)
        expect_equal([m.id for m in c.models.list()], [MODEL], "models")
        for temperature, seed in ((0, 0), (1, 7), (1, 8)):
            g = node.generate(QUESTION, f"--temperature={temperature}", f"--seed={seed}", "--max-tokens=60")
            options = {"temperature": temperature, "seed": seed, "max_tokens": 60}
            r = c.chat.completions.create(**ask(**options))
            m = r.choices[0].message
            expect_equal((m.content, m.reasoning_content, r.choices[0].finish_reason), (g.text, g.reasoning, g.reason), "whole")
            expect_equal(r.usage.completion_tokens, g.finished["completion_tokens"], "completion_tokens")
            expect_equal(r.usage.completion_tokens_details.reasoning_tokens, g.finished["reasoning_tokens"], "reasoning_tokens")
            expect_equal(r.usage.prompt_tokens, g.finished["prompt_tokens"], "prompt_tokens")
            expect_equal(r.usage.prompt_cache_hit_tokens + r.usage.prompt_cache_miss_tokens, r.usage.prompt_tokens, "hit and miss")
            s = collect(c.chat.completions.create(**ask(stream=True, stream_options={"include_usage": True}, **options)))
            expect_equal(s[:3], (g.text, g.reasoning, g.reason), "streamed")
            expect_equal(s[3].to_dict(), r.usage.to_dict(), "usage of the stream and of the whole")
            expect(s[4] > 20, f"{s[4]} chunks: the answer did not stream")
        r = c.chat.completions.create(**ask(n=3, seed=7, temperature=1, max_tokens=60))
        expect_equal([x.index for x in r.choices], [0, 1, 2], "indexes of choices")
        g = node.generate(QUESTION, "--temperature=1", "--seed=9", "--max-tokens=60")
        expect_equal(r.choices[2].message.reasoning_content, g.reasoning, "the third choice, of the seed plus 2")
        r = c.chat.completions.create(**ask(stop=["36"]))
        expect_equal(r.choices[0].message.content.strip(), "9", "up to the stop text")
        hot = {"temperature": 2, "seed": 7, "max_tokens": 60}
        penal = [c.chat.completions.create(**ask(frequency_penalty=p, presence_penalty=p, **hot)) for p in (0, 0, 2)]
        texts = [r.choices[0].message.reasoning_content for r in penal]
        expect(texts[0] == texts[1] != texts[2], f"without, without and with penalties: {texts}")
        c.chat.completions.create(**ask(max_tokens=1, reasoning_effort="high", extra_body={"thinking": {"type": "enabled"}}))
        whole = c.chat.completions.with_raw_response.create(**ask(max_tokens=1))
        expect(whole.headers["x-request-id"] in whole.parse().id, "the request's id is not in the answer's")
        expect(isinstance(whole.parse(), openai.types.chat.ChatCompletion), "the SDK did not know the answer")


def test_logprobs(case):
    """They are Router.Generate's, and the tokens' bytes are the text."""
    with case.fleet() as f:
        node = gateway(f)
        r = client(node).chat.completions.create(**ask(logprobs=True, top_logprobs=5))
        g = node.generate(QUESTION, "--logprobs=5")
        logs = r.choices[0].logprobs
        expect_equal(bytes(b for t in logs.content for b in t.bytes).decode(), r.choices[0].message.content, "bytes of the answer")
        expect_equal("".join(t["token"] for t in logs.reasoning_content), g.reasoning, "tokens of the reasoning")
        wanted = {round(t["logprob"], 4) for t in g.logprobs}
        for t in logs.content:
            expect(round(t.logprob, 4) in wanted, f"{t.logprob} is not among Router.Generate's")
            expect_equal(len(t.top_logprobs), 5, "alternatives")
            expect_equal(t.top_logprobs[0].logprob, t.logprob, "the likeliest token of a greedy step")
        s = list(client(node).chat.completions.create(**ask(logprobs=True, stream=True)))
        streamed = [t.token for x in s if x.choices and x.choices[0].logprobs for t in x.choices[0].logprobs.content]
        expect_equal(streamed, [t.token for t in logs.content], "streamed tokens")


def test_completions(case):
    """Texts, token ids, an echo, log-probabilities, streams; a gap to fill is refused by a model without tokens for it."""
    openai = sdk()
    with case.fleet() as f:
        node = gateway(f)
        c = client(node)
        wanted = node.generate("12+34=", "--max-tokens=12", command="generate")
        options = {"model": MODEL, "temperature": 0, "max_tokens": 12}
        r = c.completions.create(prompt="12+34=", logprobs=2, **options)
        text, logs = r.choices[0].text, r.choices[0].logprobs
        expect(wanted.text in text and wanted.reasoning in text, f"{text!r} has not {wanted.text!r} and {wanted.reasoning!r}")
        expect_equal((r.object, r.usage.completion_tokens), ("text_completion", len(wanted.ids)), "object and tokens")
        expect_equal("".join(logs.tokens), text, "the tokens' text")
        expect_equal([text[at:at + len(t)] for at, t in zip(logs.text_offset, logs.tokens)], logs.tokens, "tokens at their offsets")
        expect_equal([len(x) for x in logs.top_logprobs], [2] * len(logs.tokens), "alternatives")
        streamed = list(c.completions.create(prompt=["12+34="], stream=True, **options))
        expect_equal("".join(x.choices[0].text for x in streamed), text, "streamed")
        expect_equal(streamed[-1].choices[0].finish_reason, r.choices[0].finish_reason, "its finish reason")
        echoed = c.completions.create(prompt="12+34=", echo=True, **options).choices[0].text
        expect_equal(echoed, "12+34=" + text, "with the prompt before it")
        again = c.completions.create(prompt=[1, 2, 3], **options)
        expect_equal(again.usage.prompt_tokens, 3, "tokens of a prompt in ids")
        for keys, kind in (({"prompt": "a", "suffix": "b"}, openai.BadRequestError), ({"prompt": ["a", "b"]}, openai.UnprocessableEntityError),
                           ({"prompt": [4294967295]}, openai.UnprocessableEntityError)):
            try:
                c.completions.create(**{**options, **keys})
            except kind:
                continue
            raise AssertionError(f"{keys}: was answered")


def test_errors(case):
    """Refusals arrive as the SDK's own exceptions, with what is wrong and where."""
    openai = sdk()
    with case.fleet() as f:
        node = gateway(f, max_batch=1, queue_max=0)
        c = client(node)
        for keys, kind, param in (
                ({"model": "other"}, openai.NotFoundError, "model"),
                ({"temperature": 3}, openai.UnprocessableEntityError, "temperature"),
                ({"extra_body": {"thinking": {"type": "disabled"}}}, openai.UnprocessableEntityError, "thinking"),
                ({"messages": []}, openai.UnprocessableEntityError, "messages"),
                ({"messages": [{"role": "user", "content": "1 " * 600}]}, openai.BadRequestError, "messages"),
                ({"messages": [{"role": "user", "content": "1 " * 20000}]}, openai.BadRequestError, "messages"),
                ({"extra_body": {"max_tokens": -1}}, openai.UnprocessableEntityError, "max_tokens")):
            try:
                c.chat.completions.create(**{**ask(), **keys})
            except openai.APIStatusError as e:
                expect_equal((type(e), e.param), (kind, param), f"exception of {keys}")
                expect(e.body["message"] and e.request_id, "no message or no id")
            else:
                raise AssertionError(f"{keys}: was answered")
        try:
            c.get("/nothing", cast_to=object)
        except openai.NotFoundError as e:
            expect_equal(e.code, "unknown_url", "code of an unknown path")
        blocked = c.chat.completions.create(**ask(stream=True, temperature=2, max_tokens=400))
        next(iter(blocked))
        try:
            c.chat.completions.create(**ask())
        except openai.InternalServerError as e:
            expect_equal((e.status_code, e.code), (503, "overloaded"), "a full queue")
            expect_equal(e.response.headers["retry-after"], "1", "Retry-After")
        else:
            raise AssertionError("a request beyond the queue was taken")
        blocked.close()
        wait_until("the stream's place is free", lambda: counts(node)["running"] == 0)
        check_serves(node)


def test_many_streams(case):
    """64 streams at once: twice what the batch holds, each with the text that it has alone."""
    openai = sdk()
    n = 16 if case.sanitized else 64
    questions = [f"What is {100 + 7 * i} + {900 - 9 * i}?" for i in range(n)]

    async def one(c, question):
        text = ""
        async for chunk in await c.chat.completions.create(**ask(question, stream=True)):
            text += "".join(x.delta.content or "" for x in chunk.choices)
        return text

    async def all_of_them(port):
        async with openai.AsyncOpenAI(base_url=f"http://127.0.0.1:{port}", api_key="sk-none", max_retries=0, timeout=120) as c:
            return await asyncio.gather(*(one(c, q) for q in questions))

    with case.fleet() as f:
        node = gateway(f, max_batch=n // 2)
        texts = asyncio.run(all_of_them(node.http))
        for i in range(0, n, 9):
            expect_equal(texts[i], node.generate(questions[i]).text, f"the answer to {questions[i]}")
        right = sum(t.strip() == str(1000 - 2 * i) for i, t in enumerate(texts))
        expect(right >= n * 0.9, f"{right} of {n} sums are right")


def frozen(f, **keys):
    """A gateway whose expert host stands still: (node, host)."""
    h1 = f.expert("h1", "auto")
    port = free_ports(1)[0]
    router = {k: keys.pop(k) for k in list(keys) if k == "max_batch"}
    node = f.router("r1", [h1], extra={"gateway": {"listen": f"127.0.0.1:{port}", **keys}}, **router)
    node.http = port
    h1.signal(signal.SIGSTOP)
    return node, h1


def test_client_leaves(case):
    """Whoever leaves, waiting for a stream or a whole answer, for its next token or a place, is not computed for any more."""
    with case.fleet() as f:
        node, h1 = frozen(f, max_batch=2)
        sockets = [raw(node, post(ask(stream=s, n=4))) for s in (True, False, True, False)]
        for s in sockets:
            s.close()
        half = raw(node, post(ask(stream=True)))
        half.shutdown(socket.SHUT_WR)
        seen = read_all(half)
        expect(b"[DONE]" not in seen, f"what a client that left half gets: {seen}")
        h1.signal(signal.SIGCONT)
        wait_until("nothing runs or waits", lambda: counts(node)["running"] + counts(node)["waiting"] == 0)
        n = counts(node)["generation_tokens"]
        expect(n < 17 * 20, f"{n} tokens were generated for clients that had left")
        check_serves(node)


def test_waiting(case):
    """A client that waits gets blank lines before a whole answer and comments in a stream, and then the answer."""
    with case.fleet() as f:
        node, h1 = frozen(f, keep_alive_s=1)
        whole, streamed = (raw(node, post(ask(stream=s), "Connection: close")) for s in (False, True))
        head = whole.recv(4096)
        expect(head.startswith(b"HTTP/1.1 200 ") and b"chunked" in head.lower(), f"while waiting for an answer: {head}")
        seen = b""
        while b": keep-alive\n\n" not in seen:
            seen += streamed.recv(4096)
        h1.signal(signal.SIGCONT)
        body = read_all(whole)
        blank, answer = body.split(b"{", 1)
        expect(set(blank) <= set(b"0123456789ABCDEF\r\n"), f"before the answer: {blank}")
        expect(b'"finish_reason":"stop"' in answer and b"936" in answer, f"after blank lines: {answer}")
        events = (seen + read_all(streamed)).decode()
        expect('"finish_reason":"stop"' in events and "data: [DONE]" in events, f"after keep-alives: {events[-300:]}")


def test_stop(case):
    """SIGTERM lets an answer in flight end; over a unix socket."""
    openai = sdk()
    import httpx2 as httpx
    with case.fleet() as f:
        path = os.path.join(f.dir, "http.sock")
        node = gateway(f, listen=f"unix:{path}")
        with httpx.Client(transport=httpx.HTTPTransport(uds=path)) as h:
            c = openai.OpenAI(base_url="http://localhost/v1", api_key="sk-none", max_retries=0, http_client=h)
            stream = iter(c.chat.completions.create(**ask(stream=True)))
            next(stream)
            stopped = threading.Thread(target=node.stop)
            stopped.start()
            text, _, reason, _, _ = collect(stream)
            stopped.join()
            expect_equal((text.strip(), reason), ("936", "stop"), "the answer across a stop")
        expect(not os.path.exists(path), "the socket file was left behind")


def request_line(node, *lines):
    return raw(node, ("\r\n".join(lines) + "\r\n\r\n").encode())


def status_of(answer):
    return answer.split(b"\r\n", 1)[0].split(b" ")[1:2]


def test_strangers(case):
    """Malformed and oversized requests are refused, each by its limit; who asks properly meanwhile is answered."""
    nested = b'{"model":"tiny-r1","messages":' + b"[" * 100000 + b"]" * 100000 + b"}"
    with case.fleet() as f:
        node = gateway(f, body_bytes_max="1M")
        sdk()
        for what, data, wanted in (
                ("a gigabyte announced", b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000000\r\n\r\n", b"413"),
                ("a length beyond 64 bits", b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999999999\r\n\r\n", b"413"),
                ("a negative length", b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n", b"400"),
                ("deep JSON", post(nested, "Connection: close"), b"400"),
                ("bytes that are not UTF-8", post(b'{"model":"\xff\xfe"}', "Connection: close"), b"400"),
                ("half a JSON object", post(b'{"model":', "Connection: close"), b"400"),
                ("no body", post(b"", "Connection: close"), b"400"),
                ("a body for nothing", post(b"x" * 1000, "Connection: close", path="/x"), b"404"),
                ("many headers", post(b"{}", *(f"x-{i}: y" for i in range(150))), b"431"),
                ("long headers", post(b"{}", "x: " + "y" * 40000), b"431"),
                ("a long path", b"GET /" + b"x" * 60000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", b"414"),
                ("no HTTP", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\r\n\r\n", b"400")):
            answer = read_all(raw(node, data))
            got = status_of(answer)
            # a client that is refused while it still sends may see the connection broken instead of the answer
            expect(got == [wanted] or (not answer and wanted in (b"431", b"414", b"400")), f"{what}: {answer[:200]}")
        check_serves(node)
        chunked = ["POST /v1/chat/completions HTTP/1.1", "Host: x", "Transfer-Encoding: chunked", "Connection: close"]
        body = b"".join(b"10000\r\n" + b" " * 65536 + b"\r\n" for _ in range(17)) + b"0\r\n\r\n"
        expect_equal(status_of(read_all(raw(node, ("\r\n".join(chunked) + "\r\n\r\n").encode() + body))), [b"413"], "chunks beyond the limit")
        two = post(ask(max_tokens=2)) + post(ask(max_tokens=3), "Connection: close")
        answers = read_all(raw(node, two))
        expect_equal([x in answers for x in (b'"completion_tokens":2,', b'"completion_tokens":3,')], [True, True], "two pipelined requests")
        check_serves(node)
        metrics = node.ctl("metrics").stdout
        expect('expertd_http_requests_total{status="413"}' in metrics, "refusals are not counted")


def test_many_bodies(case):
    """Bodies together are bounded: one too many is refused, and there is room again once the others are gone."""
    sdk()
    with case.fleet() as f:
        node = gateway(f, body_bytes_max="1M", bodies_bytes_max="2M")
        halves = [raw(node, post(b" " * 100000)[:-1]) for _ in range(40)]  # some are refused already, none is answered
        wait_until("a large body is refused", lambda: status_of(read_all(raw(node, post(b" " * 900000, "Connection: close")))) == [b"503"])
        for s in halves:
            s.close()
        wait_until("there is room again", lambda: status_of(read_all(raw(node, post(b" " * 900000, "Connection: close")))) == [b"400"])
        check_serves(node)


def test_slow_clients(case):
    """Connections that dawdle are closed, however they send; one that waits for its answer is not."""
    with case.fleet() as f:
        node = gateway(f, header_timeout_s=1, body_timeout_s=1, idle_timeout_s=2)
        check_serves(node)
        slow = {
            "says nothing": raw(node, b""),
            "half a header": raw(node, b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nx-a: "),
            "half a body": raw(node, post(ask())[:-10]),
            "after an answer": raw(node, b"GET /v1/models HTTP/1.1\r\nHost: x\r\n\r\n"),
        }
        crowd = [raw(node, b"POST /v1/chat") for _ in range(200)]
        ends = {}

        def dawdle(name, s):
            s.settimeout(0.2)
            while True:
                try:
                    s.sendall(b"y" if name in ("half a header", "half a body") else b"")
                    if not s.recv(4096):
                        break
                except TimeoutError:
                    continue
                except OSError:
                    break
            ends[name] = True

        threads = [threading.Thread(target=dawdle, args=x) for x in slow.items()]
        for t in threads:
            t.start()
        check_serves(node)
        for t in threads:
            t.join(30)
        expect_equal(sorted(ends), sorted(slow), "connections that were closed")
        for s in crowd:
            read_all(s)
        text, _, _, _, _ = collect(client(node).chat.completions.create(**ask(stream=True)))
        expect_equal(text.strip(), "936", "a stream")


def test_tls(case):
    """HTTPS, with a certificate that a reload replaces under a stream that goes on; a bad one is refused and the old one stays."""
    openai = sdk()
    import httpx2 as httpx
    authority = certs.Authority(os.path.join(case.dir, "pki"))
    one, two = (authority.sign(n, "DNS:localhost,IP:127.0.0.1") for n in ("one", "two"))
    cert, key = os.path.join(case.dir, "http.crt"), os.path.join(case.dir, "http.key")

    def install(pair):
        shutil.copy(pair["cert"], cert)
        shutil.copy(pair["key"], key)

    def shown(node):
        context = ssl.create_default_context(cafile=authority.crt)
        with socket.create_connection(("127.0.0.1", node.http), timeout=20) as s:
            with context.wrap_socket(s, server_hostname="localhost") as t:
                return dict(x[0] for x in t.getpeercert()["subject"])["commonName"]

    install(one)
    with case.fleet() as f:
        node = gateway(f, tls_cert=cert, tls_key=key)
        expect_equal(shown(node), "one", "the certificate at first")
        with httpx.Client(verify=ssl.create_default_context(cafile=authority.crt)) as h:
            c = openai.OpenAI(base_url=f"https://127.0.0.1:{node.http}/v1", api_key="sk-none", max_retries=0, http_client=h)
            stream = iter(c.chat.completions.create(**ask(stream=True)))
            next(stream)
            install(two)
            node.ctl("reload")
            expect_equal(shown(node), "two", "the certificate after a reload")
            text, _, reason, _, _ = collect(stream)
            expect_equal((text.strip(), reason), ("936", "stop"), "the answer across a reload")
        shutil.copy(one["key"], key)
        node.ctl("reload", check=False)
        expect_equal(shown(node), "two", "the certificate after a reload with a key that is not its")
        answer = read_all(raw(node, b"GET /v1/models HTTP/1.1\r\nHost: x\r\n\r\n"))
        expect(not answer.startswith(b"HTTP/1.1 200"), "plain HTTP was answered")


HAND_OVER = """
import os, socket, sys
s = socket.socket()
s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
s.bind(("127.0.0.1", int(sys.argv[1])))
s.listen(16)
if s.fileno() != 3:
    os.dup2(s.fileno(), 3)
os.set_inheritable(3, True)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="1", LISTEN_FDNAMES="http")
os.execv(sys.argv[2], sys.argv[2:])
"""


def test_socket_activation(case):
    """A socket that the service manager hands over under the name http is served instead of listen's."""
    sdk()
    with case.fleet() as f:
        unused, port = free_ports(2)
        node = f.router("r1", shards="auto", start=False, extra={"gateway": {"listen": f"127.0.0.1:{unused}"}})
        node.http = port
        node.start(prefix=[sys.executable, "-c", HAND_OVER, str(port)])
        check_serves(node)
        expect_equal(socket.socket().connect_ex(("127.0.0.1", unused)), errno.ECONNREFUSED, "connecting to listen")


def test_json(case):
    """With json_object every answer is a JSON object, however hot the model and however short the answer may be."""
    openai = sdk()
    with case.fleet() as f:
        node = gateway(f)
        c = client(node)
        form = {"type": "json_object"}
        n = 0
        for temperature, max_tokens in ((0, 300), (1, 120), (2, 150), (2, 40), (2, 4), (1, 5)):
            r = c.chat.completions.create(**ask("Give me JSON.", temperature=temperature, max_tokens=max_tokens, n=4, seed=5,
                                                response_format=form))
            for choice in r.choices:
                value = json.loads(choice.message.content)
                expect(isinstance(value, dict), f"{choice.message.content!r} is no object")
                expect_equal(choice.finish_reason, "stop", "finish reason of a whole object")
                n += len(value)
            expect(r.usage.completion_tokens <= 4 * max_tokens, "more tokens than were asked for")
        expect(n > 0, "no object had a key")
        text, _, reason, _, _ = collect(c.chat.completions.create(**ask("JSON!", temperature=2, seed=3, stream=True, response_format=form)))
        expect(isinstance(json.loads(text), dict) and reason == "stop", f"streamed: {text!r}, {reason}")
        try:
            c.chat.completions.create(**ask(max_tokens=3, response_format=form))
        except openai.UnprocessableEntityError as e:
            expect_equal(e.param, "max_tokens", "what is wrong with 3 tokens")
        else:
            raise AssertionError("three tokens were taken for an object")
        check_serves(node)
