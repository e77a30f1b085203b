"""A process for tests of dev.fuzz; a file of its own, so that it starts without jax."""


def serve(connection, kind, seed):
    connection.send("ready")
    while number := connection.recv() + 1:
        if number == 1:
            connection.send(("accepted", 0.1, 0))
        elif number == 3:
            raise SystemExit(7)
