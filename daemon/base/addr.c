/* SPDX-License-Identifier: Apache-2.0 */
/* TCP addresses as people write them. Layer L0. */
#include "base/addr.h"

#include <arpa/inet.h>
#include <string.h>
#include <strings.h>

/* 0..65535 in plain digits. */
static int parse_port(const char *s, uint16_t *ret)
{
	unsigned port = 0;
	if (!*s || strlen(s) > 5)
		return -EINVAL;
	for (; *s; s++) {
		if (*s < '0' || *s > '9')
			return -EINVAL;
		port = port * 10 + (unsigned)(*s - '0');
	}
	if (port > UINT16_MAX)
		return -EINVAL;
	*ret = (uint16_t)port;
	return 0;
}

/* A host name or a dotted IPv4 address. */
static bool name_ok(const char *s)
{
	static const char ok[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-_";
	struct in_addr v4;
	if (s[strspn(s, "0123456789.")] == '\0') /* all digits and dots: then it must be an address */
		return inet_pton(AF_INET, s, &v4) == 1;
	return s[strspn(s, ok)] == '\0' && s[0] != '-' && s[0] != '.';
}

int ex_addr_parse(const char *text, struct ex_err *err, struct ex_addr *ret)
{
	struct ex_addr a = {.port = 0};
	struct in6_addr v6;
	bool bracket = text[0] == '[';
	const char *host = text + bracket, *end = bracket ? strchr(host, ']') : strrchr(text, ':');
	if (!end || (bracket && end[1] != ':'))
		return ex_err_set(err, -EINVAL, "'%s' has no port: HOST:PORT or [IPv6]:PORT is wanted", text);
	size_t n = (size_t)(end - host);
	if (n == 0 || n >= sizeof a.host)
		return ex_err_set(err, -EINVAL, "'%s': the host has %zu characters, 1 to %zu are allowed", text, n,
			sizeof a.host - 1);
	memcpy(a.host, host, n);
	if (parse_port(end + (bracket ? 2 : 1), &a.port) < 0)
		return ex_err_set(
			err, -EINVAL, "'%s': '%s' is not a port from 0 to 65535", text, end + (bracket ? 2 : 1));
	if (bracket && inet_pton(AF_INET6, a.host, &v6) != 1)
		return ex_err_set(err, -EINVAL, "'%s': '%s' is not an IPv6 address", text, a.host);
	if (!bracket && strchr(a.host, ':'))
		return ex_err_set(err, -EINVAL, "'%s': an IPv6 address is written in brackets, as in [::1]:7101", text);
	if (!bracket && !name_ok(a.host))
		return ex_err_set(err, -EINVAL, "'%s': '%s' is neither an IPv4 address nor a host name", text, a.host);
	*ret = a;
	return 0;
}

enum ex_scheme ex_addr_scheme(const char *text, const char **ret_rest)
{
	static const char *const begin[] = {[EX_SCHEME_HTTP] = "http://", [EX_SCHEME_HTTPS] = "https://"};
	*ret_rest = text;
	for (enum ex_scheme s = EX_SCHEME_HTTP; s <= EX_SCHEME_HTTPS; s++)
		if (strncasecmp(text, begin[s], strlen(begin[s])) == 0) {
			*ret_rest = text + strlen(begin[s]);
			return s;
		}
	return EX_SCHEME_NONE;
}

bool ex_addr_is_loopback(const struct ex_addr *a)
{
	struct in_addr v4;
	struct in6_addr v6;
	if (strcasecmp(a->host, "localhost") == 0)
		return true;
	if (inet_pton(AF_INET, a->host, &v4) == 1)
		return (ntohl(v4.s_addr) >> 24) == IN_LOOPBACKNET;
	return inet_pton(AF_INET6, a->host, &v6) == 1 && IN6_IS_ADDR_LOOPBACK(&v6);
}

static bool is_wildcard(const char *host)
{
	struct in_addr v4;
	struct in6_addr v6;
	if (inet_pton(AF_INET, host, &v4) == 1)
		return v4.s_addr == INADDR_ANY;
	return inet_pton(AF_INET6, host, &v6) == 1 && IN6_IS_ADDR_UNSPECIFIED(&v6);
}

/* One host written in two ways: another case, another spelling of IPv6, localhost. */
static bool same_host(const char *a, const char *b)
{
	struct in6_addr x, y;
	if (strcasecmp(a, b) == 0)
		return true;
	if (strcasecmp(b, "localhost") == 0)
		return same_host(b, a);
	if (strcasecmp(a, "localhost") == 0)
		return strcmp(b, "127.0.0.1") == 0 || (inet_pton(AF_INET6, b, &x) == 1 && IN6_IS_ADDR_LOOPBACK(&x));
	return inet_pton(AF_INET6, a, &x) == 1 && inet_pton(AF_INET6, b, &y) == 1 && IN6_ARE_ADDR_EQUAL(&x, &y);
}

bool ex_addr_clash(const struct ex_addr *a, const struct ex_addr *b)
{
	if (a->port != b->port || a->port == 0)
		return false;
	return same_host(a->host, b->host) || is_wildcard(a->host) || is_wildcard(b->host);
}
