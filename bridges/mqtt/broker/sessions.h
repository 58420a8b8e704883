/* The open sessions of devices and newcomers: one row from CONNECT to the end of the connection.
 *
 * A row is found by the broker's client pointer, by client id, and by fingerprint: that of its
 * certificate or of the certificate's twin. While a new connection takes over a client id, two rows
 * bear it for a moment: the older one is `superseded` and only its pointer finds it. A device's
 * client id is its name; a newcomer's is that of its certificate, so that it takes nobody's session,
 * whatever it names itself.
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
#define NEWCOMER_MARK '~' /* begins a newcomer's client id and user name; no device id can */
#define CLIENT_ID_SIZE (1 + SHA256_HEX_SIZE)

struct session {
	UT_hash_handle by_client, by_client_id, by_fingerprint, by_twin, by_arrival;
	const struct mosquitto *client;
	struct identity identity;
	char client_id[CLIENT_ID_SIZE];
	char id[SESSION_ID_SIZE];
	char address[ADDRESS_SIZE];
	uint64_t counter;   /* of the last stamped message; `opened` is 0 */
	unsigned refusals;  /* messages refused in this session */
	uint64_t spent_us;  /* until when the device's rate is used up (see session_may_speak) */
	bool superseded;    /* a newer connection has the client id */
	bool presented;     /* a newcomer's certificate has been told */
	const char *ending; /* why the plugin closes it, or NULL */
};

/* Writes the client id that a device or a newcomer must connect with. */
void client_id_of(char client_id[CLIENT_ID_SIZE], const struct identity *identity);

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
struct session *session_with(const char *client_id);
struct session *session_under(const char *fingerprint); /* rather one that is not ending */
unsigned session_count(void);

/* Newcomers: the one that came first, one of this name that is not ending, and how many. */
struct session *newcomer_first(void);
struct session *newcomer_named(const char *name);
unsigned newcomer_count(void);
void sessions_close(void);

#endif
