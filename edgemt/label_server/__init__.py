"""`edgemt serve-labels`: masks of a ship for label tools, over HTTP on this machine.

`protocols` has what Label Studio and CVAT send and get, `server` the HTTP server.
"""
