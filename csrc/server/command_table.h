/* command_table.h - the rows of the table of commands (command.c), by subject.
 *
 * X(name, arity, flags, first key, last key, key step, function, step, group, since, summary)
 *
 * Whoever includes it defines X; so it has no guard, and is empty without X.
 */
#ifdef X

#define W KV_CMD_WRITE
#define R KV_CMD_READONLY
#define OOM KV_CMD_DENYOOM
#define FAST KV_CMD_FAST
#define ADMIN KV_CMD_ADMIN
#define NOAUTH KV_CMD_NO_AUTH
#define NOMULTI KV_CMD_NO_MULTI
#define NOW KV_CMD_IN_MULTI
#define SUB KV_CMD_SUBSCRIBED
#define PUBSUB KV_CMD_PUBSUB
#define LOADING KV_CMD_LOADING
#define UNTOLD KV_CMD_NO_SLOWLOG
#define F(name) kv_cmd_##name
#define S(name) kv_step_##name

/* strings */
X("get", 2, R | FAST, 1, 1, 1, F(get), S(get), "string", "1.0.0", "The value of a key.")
X("set", -3, W | OOM, 1, 1, 1, F(set), S(set), "string", "1.0.0",
  "Sets a key to a value, under conditions and with an expiry if asked.")
X("setnx", 3, W | OOM | FAST, 1, 1, 1, F(setnx), S(setnx), "string", "1.0.0", "Sets a key that is not there.")
X("setex", 4, W | OOM, 1, 1, 1, F(setex), S(setex), "string", "2.0.0", "Sets a key with an expiry in seconds.")
X("psetex", 4, W | OOM, 1, 1, 1, F(psetex), S(psetex), "string", "2.6.0", "Sets a key with an expiry in milliseconds.")
X("getset", 3, W | OOM | FAST, 1, 1, 1, NULL, S(getset), "string", "1.0.0", "Sets a key and tells what it was.")
X("getdel", 2, W | FAST, 1, 1, 1, NULL, S(getdel), "string", "6.2.0", "Deletes a key and tells what it was.")
X("getex", -2, W | FAST, 1, 1, 1, NULL, S(getex), "string", "6.2.0",
  "The value of a key, whose expiry may be changed by the way.")
X("mget", -2, R | FAST, 1, -1, 1, F(mget), S(mget), "string", "1.0.0", "The values of several keys at one moment.")
X("mset", -3, W | OOM, 1, -1, 2, F(mset), S(mset), "string", "1.0.1", "Sets several keys in one step.")
X("msetnx", -3, W | OOM, 1, -1, 2, NULL, S(msetnx), "string", "1.0.1",
  "Sets several keys in one step, if none of them is there.")
X("append", 3, W | OOM | FAST, 1, 1, 1, NULL, S(append), "string", "2.0.0", "Appends to the value of a key.")
X("strlen", 2, R | FAST, 1, 1, 1, F(strlen), S(strlen), "string", "2.2.0", "The size of a value in bytes.")
X("getrange", 4, R, 1, 1, 1, NULL, S(getrange), "string", "2.4.0", "A part of a value.")
X("substr", 4, R, 1, 1, 1, NULL, S(getrange), "string", "1.0.0", "A part of a value (the old name of GETRANGE).")
X("setrange", 4, W | OOM, 1, 1, 1, NULL, S(setrange), "string", "2.2.0", "Overwrites a part of a value.")
X("incr", 2, W | OOM | FAST, 1, 1, 1, F(incr), S(incr), "string", "1.0.0", "Adds one to an integer.")
X("decr", 2, W | OOM | FAST, 1, 1, 1, F(decr), S(decr), "string", "1.0.0", "Takes one from an integer.")
X("incrby", 3, W | OOM | FAST, 1, 1, 1, F(incrby), S(incrby), "string", "1.0.0", "Adds to an integer.")
X("decrby", 3, W | OOM | FAST, 1, 1, 1, F(decrby), S(decrby), "string", "1.0.0", "Takes from an integer.")
X("incrbyfloat", 3, W | OOM | FAST, 1, 1, 1, NULL, S(incrbyfloat), "string", "2.6.0", "Adds to a decimal number.")
X("lcs", -3, R, 1, 2, 1, NULL, S(lcs), "string", "7.0.0", "The longest common subsequence of two values.")
X("delifeq", 3, W | FAST, 1, 1, 1, NULL, S(delifeq), "string", "7.2.4", "Deletes a key if it has this value.")

