# For scripts to source.

# A free port that the system gives to no outgoing connection by chance.
free_port() {
    python3 -c '
import random, socket
while True:
    port = random.randrange(12000, 32000)
    try:
        socket.socket().bind(("127.0.0.1", port))
        break
    except OSError:
        pass
print(port)'
}
