"""A collector of traces and logs by OpenTelemetry's own messages: `GRPC_PORT HTTP_PORT`, both OTLP/gRPC and OTLP/HTTP.

`GET /spans` is what came so far, as JSON. `POST /mode` with a word says how requests are answered from then on: `ok`, `hang`,
`busy` (429 or UNAVAILABLE with RetryInfo), `away` (503, UNAVAILABLE), `refuse` (400, INVALID_ARGUMENT), `partial` (one span or record is rejected).
"""
import json
import sys
import threading
import time
from concurrent import futures
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import grpc
from google.protobuf import any_pb2, duration_pb2
from opentelemetry.proto.collector.logs.v1 import logs_service_pb2 as logs_service
from opentelemetry.proto.collector.logs.v1 import logs_service_pb2_grpc as logs_rpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as service
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc as rpc

lock = threading.Lock()
state = {"mode": "ok", "spans": [], "records": [], "requests": [], "largest": 0}


def value(any_value):
    kind = any_value.WhichOneof("value")
    if kind == "array_value":
        return [value(item) for item in any_value.array_value.values]
    return getattr(any_value, kind) if kind else None


def attributes(pairs):
    return {pair.key: value(pair.value) for pair in pairs}


def keep_spans(request):
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


def keep_records(request):
    for resource_logs in request.resource_logs:
        resource = attributes(resource_logs.resource.attributes)
        for scope_logs in resource_logs.scope_logs:
            for record in scope_logs.log_records:
                state["records"].append({
                    "resource": resource,
                    "scope": scope_logs.scope.name,
                    "schema": resource_logs.schema_url,
                    "trace": record.trace_id.hex(),
                    "span": record.span_id.hex(),
                    "flags": record.flags,
                    "severity": record.severity_number,
                    "level": record.severity_text,
                    "nanos": record.observed_time_unix_nano - record.time_unix_nano,
                    "age": time.time() - record.observed_time_unix_nano / 1e9,
                    "body": value(record.body),
                    "attributes": attributes(record.attributes),
                })


def take(request, how, keep):
    """Keeps what is in a request and says how it is to be answered."""
    with lock:
        mode = state["mode"]
        state["requests"].append(how)
        state["largest"] = max(state["largest"], request.ByteSize())
        if mode not in ("ok", "partial"):
            return mode
        keep(request)
        return mode


def trace_response(mode):
    answer = service.ExportTraceServiceResponse()
    if mode == "partial":
        answer.partial_success.rejected_spans = 1
        answer.partial_success.error_message = "one of them is odd"
    return answer


def logs_response(mode):
    answer = logs_service.ExportLogsServiceResponse()
    if mode == "partial":
        answer.partial_success.rejected_log_records = 1
        answer.partial_success.error_message = "one of them is odd"
    return answer


def within(field, message):
    return bytes([field << 3 | 2, len(message)]) + message


def retry_after(nanos):
    """google.rpc.Status with a RetryInfo, of which no package that is needed otherwise has the messages."""
    delay = duration_pb2.Duration(nanos=nanos).SerializeToString()
    info = any_pb2.Any(type_url="type.googleapis.com/google.rpc.RetryInfo", value=within(1, delay))
    return b"\x08\x0e" + within(3, info.SerializeToString())


def obey(mode, context):
    """Answers a call of gRPC so that it fails, if it is to."""
    if mode == "hang":
        threading.Event().wait(60)
    if mode == "busy":
        context.set_trailing_metadata((("grpc-status-details-bin", retry_after(200_000_000)),))
    if mode in ("busy", "away"):
        context.abort(grpc.StatusCode.UNAVAILABLE, mode)
    if mode == "refuse":
        context.abort(grpc.StatusCode.INVALID_ARGUMENT, mode)


class Traces(rpc.TraceServiceServicer):
    def Export(self, request, context):
        mode = take(request, "grpc", keep_spans)
        obey(mode, context)
        return trace_response(mode)


class Logs(logs_rpc.LogsServiceServicer):
    def Export(self, request, context):
        mode = take(request, "grpc", keep_records)
        obey(mode, context)
        return logs_response(mode)


PATHS = {
    "/v1/traces": (service.ExportTraceServiceRequest, keep_spans, trace_response),
    "/v1/logs": (logs_service.ExportLogsServiceRequest, keep_records, logs_response),
}


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
        if self.path not in PATHS or self.headers["Content-Type"] != "application/x-protobuf":
            return self.answer(404)
        message, keep, response = PATHS[self.path]
        mode = take(message.FromString(body), "http", keep)
        if mode == "hang":
            threading.Event().wait(60)
        status = {"busy": 429, "away": 503, "refuse": 400}.get(mode, 200)
        headers = [("Content-Type", "application/x-protobuf")] + [("Retry-After", "1")] * (status == 429)
        self.answer(status, response(mode).SerializeToString(), headers)


server = grpc.server(futures.ThreadPoolExecutor(8))
rpc.add_TraceServiceServicer_to_server(Traces(), server)
logs_rpc.add_LogsServiceServicer_to_server(Logs(), server)
assert server.add_insecure_port(f"127.0.0.1:{sys.argv[1]}")
server.start()
http = ThreadingHTTPServer(("127.0.0.1", int(sys.argv[2])), Http)
http.daemon_threads = True
print("listening", flush=True)
http.serve_forever()
