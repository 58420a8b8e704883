/* The open device sessions: one row from CONNECT to the end of the connection.
 *
 * A row is found by the broker's client pointer, by device id, and by fingerprint. While a new
 * connection takes over an id, two rows bear that id for a moment: the older one is `superseded`
 * and only its pointer finds it.
 */
#ifndef FLEETCERT_SESSIONS_H
#define FLEETCERT_SESSIONS_H

#include <stdbool.h>
#include <stdint.h>

#include <mosquitto_broker.h>
#include <uthash.h>

#include "certificate.h"

#define SESSION_ID_SIZE 33 /* 16 random bytes in hexadecimal */
#define ADDRESS_SIZE 64

struct session {
	UT_hash_handle by_client, by_name, by_fingerprint;
	const struct mosquitto *client;
	struct identity identity;
	char id[SESSION_ID_SIZE];
	char address[ADDRESS_SIZE];
	uint64_t counter;   /* of the last stamped message; `opened` is 0 */
	unsigned refusals;  /* messages refused in this session */
	uint64_t spent_us;  /* until when the device's rate is used up (see session_may_speak) */
	bool superseded;    /* a newer connection has the name */
	const char *ending; /* why the plugin closes it, or NULL */
};

/* Fills in a row (random id, address, counter 0) without keeping it; false without randomness. */
bool session_describe(struct session *session, const struct mosquitto *client,
	const struct identity *identity);

/* Keeps a copy of a described row; NULL when memory ends. */
struct session *session_open(const struct session *described);

/* Takes the row out; the caller frees it. NULL when the client has none. */
struct session *session_take(const struct mosquitto *client);

/* Tells whether a session may send a message now, at a rate per second and with a burst that a
 * silent session has saved; 0 for any rate. */
bool session_may_speak(struct session *session, unsigned rate, unsigned burst);

struct session *session_of(const struct mosquitto *client);
struct session *session_named(const char *name);
struct session *session_under(const char *fingerprint);
unsigned session_count(void);
void sessions_close(void);

#endif
