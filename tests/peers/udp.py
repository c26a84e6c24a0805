"""A UDP echo: `server PORT`, `client HOST PORT` (prints the echoed datagram)."""
import socket
import sys

if sys.argv[1] == "server":
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind(("0.0.0.0", int(sys.argv[2])))
    print("listening", flush=True)
    while True:
        data, peer = sock.recvfrom(2048)
        sock.sendto(data, peer)
else:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.settimeout(5)
    sock.connect((sys.argv[2], int(sys.argv[3])))
    sock.send(b"datagram")
    print(sock.recv(2048).decode())
