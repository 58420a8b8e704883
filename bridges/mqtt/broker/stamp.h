/* The stamp: what the broker knows of the session that sent a message, under an HMAC.
 *
 * It travels as one MQTT 5 user property, `fleetcert-stamp`: certificate, client, session, address,
 * counter and mac, separated by spaces, which none of them can hold. `mac` is the HMAC-SHA256, in
 * hexadecimal, over all that stands before it, a space, the payload's size, a newline, the topic
 * as the device wrote it, a newline, and the payload. stamp.py is its reader.
 */
#ifndef FLEETCERT_STAMP_H
#define FLEETCERT_STAMP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <mosquitto.h>

#define USER_PROPERTIES_MAX 32u /* of the device's own, on one PUBLISH */
#define SECRET_SIZE_MIN 32
#define SECRET_SIZE_MAX 4096
#define SHA256_HEX_SIZE 65

struct stamp {
	const char *certificate; /* SHA-256 of the DER, 64 lower-case hexadecimal digits */
	const char *client;
	const char *session;
	uint64_t counter;
	const char *address;
	const char *topic; /* as the device wrote it */
};

/* Reads the secret; on failure writes why into `error`. */
bool stamp_open(const char *secret_path, char *error, size_t error_size);

void stamp_close(void);

/* FNV-1a, 32 bits, of an id, modulo `buckets`. */
uint32_t bucket_of(const char *id, uint32_t buckets);

void to_hex(char *hex, const unsigned char *bytes, size_t count);

/* Removes every user property whose name begins with `fleetcert-`.
 * Returns MOSQ_ERR_SUCCESS, MOSQ_ERR_ACL_DENIED (too many user properties) or MOSQ_ERR_NOMEM. */
int stamp_remove(mosquitto_property **properties);

/* Adds a stamp; returns MOSQ_ERR_SUCCESS or another MOSQ_ERR_*. */
int stamp_add(mosquitto_property **properties, const struct stamp *stamp, const void *payload,
	size_t payload_size);

#endif
