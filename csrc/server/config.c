/* config.c - the rows of the configuration. */
#include "config.h"

#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>

#include "../base/mem.h"

/* ---- The table ----------------------------------------------------------------------------------------- */

typedef enum row_type {
    TEXT,     /* const char *; NULL is "" */
    PASSWORD, /* the same, under the lock */
    NUMBER16,
    NUMBER32,
    ATOMIC32,
    ATOMIC64,
    OFF64, /* ATOMIC64, where UINT64_MAX is told as -1 */
    FLAG,
    FIXED,   /* a value that is always this one: `text` */
    ELSEWHERE, /* the store's or the system's */
} row_type;

typedef struct row {
    const char *name;
    row_type type;
    size_t offset;
    const char *text; /* the default of a TEXT, the value of a FIXED */
    uint64_t number;  /* the default */
    uint64_t least, most;
    bool can_change;
} row;

#define AT(field) offsetof(kv_config, field)
#define GB (UINT64_C(1) << 30)
#define MB (UINT64_C(1) << 20)

/* name, type, field, text, number, least, most, may CONFIG SET change it */
static const row rows[] = {
    {"bind", TEXT, AT(host), "127.0.0.1", 0, 0, 0, false},
    {"port", NUMBER16, AT(port), NULL, 6379, 0, 65535, false},
    {"unixsocket", TEXT, AT(unix_path), NULL, 0, 0, 0, false},
    {"io-threads", NUMBER32, AT(threads), NULL, 1, 1, 128, false},
    {"tls-cert-file", TEXT, AT(tls_cert), NULL, 0, 0, 0, false},
    {"tls-key-file", TEXT, AT(tls_key), NULL, 0, 0, 0, false},
    {"tls-ca-cert-file", TEXT, AT(tls_ca), NULL, 0, 0, 0, false},
    {"enable-debug-command", FLAG, AT(debug_commands), NULL, 0, 0, 1, false},
    {"requirepass", PASSWORD, AT(password), NULL, 0, 0, 0, true},
    {"maxclients", ATOMIC32, AT(clients_max), NULL, 10000, 1, UINT32_MAX, true},
    {"request-args-max", ATOMIC32, AT(args_max), NULL, 1024 * 1024, 16, 1024 * 1024, true},
    {"proto-max-bulk-len", ATOMIC64, AT(bulk_max), NULL, KV_VALUE_MAX, MB, KV_VALUE_MAX, true},
    {"client-query-buffer-limit", ATOMIC64, AT(query_buffer_max), NULL, GB, MB, UINT64_MAX / 2, true},
    {"query-buffers-max", ATOMIC64, AT(query_buffers_max), NULL, 4 * GB, MB, UINT64_MAX / 2, true},
    {"output-buffer-max", ATOMIC64, AT(output_buffer_max), NULL, GB, MB, UINT64_MAX / 2, true},
    {"timeout", ATOMIC64, AT(idle_timeout_s), NULL, 0, 0, INT32_MAX, true},
    {"request-timeout", ATOMIC64, AT(request_timeout_s), NULL, 60, 0, INT32_MAX, true},
    {"unauthenticated-args-max", ATOMIC32, AT(unauthenticated_args_max), NULL, 10, 4, 1024 * 1024, true},
    {"unauthenticated-bulk-max", ATOMIC64, AT(unauthenticated_bulk_max), NULL, 16384, 512, KV_VALUE_MAX, true},
    {"slowlog-log-slower-than", OFF64, AT(slowlog_slower_than_us), NULL, 10000, 0, UINT64_MAX, true},
    {"slowlog-max-len", ATOMIC32, AT(slowlog_max_len), NULL, 128, 0, 1000000, true},

    {"maxmemory", ELSEWHERE},
    {"maxmemory-policy", ELSEWHERE},
    {"appendonly", ELSEWHERE},
    {"appendfsync", ELSEWHERE},

    /* What clients and tools ask for. */
    {"databases", FIXED, 0, "1"},
    {"save", FIXED, 0, ""},
    {"maxmemory-samples", FIXED, 0, "5"},
    {"maxmemory-clients", FIXED, 0, "0"},
    {"lfu-log-factor", FIXED, 0, "10"},
    {"lfu-decay-time", FIXED, 0, "1"},
    {"notify-keyspace-events", FIXED, 0, ""},
    {"latency-monitor-threshold", FIXED, 0, "0"},
    {"latency-tracking", FIXED, 0, "yes"},
    {"latency-tracking-info-percentiles", FIXED, 0, "50 99 99.9"},
    {"cluster-enabled", FIXED, 0, "no"},
    {"stop-writes-on-bgsave-error", FIXED, 0, "no"},
    {"no-appendfsync-on-rewrite", FIXED, 0, "no"},
    {"activedefrag", FIXED, 0, "no"},
    {"lazyfree-lazy-user-del", FIXED, 0, "no"},
    {"lazyfree-lazy-user-flush", FIXED, 0, "no"},
    {"rdbcompression", FIXED, 0, "no"},
    {"rdbchecksum", FIXED, 0, "yes"},
    {"daemonize", FIXED, 0, "no"},
    {"protected-mode", FIXED, 0, "yes"},
    {"tcp-keepalive", FIXED, 0, "300"},
    {"loglevel", FIXED, 0, "notice"},
    {"hz", FIXED, 0, "10"},
};
#define ROWS (sizeof rows / sizeof rows[0])

