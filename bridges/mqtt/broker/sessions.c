#include "sessions.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <openssl/rand.h>

static struct session *clients, *client_ids, *fingerprints, *twins;
static struct session *newcomers; /* in the order in which they came */

void client_id_of(char client_id[CLIENT_ID_SIZE], const struct identity *identity)
{
	if (identity->newcomer)
		snprintf(client_id, CLIENT_ID_SIZE, "%c%s", NEWCOMER_MARK, identity->fingerprint);
	else
		snprintf(client_id, CLIENT_ID_SIZE, "%s", identity->name);
}

bool session_describe(struct session *session, const struct mosquitto *client,
	const struct identity *identity)
{
	unsigned char random[16];
	const char *address = client == NULL ? NULL : mosquitto_client_address(client);

	memset(session, 0, sizeof *session);
	if (RAND_bytes(random, sizeof random) != 1)
		return false;
	session->client = client;
	session->identity = *identity;
	client_id_of(session->client_id, identity);
	to_hex(session->id, random, sizeof random);
	snprintf(session->address, sizeof session->address, "%s", address == NULL ? "" : address);
	return true;
}

/* Leaves a row to be found by its client alone. */
static void supersede(struct session *session)
{
	HASH_DELETE(by_client_id, client_ids, session);
	HASH_DELETE(by_fingerprint, fingerprints, session);
	HASH_DELETE(by_twin, twins, session);
	session->superseded = true;
}

struct session *session_open(const struct session *described)
{
	struct session *opened = malloc(sizeof *opened), *older;

	if (opened == NULL)
		return NULL;
	*opened = *described;
	older = session_take(opened->client); /* a second CONNECT on one connection ends it anyway */
	free(older);
	if ((older = session_with(opened->client_id)) != NULL)
		supersede(older);
	HASH_ADD(by_client, clients, client, sizeof opened->client, opened);
	HASH_ADD(by_client_id, client_ids, client_id, strlen(opened->client_id), opened);
	HASH_ADD(by_fingerprint, fingerprints, identity.fingerprint, SHA256_HEX_SIZE - 1, opened);
	HASH_ADD(by_twin, twins, identity.twin, SHA256_HEX_SIZE - 1, opened);
	if (opened->identity.newcomer)
		HASH_ADD(by_arrival, newcomers, client, sizeof opened->client, opened);
	return opened;
}

struct session *session_take(const struct mosquitto *client)
{
	struct session *taken = session_of(client);

	if (taken == NULL)
		return NULL;
	HASH_DELETE(by_client, clients, taken);
	if (taken->identity.newcomer)
		HASH_DELETE(by_arrival, newcomers, taken);
	if (!taken->superseded)
		supersede(taken);
	return taken;
}

/* The generic cell rate algorithm: each message moves `spent` on by its share of a second, and
 * `spent` may run ahead of the clock by a burst. In microseconds: one message in 1,000,000 / rate. */
bool session_may_speak(struct session *session, unsigned rate, unsigned burst)
{
	struct timespec clock;
	uint64_t now, share, spent;

	if (rate == 0 || clock_gettime(CLOCK_MONOTONIC, &clock) != 0)
		return true;
	now = (uint64_t)clock.tv_sec * 1000000u + (uint64_t)clock.tv_nsec / 1000u;
	share = 1000000u / rate;
	spent = (session->spent_us > now ? session->spent_us : now) + share;
	if (spent - now > share * burst)
		return false;
	session->spent_us = spent;
	return true;
}

struct session *session_of(const struct mosquitto *client)
{
	struct session *found;

	HASH_FIND(by_client, clients, &client, sizeof client, found);
	return found;
}

struct session *session_with(const char *client_id)
{
	struct session *found;

	HASH_FIND(by_client_id, client_ids, client_id, strlen(client_id), found);
	return found;
}

struct session *session_under(const char *fingerprint)
{
	struct session *found;

	HASH_FIND(by_fingerprint, fingerprints, fingerprint, strlen(fingerprint), found);
	if (found == NULL || found->ending != NULL)
		HASH_FIND(by_twin, twins, fingerprint, strlen(fingerprint), found);
	return found;
}

unsigned session_count(void)
{
	return HASH_CNT(by_client, clients);
}

struct session *newcomer_first(void)
{
	return newcomers;
}

struct session *newcomer_named(const char *name)
{
	struct session *each, *next;

	HASH_ITER(by_arrival, newcomers, each, next)
		if (each->ending == NULL && strcmp(each->identity.name, name) == 0)
			return each;
	return NULL;
}

unsigned newcomer_count(void)
{
	return HASH_CNT(by_arrival, newcomers);
}

void sessions_close(void)
{
	struct session *each, *next;

	HASH_ITER(by_client, clients, each, next)
		free(session_take(each->client));
}