/* bits */
X("setbit", 4, W | OOM, 1, 1, 1, NULL, S(setbit), "bitmap", "2.2.0", "Sets one bit of a value and tells what it was.")
X("getbit", 3, R | FAST, 1, 1, 1, NULL, S(getbit), "bitmap", "2.2.0", "One bit of a value.")
X("bitcount", -2, R, 1, 1, 1, NULL, S(bitcount), "bitmap", "2.6.0", "How many bits of a value are set.")
X("bitpos", -3, R, 1, 1, 1, NULL, S(bitpos), "bitmap", "2.8.7", "The first bit that is set, or that is not.")
X("bitop", -4, W | OOM, 2, -1, 1, NULL, S(bitop), "bitmap", "2.6.0",
  "AND, OR, XOR or NOT of values, stored under a key.")
X("bitfield", -2, W | OOM, 1, 1, 1, NULL, S(bitfield), "bitmap", "3.2.0",
  "Reads and changes integers of any width inside a value.")
X("bitfield_ro", -2, R | FAST, 1, 1, 1, NULL, S(bitfield_ro), "bitmap", "6.0.0",
  "Reads integers of any width inside a value.")

/* keys */
X("del", -2, W, 1, -1, 1, F(del), S(del), "generic", "1.0.0", "Deletes keys.")
X("unlink", -2, W | FAST, 1, -1, 1, F(del), S(del), "generic", "4.0.0", "Deletes keys.")
X("exists", -2, R | FAST, 1, -1, 1, F(exists), S(exists), "generic", "1.0.0", "How many of the keys are there.")
X("touch", -2, R | FAST, 1, -1, 1, NULL, S(touch), "generic", "3.2.1",
  "How many of the keys are there; counts as a use of them.")
X("type", 2, R | FAST, 1, 1, 1, NULL, S(type), "generic", "1.0.0", "What kind of value a key has.")
X("keys", 2, R, 0, 0, 0, F(keys), NULL, "generic", "1.0.0", "All keys that match a pattern.")
X("scan", -2, R, 0, 0, 0, F(scan), NULL, "generic", "2.8.0", "A walk over all keys, a few at a time.")
X("randomkey", 1, R, 0, 0, 0, F(randomkey), NULL, "generic", "1.0.0", "Some key.")
X("dbsize", 1, R | FAST, 0, 0, 0, F(dbsize), S(dbsize), "server", "1.0.0", "How many keys there are.")
X("rename", 3, W, 1, 2, 1, NULL, S(rename), "generic", "1.0.0", "Gives a key another name.")
X("renamenx", 3, W | FAST, 1, 2, 1, NULL, S(renamenx), "generic", "1.0.0",
  "Gives a key another name that is not taken.")
X("copy", -3, W | OOM, 1, 2, 1, NULL, S(copy), "generic", "6.2.0", "Copies a value to another key.")
X("move", 3, W | FAST, 1, 1, 1, F(move), NULL, "generic", "1.0.0",
  "Moves a key to another database (there is one only).")
X("flushdb", -1, W, 0, 0, 0, F(flushall), S(flushall), "server", "1.0.0", "Deletes all keys.")
X("flushall", -1, W, 0, 0, 0, F(flushall), S(flushall), "server", "1.0.0", "Deletes all keys.")
X("dump", 2, R, 1, 1, 1, NULL, S(dump), "generic", "2.6.0", "A value in serialized form.")
X("restore", -4, W | OOM, 1, 1, 1, NULL, S(restore), "generic", "2.6.0", "Makes a key from a value in serialized form.")
X("object", -2, R, 2, 2, 1, NULL, S(object), "generic", "2.2.3", "How a value is kept.")
X("memory", -2, R, 0, 0, 0, NULL, S(memory), "server", "4.0.0", "What takes how much memory.")

/* expiry */
X("expire", -3, W | FAST, 1, 1, 1, F(expire), S(expire), "generic", "1.0.0", "Lets a key expire after so many seconds.")
X("pexpire", -3, W | FAST, 1, 1, 1, NULL, S(pexpire), "generic", "2.6.0",
  "Lets a key expire after so many milliseconds.")