static pthread_mutex_t password_lock = PTHREAD_MUTEX_INITIALIZER; /* a leaf; all servers' */

static void *field(const kv_config *config, const row *r) {
    return (char *)(uintptr_t)config + r->offset;
}

static void set_number(kv_config *config, const row *r, uint64_t number) {
    void *p = field(config, r);
    switch (r->type) {
    case NUMBER16:
        *(uint16_t *)p = (uint16_t)number;
        break;
    case NUMBER32:
        *(uint32_t *)p = (uint32_t)number;
        break;
    case ATOMIC32:
        atomic_store_explicit((_Atomic uint32_t *)p, (uint32_t)number, memory_order_relaxed);
        break;
    case ATOMIC64:
    case OFF64:
        atomic_store_explicit((_Atomic uint64_t *)p, number, memory_order_relaxed);
        break;
    case FLAG:
        *(bool *)p = number != 0;
        break;
    default:
        break;
    }
}

static uint64_t get_number(const kv_config *config, const row *r) {
    void *p = field(config, r);
    switch (r->type) {
    case NUMBER16:
        return *(uint16_t *)p;
    case NUMBER32:
        return *(uint32_t *)p;
    case ATOMIC32:
        return atomic_load_explicit((_Atomic uint32_t *)p, memory_order_relaxed);
    case ATOMIC64:
    case OFF64:
        return atomic_load_explicit((_Atomic uint64_t *)p, memory_order_relaxed);
    case FLAG:
        return *(bool *)p;
    default:
        return 0;
    }
}

static bool is_text(const row *r) {
    return r->type == TEXT || r->type == PASSWORD;
}

static bool is_number(const row *r) {
    return r->type >= NUMBER16 && r->type <= FLAG;
}

/* ---- The whole ----------------------------------------------------------------------------------------- */

kv_config kv_config_default(void) {
    kv_config config;
    memset(&config, 0, sizeof config);
    for (size_t i = 0; i < ROWS; i++) {
        if (is_text(&rows[i]))
            *(const char **)field(&config, &rows[i]) = rows[i].text;
        else
            set_number(&config, &rows[i], rows[i].number);
    }
    return config;
}

static bool is_loopback(const char *host) {
    return strcmp(host, "127.0.0.1") == 0 || strcmp(host, "::1") == 0 || strcmp(host, "localhost") == 0 ||
           strncmp(host, "127.", 4) == 0;
}

