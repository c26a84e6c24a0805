"""A collector of traces by OpenTelemetry's own messages: `GRPC_PORT HTTP_PORT`, both OTLP/gRPC and OTLP/HTTP.

`GET /spans` is what came so far, as JSON. `POST /mode` with a word says how requests are answered from then on: `ok`, `hang`,
`busy` (429 or UNAVAILABLE with RetryInfo), `away` (503, UNAVAILABLE), `refuse` (400, INVALID_ARGUMENT), `partial` (one span is rejected).
"""
import json
import sys
import threading
import time
from concurrent import futures
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import grpc
from google.protobuf import any_pb2, duration_pb2
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as service
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc as rpc

lock = threading.Lock()
state = {"mode": "ok", "spans": [], "requests": [], "largest": 0}


def value(any_value):
    kind = any_value.WhichOneof("value")
    if kind == "array_value":
        return [value(item) for item in any_value.array_value.values]
    return getattr(any_value, kind) if kind else None


def attributes(pairs):
    return {pair.key: value(pair.value) for pair in pairs}


def take(request, how):
    """Keeps the spans of a request and says how it is to be answered."""
    with lock:
        mode = state["mode"]
        state["requests"].append(how)
        state["largest"] = max(state["largest"], request.ByteSize())
        if mode not in ("ok", "partial"):
            return mode
        for resource_spans in request.resource_spans:
            resource = attributes(resource_spans.resource.attributes)
            for scope_spans in resource_spans.scope_spans:
                for span in scope_spans.spans:
                    state["spans"].append({
                        "resource": resource,
                        "scope": scope_spans.scope.name,
                        "trace": span.trace_id.hex(),
                        "id": span.span_id.hex(),
                        "parent": span.parent_span_id.hex(),
                        "state": span.trace_state,
                        "name": span.name,
                        "kind": span.kind,
                        "nanos": span.end_time_unix_nano - span.start_time_unix_nano,
                        "age": time.time() - span.end_time_unix_nano / 1e9,
                        "error": span.status.code == 2,
                        "attributes": attributes(span.attributes),
                        "events": [{"name": event.name, **attributes(event.attributes)} for event in span.events],
                    })
        return mode


def response(mode):
    answer = service.ExportTraceServiceResponse()
    if mode == "partial":
        answer.partial_success.rejected_spans = 1
        answer.partial_success.error_message = "one of them is odd"
    return answer


def within(field, message):
    return bytes([field << 3 | 2, len(message)]) + message


def retry_after(nanos):
    """google.rpc.Status with a RetryInfo, of which no package that is needed otherwise has the messages."""
    delay = duration_pb2.Duration(nanos=nanos).SerializeToString()
    info = any_pb2.Any(type_url="type.googleapis.com/google.rpc.RetryInfo", value=within(1, delay))
    return b"\x08\x0e" + within(3, info.SerializeToString())


class Traces(rpc.TraceServiceServicer):
    def Export(self, request, context):
        mode = take(request, "grpc")
        if mode == "hang":
            threading.Event().wait(60)
        if mode == "busy":
            context.set_trailing_metadata((("grpc-status-details-bin", retry_after(200_000_000)),))
        if mode in ("busy", "away"):
            context.abort(grpc.StatusCode.UNAVAILABLE, mode)
        if mode == "refuse":
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, mode)
        return response(mode)


class Http(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def answer(self, status, body=b"", headers=()):
        self.send_response(status)
        for name, text in headers:
            self.send_header(name, text)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        with lock:
            body = json.dumps(state).encode()
        self.answer(200, body, [("Content-Type", "application/json")])

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path == "/mode":
            with lock:
                state["mode"] = body.decode()
            return self.answer(204)
        if self.path != "/v1/traces" or self.headers["Content-Type"] != "application/x-protobuf":
            return self.answer(404)
        mode = take(service.ExportTraceServiceRequest.FromString(body), "http")
        if mode == "hang":
            threading.Event().wait(60)
        status = {"busy": 429, "away": 503, "refuse": 400}.get(mode, 200)
        headers = [("Content-Type", "application/x-protobuf")] + [("Retry-After", "1")] * (status == 429)
        self.answer(status, response(mode).SerializeToString(), headers)


server = grpc.server(futures.ThreadPoolExecutor(8))
rpc.add_TraceServiceServicer_to_server(Traces(), server)
assert server.add_insecure_port(f"127.0.0.1:{sys.argv[1]}")
server.start()
http = ThreadingHTTPServer(("127.0.0.1", int(sys.argv[2])), Http)
http.daemon_threads = True
print("listening", flush=True)
http.serve_forever()
