"""
Moto for tests: `aws-server.py <host> <port> [closed]`. The server as it is, with these differences: an answer leaves at
once (its own waits for Nagle's timer on a connection that is kept); a queue does not count all its messages several times
for each that is added (it says how many there are, in flight or not); GET /millrace-test/queue/<name> shows what is in a
queue without taking it out; and where it is started closed it answers 503 to all but the bench, until GET
/millrace-test/open.
"""

import json
import sys

from moto.core import DEFAULT_ACCOUNT_ID
from moto.server import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
from moto.sqs.models import Queue, sqs_backends
from werkzeug.serving import run_simple

OPEN = "/millrace-test/open"
BENCH = "millrace-bench"
PEEK = "/millrace-test/queue/"
REGION = "us-east-1"

MotoRequestHandler.disable_nagle_algorithm = True
Queue.approximate_number_of_messages = property(lambda queue: len(queue._messages))
Queue.approximate_number_of_messages_delayed = property(lambda queue: 0)
Queue.approximate_number_of_messages_not_visible = property(lambda queue: 0)

moto = DomainDispatcherApplication(create_backend_app)
closed = sys.argv[3:] == ["closed"]


def app(environ, start_response):
    global closed
    path = environ["PATH_INFO"]
    if path == OPEN:
        closed = False
        start_response("200 OK", [])
        return [b""]
    if closed and BENCH not in environ.get("HTTP_USER_AGENT", ""):
        start_response("503 Service Unavailable", [])
        return [b""]
    if not path.startswith(PEEK):
        return moto(environ, start_response)
    queue = sqs_backends[DEFAULT_ACCOUNT_ID][REGION].queues[path[len(PEEK) :]]
    found = [{"body": message.body, "group": message.group_id} for message in list(queue._messages)]
    start_response("200 OK", [("content-type", "application/json")])
    return [json.dumps(found).encode()]


run_simple(sys.argv[1], int(sys.argv[2]), app, threaded=True, request_handler=MotoRequestHandler)
