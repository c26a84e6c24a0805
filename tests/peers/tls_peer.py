"""A TLS server that ends its connections in the way it is told: PORT CERTIFICATE KEY MODE.

echo   answers with everything it got, once the client has said close_notify, and says close_notify itself
cut    sends half of something and closes without close_notify
reset  sends half of something and resets
"""
import socket, ssl, struct, sys, threading

port, certificate, key, mode = int(sys.argv[1]), sys.argv[2], sys.argv[3], sys.argv[4]
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(certificate, key)
listener = socket.socket(socket.AF_INET)
listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
listener.bind(("0.0.0.0", port))
listener.listen(64)
print("listening", flush=True)


def serve(raw):
    # suppress_ragged_eofs: an end without close_notify is an error, not an end.
    peer = context.wrap_socket(raw, server_side=True, suppress_ragged_eofs=False)
    if mode == "echo":
        got = b""
        while True:
            part = peer.recv(65536)
            if not part:
                break
            got += part
        peer.sendall(got)
        peer.unwrap()
        return
    peer.recv(1024)
    peer.sendall(b"half of it")
    if mode == "reset":
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    peer.close()


def guarded(raw):
    try:
        serve(raw)
    except Exception as error:
        print("ended", type(error).__name__, error, file=sys.stderr, flush=True)


while True:
    raw, _ = listener.accept()
    threading.Thread(target=guarded, args=(raw,), daemon=True).start()
