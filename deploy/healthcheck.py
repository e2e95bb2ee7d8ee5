"""Exit 0 if the vault in this container is alive. With client certificates (CDV_TLS_CLIENT_CA) it need only accept."""

import http
import http.client
import os
import socket
import ssl
import sys

TIMEOUT_SECONDS = 4  # less than that of the HEALTHCHECK, so that it is we who say what is wrong

port = int(os.environ.get("CDV_PORT") or os.environ.get("PORT") or 8080)
if os.environ.get("CDV_TLS_CLIENT_CA"):
    socket.create_connection(("127.0.0.1", port), TIMEOUT_SECONDS).close()
    sys.exit(0)
connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_SECONDS)
if os.environ.get("CDV_TLS_CERT"):
    # We ask ourselves: whose certificate that is, is for others to check.
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    connection = http.client.HTTPSConnection("127.0.0.1", port, timeout=TIMEOUT_SECONDS, context=context)
connection.request("GET", "/healthz")
sys.exit(connection.getresponse().status != http.HTTPStatus.OK)