X("expireat", -3, W | FAST, 1, 1, 1, NULL, S(expireat), "generic", "1.2.0",
  "Lets a key expire at a moment, in seconds since 1970.")
X("pexpireat", -3, W | FAST, 1, 1, 1, NULL, S(pexpireat), "generic", "2.6.0",
  "Lets a key expire at a moment, in milliseconds since 1970.")
X("ttl", 2, R | FAST, 1, 1, 1, NULL, S(ttl), "generic", "1.0.0", "The seconds until a key expires.")
X("pttl", 2, R | FAST, 1, 1, 1, NULL, S(pttl), "generic", "2.6.0", "The milliseconds until a key expires.")
X("expiretime", 2, R | FAST, 1, 1, 1, NULL, S(expiretime), "generic", "7.0.0",
  "When a key expires, in seconds since 1970.")
X("pexpiretime", 2, R | FAST, 1, 1, 1, NULL, S(pexpiretime), "generic", "7.0.0",
  "When a key expires, in milliseconds since 1970.")
X("persist", 2, W | FAST, 1, 1, 1, NULL, S(persist), "generic", "2.2.0", "Lets a key never expire.")

/* transactions */
X("multi", 1, FAST | LOADING | NOW, 0, 0, 0, F(multi), NULL, "transactions", "1.2.0",
  "Begins a transaction: what follows is queued.")
X("exec", 1, LOADING | NOW | UNTOLD, 0, 0, 0, F(exec), NULL, "transactions", "1.2.0",
  "Runs what was queued as one step.")
X("discard", 1, FAST | LOADING | NOW, 0, 0, 0, F(discard), NULL, "transactions", "2.0.0", "Forgets what was queued.")
X("watch", -2, FAST | LOADING | NOW, 1, -1, 1, F(watch), NULL, "transactions", "2.2.0",
  "Lets the next transaction fail if one of these keys changes.")
X("unwatch", 1, FAST | LOADING, 0, 0, 0, F(unwatch), NULL, "transactions", "2.2.0", "Forgets the watched keys.")

/* publish and subscribe */
X("publish", 3, PUBSUB | FAST | LOADING, 0, 0, 0, F(publish), NULL, "pubsub", "2.0.0", "Sends a message to a channel.")
X("subscribe", -2, PUBSUB | LOADING | SUB, 0, 0, 0, F(subscribe), NULL, "pubsub", "2.0.0", "Listens to channels.")
X("unsubscribe", -1, PUBSUB | LOADING | SUB, 0, 0, 0, F(unsubscribe), NULL, "pubsub", "2.0.0",
  "Listens to channels no more.")
X("psubscribe", -2, PUBSUB | LOADING | SUB, 0, 0, 0, F(psubscribe), NULL, "pubsub", "2.0.0",
  "Listens to all channels that match patterns.")
X("punsubscribe", -1, PUBSUB | LOADING | SUB, 0, 0, 0, F(punsubscribe), NULL, "pubsub", "2.0.0",
  "Listens to patterns no more.")
X("pubsub", -2, PUBSUB | LOADING, 0, 0, 0, F(pubsub), NULL, "pubsub", "2.8.0", "Looks at channels and who listens.")

/* connection */
X("ping", -1, FAST | SUB, 0, 0, 0, F(ping), NULL, "connection", "1.0.0", "Answers PONG, or what it was given.")
X("echo", 2, FAST, 0, 0, 0, F(echo), NULL, "connection", "1.0.0", "Answers what it was given.")
X("hello", -1, NOAUTH | FAST | LOADING | UNTOLD, 0, 0, 0, F(hello), S(hello), "connection", "6.0.0",
  "Chooses the protocol, and authenticates if asked.")
X("auth", -2, NOAUTH | FAST | LOADING | UNTOLD, 0, 0, 0, F(auth), NULL, "connection", "1.0.0",
  "Authenticates the connection.")
X("select", 2, FAST | LOADING, 0, 0, 0, F(select), NULL, "connection", "1.0.0",
  "Chooses a database (there is one only).")
X("quit", -1, NOAUTH | FAST | LOADING | NOW | SUB, 0, 0, 0, F(quit), NULL, "connection", "1.0.0",
  "Closes the connection.")
X("reset", 1, NOAUTH | FAST | LOADING | NOW | SUB, 0, 0, 0, F(reset), NULL, "connection", "6.2.0",
  "Makes the connection as it was in the beginning.")
