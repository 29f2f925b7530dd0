"""
Moto for tests: `moto.py <host> <port>`. The server as it is, with three differences: an answer leaves at once (its own
waits for Nagle's timer on a connection that is kept), a queue does not count all its messages several times for each
that is added, and GET /millrace-test/queue/<name> shows what is in a queue without taking it out.
"""

import json
import sys

from moto.core import DEFAULT_ACCOUNT_ID
from moto.server import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
from moto.sqs.models import Queue, sqs_backends
from werkzeug.serving import run_simple

PEEK = "/millrace-test/queue/"
REGION = "us-east-1"

MotoRequestHandler.disable_nagle_algorithm = True
for count in ("", "_delayed", "_not_visible"):
    setattr(Queue, f"approximate_number_of_messages{count}", property(lambda queue: 0))

moto = DomainDispatcherApplication(create_backend_app)


def app(environ, start_response):
    path = environ["PATH_INFO"]
    if not path.startswith(PEEK):
        return moto(environ, start_response)
    queue = sqs_backends[DEFAULT_ACCOUNT_ID][REGION].queues[path[len(PEEK) :]]
    found = [{"body": message.body, "group": message.group_id} for message in list(queue._messages)]
    start_response("200 OK", [("content-type", "application/json")])
    return [json.dumps(found).encode()]


run_simple(sys.argv[1], int(sys.argv[2]), app, threaded=True, request_handler=MotoRequestHandler)
