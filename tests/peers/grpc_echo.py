"""A gRPC server, and a client that tries everything on it: `server PORT`, `client ADDRESS`.

The client prints one line a check, `name: outcome`; what is expected stands in the Rust test.
"""
import sys
import threading
import time
from concurrent import futures

import grpc

import echo_pb2 as pb
import echo_pb2_grpc as rpc


class Echo(rpc.EchoServicer):
    def __init__(self):
        self.cancelled = threading.Event()

    def Unary(self, request, context):
        if request.text == "cancelled?":
            return pb.Text(text="seen by the server" if self.cancelled.wait(3) else "not seen")
        context.send_initial_metadata((("initial", "yes"),))
        context.set_trailing_metadata((("trailing", "done"),))
        return request

    def ServerStream(self, request, context):
        for i in range(5):
            yield pb.Text(text=str(i))

    def ClientStream(self, requests, context):
        return pb.Text(text="+".join(r.text for r in requests))

    def Bidirectional(self, requests, context):
        for request in requests:
            yield pb.Text(text=request.text.upper())

    def Fail(self, request, context):
        context.abort(grpc.StatusCode.FAILED_PRECONDITION, "caf\u00e9 %25")

    def Slow(self, request, context):
        if request.text == "cancel":
            context.add_callback(self.cancelled.set)
        for _ in range(100):
            if not context.is_active():
                break
            time.sleep(0.05)
        return request


def serve(port):
    server = grpc.server(futures.ThreadPoolExecutor(16))
    rpc.add_EchoServicer_to_server(Echo(), server)
    assert server.add_insecure_port(f"[::]:{port}")
    server.start()
    print("listening", flush=True)
    server.wait_for_termination()


def outcome(call):
    try:
        return call()
    except grpc.RpcError as error:
        return error


def check(address):
    options = [("grpc.max_receive_message_length", -1), ("grpc.enable_http_proxy", 0)]
    with grpc.insecure_channel(address, options) as channel:
        stub = rpc.EchoStub(channel)
        text = lambda value: pb.Text(text=value)
        say = lambda name, value: print(f"{name}: {value}", flush=True)

        response, call = stub.Unary.with_call(text("hello"), timeout=5)
        say("unary", response.text)
        meta = lambda pairs, key: dict(pairs).get(key)
        say("metadata", f"initial={meta(call.initial_metadata(), 'initial')} trailing={meta(call.trailing_metadata(), 'trailing')}")
        say("server stream", " ".join(r.text for r in stub.ServerStream(text(""), timeout=5)))
        say("client stream", stub.ClientStream(iter(map(text, "abc")), timeout=5).text)
        turns, answers = [], None

        def ping_pong():
            # The next request is sent only when the answer to the last one is here: no side may wait for the other's end.
            for letter in "abc":
                yield text(letter)
                while len(turns) < "abc".index(letter) + 1:
                    time.sleep(0.005)

        for answer in stub.Bidirectional(ping_pong(), timeout=5):
            turns.append(answer.text)
        say("bidirectional", " ".join(turns))
        error = outcome(lambda: stub.Fail(text(""), timeout=5))
        say("status", f"{error.code().name} {error.details()}")
        say("trailers only", outcome(lambda: channel.unary_unary("/echo.Echo/None")(b"", timeout=5)).code().name)
        say("deadline", outcome(lambda: stub.Slow(text(""), timeout=0.2)).code().name)
        future = stub.Slow.future(text("cancel"), timeout=5)
        time.sleep(0.2)
        future.cancel()
        say("cancelled", stub.Unary(text("cancelled?"), timeout=5).text)
        say("large", len(stub.Unary(text("x" * 1_000_000), timeout=10).text))
        good = sum(stub.Unary(text(str(i)), timeout=5).text == str(i) for i in range(500))
        say("soak", f"{good} of 500")


serve(sys.argv[2]) if sys.argv[1] == "server" else check(sys.argv[2])
