/* test_glob.c - patterns: the rules, and a plain recursive matcher that must say the same. */
#include "check.h"

#include "server/glob.h"

static bool match(const char *pattern, const char *text, bool nocase) {
    /* Blocks of their own: the sanitizer sees every byte too far. */
    size_t pattern_size = strlen(pattern), text_size = strlen(text);
    char *p = malloc(pattern_size > 0 ? pattern_size : 1), *t = malloc(text_size > 0 ? text_size : 1);
    memcpy(p, pattern, pattern_size);
    memcpy(t, text, text_size);
    bool result = kv_glob_match((kv_bytes){p, pattern_size}, (kv_bytes){t, text_size}, nocase);
    free(p);
    free(t);
    return result;
}

static void test_rules(void) {
    static const struct {
        const char *pattern, *text;
        bool matches, nocase;
    } cases[] = {
        {"", "", true}, {"", "a", false}, {"a", "", false}, {"*", "", true}, {"**", "", true},
        {"*", "abc", true}, {"?", "", false}, {"?", "a", true}, {"?", "ab", false},
        {"h?llo", "hello", true}, {"h*llo", "heeeello", true}, {"h*llo", "hllo", true},
        {"h*llo", "hllp", false}, {"a*b*c", "aXbYc", true}, {"a*b*c", "aXcYb", false},
        {"*b", "ab", true}, {"*b", "ba", false}, {"*ab", "aab", true}, {"a*", "a", true},
        {"a*?", "a", false}, {"a*?", "ab", true}, {"*?*?*", "a", false}, {"*?*?*", "ab", true},
        {"h[ae]llo", "hello", true}, {"h[ae]llo", "hillo", false}, {"h[^e]llo", "hallo", true},
        {"h[^e]llo", "hello", false}, {"h[a-b]llo", "hbllo", true}, {"h[a-b]llo", "hcllo", false},
        {"[b-a]", "a", true}, {"[a-]", "-", false}, {"[a-]", "a", true}, {"[-a]", "-", true},
        {"[]", "]", false}, {"[]", "a", false}, {"[]a]", "a]", false}, {"[^]", "a", true},
        {"[^]", "", false}, {"[abc", "b", true}, {"[abc", "d", false}, {"[", "a", false},
        {"[^", "a", true}, {"[\\]]", "]", true}, {"[\\]]", "\\", false}, {"[\\-a]", "-", true},
        {"[\\", "\\", true}, {"[a\\", "\\", true}, {"a\\*b", "a*b", true}, {"a\\*b", "axb", false},
        {"\\?", "?", true}, {"\\?", "a", false}, {"\\[a]", "[a]", true}, {"\\\\", "\\", true},
        {"a\\", "a\\", true}, {"a\\", "a", false}, {"\\a", "a", true},
        {"A", "a", false}, {"A", "a", true, true}, {"a", "A", true, true},
        {"[A-C]x", "bX", true, true}, {"[a-c]", "B", true, true}, {"[a-c]", "B", false},
        {"\\A", "a", true, true}, {"[\\A]", "a", true, true}, {"[^A]", "a", false, true},
        {"[", "[", false}, {"\xc4", "\xe4", false, true}, {"\xff?", "\xff\x80", true},
        {"*[0-9]", "key:7", true}, {"*[0-9]", "key:", false}, {"*[^a]b", "aaab", false},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        if (match(cases[i].pattern, cases[i].text, cases[i].nocase) != cases[i].matches)
            FAIL("%s on %s%s: not %d", cases[i].pattern, cases[i].text,
                 cases[i].nocase ? ", any case" : "", cases[i].matches);
    CHECK(kv_glob_match((kv_bytes){NULL, 0}, (kv_bytes){NULL, 0}, false));
    CHECK(kv_glob_match((kv_bytes){"*", 1}, (kv_bytes){NULL, 0}, false));
    CHECK(!kv_glob_match((kv_bytes){NULL, 0}, (kv_bytes){"a", 1}, false));
    CHECK(kv_glob_match((kv_bytes){"a?\0*", 4}, (kv_bytes){"a\0\0b", 4}, false));
    CHECK(!kv_glob_match((kv_bytes){"a\0c", 3}, (kv_bytes){"a\0b", 3}, false));
}

/* Many stars on a long text end soon: a matcher that tries all ways would not. */
static void test_many_stars(void) {
    enum { SIZE = 20000 };
    char *text = malloc(SIZE + 1);
    memset(text, 'a', SIZE);
    text[SIZE] = '\0';
    CHECK(!match("a*a*a*a*a*a*a*a*a*a*a*a*a*a*a*a*b", text, false));
    CHECK(!match("*a*a*a*[b]*a*?*\\a*a*a*a*a*a*a*a*a*b", text, false));
    CHECK(match("a*a*a*a*a*a*a*a*a*a*a*a*a*a*a*a*a", text, false));
    char *pattern = malloc(SIZE + 1);
    memset(pattern, '*', SIZE);
    pattern[SIZE] = '\0';
    CHECK(match(pattern, text, false));
    for (size_t i = 0; i < SIZE; i += 2)
        pattern[i] = 'a';
    CHECK(match(pattern, text, false));
    pattern[SIZE - 1] = 'b';
    CHECK(!match(pattern, text, false));
    free(pattern);
    free(text);
}

/* ---- A plain matcher ---------------------------------------------------------------------------------- */

static int lower(int c) {
    return c >= 'A' && c <= 'Z' ? c + 32 : c;
}

static bool plain(const char *p, const char *t, bool nocase) {
    int (*as)(int) = lower, c = nocase ? lower((uint8_t)*t) : (uint8_t)*t;
    if (*p == '\0')
        return *t == '\0';
    if (*p == '*')
        return plain(p + 1, t, nocase) || (*t != '\0' && plain(p, t + 1, nocase));
    if (*t == '\0')
        return false;
    if (*p == '?')
        return plain(p + 1, t + 1, nocase);
    if (*p != '[') {
        p += *p == '\\' && p[1] != '\0';
        return c == (nocase ? as((uint8_t)*p) : (uint8_t)*p) && plain(p + 1, t + 1, nocase);
    }
    bool inverted = *++p == '^', found = false;
    for (p += inverted; *p != '\0' && *p != ']'; p++) {
        int from, to;
        if (*p == '\\' && p[1] != '\0') {
            from = to = (uint8_t)*++p;
        } else if (p[1] == '-' && p[2] != '\0') {
            from = (uint8_t)p[0], to = (uint8_t)p[2];
            p += 2;
        } else {
            from = to = (uint8_t)*p;
        }
        from = nocase ? as(from) : from, to = nocase ? as(to) : to;
        found |= (from <= c && c <= to) || (to <= c && c <= from);
    }
    return found != inverted && plain(*p != '\0' ? p + 1 : p, t + 1, nocase);
}

static void test_random(void) {
    static const char pattern_bytes[] = "aabAB**?[]^-\\", text_bytes[] = "aabbABc-]\\[";
    check_random random = random_stream(0);
    unsigned matched = 0;
    for (int round = 0; round < 300000; round++) {
        char pattern[10], text[10];
        size_t pattern_size = random_below(&random, 9), text_size = random_below(&random, 8);
        for (size_t i = 0; i < pattern_size; i++)
            pattern[i] = pattern_bytes[random_below(&random, sizeof pattern_bytes - 1)];
        for (size_t i = 0; i < text_size; i++)
            text[i] = text_bytes[random_below(&random, sizeof text_bytes - 1)];
        pattern[pattern_size] = text[text_size] = '\0';
        bool nocase = random_below(&random, 2), wanted = plain(pattern, text, nocase);
        if (match(pattern, text, nocase) != wanted)
            FAIL("%s on %s (any case: %d): not %d", pattern, text, nocase, wanted);
        matched += wanted;
    }
    CHECK(matched > 1000);
}

CHECK_MAIN(TEST(test_rules), TEST(test_many_stars), TEST(test_random))