kv_status kv_config_check(const kv_config *config, kv_error *err) {
    for (size_t i = 0; i < ROWS; i++) {
        if (!is_number(&rows[i]))
            continue;
        uint64_t number = get_number(config, &rows[i]);
        if (number < rows[i].least || number > rows[i].most)
            return kv_fail(err, KV_ERR_INVALID, "%s is %" PRIu64 "; it must be between %" PRIu64 " and %" PRIu64,
                           rows[i].name, number, rows[i].least, rows[i].most);
    }
    if (config->host == NULL && config->unix_path == NULL)
        return kv_fail(err, KV_ERR_INVALID, "neither a host nor a unix socket to listen on");
    if ((config->tls_cert == NULL) != (config->tls_key == NULL))
        return kv_fail(err, KV_ERR_INVALID, "a TLS certificate and its key must be given together");
    if (config->tls_ca != NULL && config->tls_cert == NULL)
        return kv_fail(err, KV_ERR_INVALID, "a TLS authority without a certificate");
    if (config->password != NULL && config->password[0] == '\0')
        return kv_fail(err, KV_ERR_INVALID, "the password is empty");
    if (config->host != NULL && !is_loopback(config->host) && config->password == NULL)
        return kv_fail(err, KV_ERR_INVALID, "listening on %s needs a password; without one only loopback is allowed",
                       config->host);
    return KV_OK;
}

static char *copy_text(const char *text, size_t size) {
    char *copy = kv_mem_alloc(size + 1);
    if (copy != NULL) {
        memcpy(copy, text, size);
        copy[size] = '\0';
    }
    return copy;
}

kv_status kv_config_copy(const kv_config *from, kv_config *to, kv_error *err) {
    *to = kv_config_default();
    for (size_t i = 0; i < ROWS; i++)
        if (is_text(&rows[i]))
            *(const char **)field(to, &rows[i]) = NULL;
        else
            set_number(to, &rows[i], get_number(from, &rows[i]));
    for (size_t i = 0; i < ROWS; i++) {
        const char *text = is_text(&rows[i]) ? *(const char **)field(from, &rows[i]) : NULL;
        if (text == NULL)
            continue;
        char *copy = copy_text(text, strlen(text));
        if (copy == NULL) {
            kv_config_free(to);
            return kv_fail_nomem(err, strlen(text) + 1);
        }
        *(const char **)field(to, &rows[i]) = copy;
    }
    return KV_OK;
}

void kv_config_free(kv_config *config) {
    for (size_t i = 0; i < ROWS; i++) {
        if (!is_text(&rows[i]))
            continue;
        const char **text = field(config, &rows[i]);
        kv_mem_free((void *)(uintptr_t)*text);
        *text = NULL;
    }
}

/* ---- The password -------------------------------------------------------------------------------------- */

bool kv_config_has_password(kv_config *config) {
    pthread_mutex_lock(&password_lock);
    bool has = config->password != NULL;
    pthread_mutex_unlock(&password_lock);
    return has;
}

bool kv_config_is_password(kv_config *config, kv_bytes password) {
    const uint8_t *given = password.data;
    pthread_mutex_lock(&password_lock);
    const char *wanted = config->password != NULL ? config->password : "";
    size_t size = strlen(wanted);
    /* Looks at every byte that was given, whatever the others were. */
    volatile uint8_t difference = size == password.size && config->password != NULL ? 0 : 1;
    for (size_t i = 0; i < password.size; i++)
        difference |= given[i] ^ (uint8_t)wanted[size > 0 ? i % size : 0];
    pthread_mutex_unlock(&password_lock);
    return difference == 0;
}

/* ---- Rows ---------------------------------------------------------------------------------------------- */

size_t kv_config_row_count(void) {
    return ROWS;
}

const char *kv_config_row_name(size_t row) {
    return rows[row].name;
}

bool kv_config_row_get(kv_config *config, size_t index, char value[KV_CONFIG_VALUE_SIZE]) {
    const row *r = &rows[index];
    value[0] = '\0';
    if (r->type == ELSEWHERE)
        return false;
    if (r->type == FIXED) {
        (void)snprintf(value, KV_CONFIG_VALUE_SIZE, "%s", r->text);
    } else if (is_text(r)) {
        pthread_mutex_lock(&password_lock);
        const char *text = *(const char **)field(config, r);
        (void)snprintf(value, KV_CONFIG_VALUE_SIZE, "%s", text != NULL ? text : "");
        pthread_mutex_unlock(&password_lock);
    } else if (r->type == FLAG) {
        (void)snprintf(value, KV_CONFIG_VALUE_SIZE, "%s", get_number(config, r) != 0 ? "yes" : "no");
    } else if (r->type == OFF64 && get_number(config, r) == UINT64_MAX) {
        (void)snprintf(value, KV_CONFIG_VALUE_SIZE, "-1");
    } else {
        (void)snprintf(value, KV_CONFIG_VALUE_SIZE, "%" PRIu64, get_number(config, r));
    }
    return true;
}

