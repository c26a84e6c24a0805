"""A gRPC server that answers grpc.health.v1.Health/Check by a file: `PORT FILE`.

The file has a line `SERVICE STATUS` for each service, with `-` for the server as a whole; others are NOT_FOUND.
This file must not be called grpc_health: grpcio imports a module of that name where it finds one.
"""
import sys
from concurrent import futures

import grpc

import health_pb2 as pb
import health_pb2_grpc as rpc


class Health(rpc.HealthServicer):
    def Check(self, request, context):
        with open(sys.argv[2]) as lines:
            known = dict(line.split() for line in lines)
        status = known.get(request.service or "-")
        if status is None:
            context.abort(grpc.StatusCode.NOT_FOUND, "unknown service")
        return pb.HealthCheckResponse(status=pb.HealthCheckResponse.ServingStatus.Value(status))


server = grpc.server(futures.ThreadPoolExecutor(4))
rpc.add_HealthServicer_to_server(Health(), server)
assert server.add_insecure_port(f"[::]:{sys.argv[1]}")
server.start()
print("listening", flush=True)
server.wait_for_termination()
