"""The methods of the wire, one module per group. Each handler is one function (see `atrio_server.calls`)."""