X("client", -2, LOADING, 0, 0, 0, F(client), NULL, "connection", "2.4.0", "Looks at connections and changes them.")
X("readonly", 1, FAST | LOADING, 0, 0, 0, F(readonly), NULL, "cluster", "3.0.0",
  "Does nothing (for clients of clusters).")
X("readwrite", 1, FAST | LOADING, 0, 0, 0, F(readonly), NULL, "cluster", "3.0.0",
  "Does nothing (for clients of clusters).")

/* server */
X("command", -1, LOADING, 0, 0, 0, F(command), NULL, "server", "2.8.13", "What commands there are.")
X("config", -2, ADMIN | LOADING | UNTOLD, 0, 0, 0, F(config), NULL, "server", "2.0.0",
  "Reads and changes the configuration.")
X("info", -1, LOADING, 0, 0, 0, F(info), NULL, "server", "1.0.0", "What the server is and has done.")
X("time", 1, FAST | LOADING, 0, 0, 0, F(time), NULL, "server", "2.6.0", "The server's clock.")
X("save", 1, ADMIN | NOMULTI, 0, 0, 0, F(save), NULL, "server", "1.0.0", "Makes a checkpoint, and waits for it.")
X("bgsave", -1, ADMIN | NOMULTI, 0, 0, 0, F(bgsave), NULL, "server", "1.0.0", "Makes a checkpoint in the background.")
X("bgrewriteaof", 1, ADMIN | NOMULTI, 0, 0, 0, F(bgrewriteaof), NULL, "server", "1.0.0",
  "Makes a checkpoint in the background, which lets the log before it go.")
X("lastsave", 1, FAST | LOADING, 0, 0, 0, F(lastsave), NULL, "server", "1.0.0", "When the last checkpoint was made.")
X("debug", -2, ADMIN | LOADING, 0, 0, 0, F(debug), NULL, "server", "1.0.0", "For tests.")
X("shutdown", -1, ADMIN | LOADING | NOMULTI, 0, 0, 0, F(shutdown), NULL, "server", "1.0.0", "Stops the server.")
X("slowlog", -2, ADMIN | LOADING, 0, 0, 0, F(slowlog), NULL, "server", "2.2.12", "Requests that took long.")
X("latency", -2, ADMIN | LOADING, 0, 0, 0, F(latency), NULL, "server", "2.8.13", "How long commands take.")
X("lolwut", -1, R | FAST, 0, 0, 0, F(lolwut), NULL, "server", "5.0.0", "The version.")
X("wait", 3, 0, 0, 0, 0, F(wait), NULL, "generic", "3.0.0", "Waits for replicas (there are none).")
X("waitaof", 4, 0, 0, 0, 0, F(waitaof), NULL, "generic", "7.2.0", "Waits until what was written is on disk.")
X("role", 1, FAST | LOADING, 0, 0, 0, F(role), NULL, "server", "2.8.12", "The role in replication.")
X("replicaof", 3, ADMIN | NOMULTI, 0, 0, 0, F(replicaof), NULL, "server", "5.0.0", "Of another server: not supported.")
X("slaveof", 3, ADMIN | NOMULTI, 0, 0, 0, F(replicaof), NULL, "server", "1.0.0", "Of another server: not supported.")
X("swapdb", 3, W | FAST, 0, 0, 0, F(swapdb), NULL, "server", "4.0.0", "Swaps two databases (there is one only).")
X("acl", -2, LOADING, 0, 0, 0, F(acl), NULL, "server", "6.0.0", "Users (there is one only).")
X("module", -2, ADMIN, 0, 0, 0, F(module), NULL, "server", "4.0.0", "Modules (there are none).")
X("function", -2, 0, 0, 0, 0, F(function), NULL, "scripting", "7.0.0", "Functions (there are none).")
X("script", -2, 0, 0, 0, 0, F(script), NULL, "scripting", "2.6.0", "Scripts (there are none).")
X("cluster", -2, 0, 0, 0, 0, F(cluster), NULL, "cluster", "3.0.0", "Clusters: not supported.")

#undef W
#undef R
#undef OOM
#undef FAST
#undef ADMIN
#undef NOAUTH
#undef NOMULTI
#undef NOW
#undef SUB
#undef PUBSUB
#undef LOADING
#undef UNTOLD
#undef F
#undef S

#endif