static const row *find_row(kv_bytes name) {
    for (size_t i = 0; i < ROWS; i++) {
        const char *p = rows[i].name;
        size_t k = 0;
        while (k < name.size && p[k] != '\0' &&
               (((const uint8_t *)name.data)[k] | (p[k] >= 'a' && p[k] <= 'z' ? 0x20 : 0)) == (uint8_t)p[k])
            k++;
        if (k == name.size && p[k] == '\0')
            return &rows[i];
    }
    return NULL;
}

/* Digits with a unit behind them, as in "100mb"; a negative number is UINT64_MAX: "off" where that is allowed, too
 * large elsewhere. */
static bool parse_number(const row *r, kv_bytes value, uint64_t *number) {
    static const struct {
        const char *unit;
        uint64_t factor;
    } units[] = {{"", 1},        {"b", 1},         {"k", 1000},        {"kb", 1024},
                 {"m", 1000000}, {"mb", 1 << 20}, {"g", 1000000000}, {"gb", UINT64_C(1) << 30}};
    const char *p = value.data;
    if (value.size > 1 && p[0] == '-') {
        *number = UINT64_MAX;
        for (size_t k = 1; k < value.size; k++)
            if (p[k] < '0' || p[k] > '9')
                return false;
        return true;
    }
    uint64_t n = 0;
    size_t i = 0;
    for (; i < value.size && p[i] >= '0' && p[i] <= '9'; i++) {
        unsigned digit = (unsigned)(p[i] - '0');
        if (n > (UINT64_MAX - digit) / 10)
            return false;
        n = n * 10 + digit;
    }
    if (i == 0)
        return false;
    char unit[3] = "";
    if (value.size - i >= sizeof unit)
        return false;
    for (size_t k = 0; i + k < value.size; k++)
        unit[k] = (char)(p[i + k] | 0x20);
    for (size_t k = 0; k < sizeof units / sizeof units[0]; k++) {
        if (strcmp(unit, units[k].unit) != 0 || (k > 0 && r->type != ATOMIC64))
            continue;
        if (n > UINT64_MAX / units[k].factor)
            return false;
        *number = n * units[k].factor;
        return true;
    }
    return false;
}

static kv_status set_password(kv_config *config, kv_bytes value, bool dry, kv_error *err) {
    if (value.size > 512 || (value.size > 0 && memchr(value.data, '\0', value.size) != NULL))
        return kv_fail(err, KV_ERR_INVALID, "argument must be at most 512 bytes, without NUL");
    if (value.size == 0 && config->host != NULL && !is_loopback(config->host))
        return kv_fail(err, KV_ERR_INVALID, "without a password only loopback is allowed");
    if (dry)
        return KV_OK;
    char *copy = NULL;
    if (value.size > 0) {
        copy = copy_text(value.data, value.size);
        if (copy == NULL)
            return kv_fail_nomem(err, value.size + 1);
    }
    pthread_mutex_lock(&password_lock);
    const char *old = config->password;
    config->password = copy;
    pthread_mutex_unlock(&password_lock);
    kv_mem_free((void *)(uintptr_t)old);
    return KV_OK;
}

kv_status kv_config_row_set(kv_config *config, kv_bytes name, kv_bytes value, bool dry, kv_error *err) {
    const row *r = find_row(name);
    if (r == NULL)
        return KV_NOTFOUND;
    if (r->type == PASSWORD)
        return set_password(config, value, dry, err);
    if (r->type == FIXED && value.size == strlen(r->text) &&
        (value.size == 0 || memcmp(value.data, r->text, value.size) == 0))
        return KV_OK; /* it is so already */
    if (!r->can_change)
        return kv_fail(err, KV_ERR_INVALID, "can't set immutable config");
    uint64_t number;
    if (!parse_number(r, value, &number))
        return kv_fail(err, KV_ERR_INVALID, "argument couldn't be parsed into an integer");
    if (number < r->least || number > r->most)
        return kv_fail(err, KV_ERR_INVALID, "argument must be between %" PRIu64 " and %" PRIu64 " inclusive", r->least,
                       r->most);
    if (!dry)
        set_number(config, r, number);
    return KV_OK;
}
