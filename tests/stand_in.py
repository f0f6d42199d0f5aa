"""A small server that speaks the Redis protocol and fails as it is told: for what a real one does not
do on demand.  It has strings without expiry, in a dict."""

import socket
import socketserver
import threading
import time


class StandIn:
    """`received` has every command; `faults` what to do with the next one of a name, one after the
    other:

        "drop"   close the connection, and do nothing
        "lost"   do it, and close the connection instead of answering
        "late"   answer after `delay` seconds
        "silent" do it, and wait until the client hangs up
        "-..."   this error
    """

    delay = 1.0

    def __init__(self, version="pykv_version:1.0", appendfsync="always"):
        self.version, self.appendfsync, self.run_id = version, appendfsync, "1"
        self.data, self.received, self.faults = {}, [], {}
        self.connections = []
        self.lock = threading.RLock()

        class Server(socketserver.ThreadingTCPServer):
            daemon_threads = block_on_close = True
            allow_reuse_address = True

        stand_in = self

        class Handler(socketserver.StreamRequestHandler):
            disable_nagle_algorithm = True

            def handle(self):
                stand_in.connections.append(self.connection)
                Session(stand_in, self.rfile, self.wfile).run()

        self.server = Server(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.01,))
        self.thread.start()

    @property
    def url(self):
        return f"redis://127.0.0.1:{self.server.server_address[1]}"

    def count(self, name):
        return sum(command[0] == name for command in self.received)

    def hang_up(self):
        for connection in self.connections:
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.hang_up()
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


class Session:
    """One connection."""

    def __init__(self, stand_in, rfile, wfile):
        self.stand_in, self.rfile, self.wfile = stand_in, rfile, wfile
        self.queue = None

    def run(self):
        try:
            while command := self.read():
                name = command[0].upper().decode()
                self.stand_in.received.append([name, *command[1:]])
                pending = self.stand_in.faults.get(name)
                fault = pending.pop(0) if pending else ""
                if fault == "drop":
                    return
                if fault == "late":
                    time.sleep(self.stand_in.delay)
                reply = fault.encode() + b"\r\n" if fault[:1] == "-" else self.answer(name, command[1:])
                if fault == "silent":
                    self.rfile.read()
                if fault in ("lost", "silent"):
                    return
                self.wfile.write(reply)
        except OSError:
            pass

    def read(self):
        line = self.rfile.readline()
        command = []
        for _ in range(int(line[1:] or 0)):
            size = int(self.rfile.readline()[1:])
            command.append(self.rfile.read(size + 2)[:-2])
        return command

    def answer(self, name, arguments):
        if self.queue is not None and name != "EXEC":
            self.queue.append((name, arguments))
            return b"+QUEUED\r\n"
        method = getattr(self, "do_" + name.lower(), None)
        if method is None:
            return b"-ERR unknown command '%s', with args beginning with: \r\n" % name.encode()
        with self.stand_in.lock:
            return method(self.stand_in.data, *arguments)

    def do_multi(self, data):
        self.queue = []
        return b"+OK\r\n"

    def do_exec(self, data):
        queue, self.queue = self.queue, None
        return b"*%d\r\n" % len(queue) + b"".join(self.answer(name, arguments) for name, arguments in queue)

    def do_client(self, data, *arguments):
        return b"+OK\r\n"

    def do_info(self, data, *section):
        return bulk(f"# All\r\n{self.stand_in.version}\r\naof_enabled:1\r\nrun_id:{self.stand_in.run_id}\r\n".encode())

    def do_config(self, data, get, name):
        return array([name, self.stand_in.appendfsync.encode()])

    def do_save(self, data):
        return b"+OK\r\n"

    def do_get(self, data, key):
        return bulk(data.get(key))

    def do_mget(self, data, *keys):
        return array([data.get(key) for key in keys])

    def do_set(self, data, key, value, option=b"", expected=None):
        if option == b"NX" and key in data:
            return bulk(None)
        if option == b"IFEQ" and (self.stand_in.version[:1] == "r" or data.get(key) != expected):
            return bulk(None) if self.stand_in.version[:1] != "r" else b"-ERR syntax error\r\n"
        data[key] = value
        return b"+OK\r\n"

    def do_mset(self, data, *fields):
        data.update(zip(fields[::2], fields[1::2]))
        return b"+OK\r\n"

    def do_incrby(self, data, key, by):
        data[key] = b"%d" % (int(data.get(key, 0)) + int(by))
        return b":%s\r\n" % data[key]

    def do_del(self, data, *keys):
        return b":%d\r\n" % sum(data.pop(key, None) is not None for key in keys)

    def do_dbsize(self, data):
        return b":%d\r\n" % len(data)

    def do_flushdb(self, data):
        data.clear()
        return b"+OK\r\n"

    def do_scan(self, data, cursor, *options):
        """Two pages, and every key is in both."""
        page = array(list(data))
        return b"*2\r\n" + bulk(b"1" if cursor == b"0" else b"0") + page


def bulk(data):
    return b"$-1\r\n" if data is None else b"$%d\r\n%b\r\n" % (len(data), data)


def array(items):
    return b"*%d\r\n" % len(items) + b"".join(map(bulk, items))
